"""Proves: a student that reads what is visible alone attends as if masked keys were left out.

Gathering and scattering are checked against loops, in float64.
"""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from d2v.core.alibi import Alibi
from d2v.core.visible import fill_masked, keep_visible
from d2v.types import Mask, Tokens
from tests.maths_case import normal, seeded, shaken, tail_padding, tiny_encoder

SAMPLES, VIEWS, LENGTH, DIM, HEADS, BLOCKS = 2, 3, 7, 12, 2, 3
TOTAL = SAMPLES * VIEWS
PADDING = tail_padding([7, 4], LENGTH)
BIASES = {
    "none": None,
    "shared": (1, HEADS),
    "sample": (SAMPLES, HEADS),
    "block": (BLOCKS, 1, HEADS),
    "block-sample": (BLOCKS, SAMPLES, HEADS),
}
"""Shape of the bias in front of its two axes of tokens; of rows that are views, see `tokens_of`."""


def drawn_mask(padding: Tensor | None, *, even: bool, seed: int = 0) -> Mask:
    """Three masked tokens in each view, or another number in each; at most all but one."""
    order = torch.rand(TOTAL, LENGTH, generator=seeded(seed))
    real = torch.full((TOTAL, 1), LENGTH)
    if padding is not None:
        per_view = padding.repeat_interleave(VIEWS, dim=0)
        order = order.masked_fill(per_view, 2)
        real = (~per_view).sum(1, keepdim=True)
    wanted = torch.tensor([[3]] * TOTAL) if even else torch.tensor([[1], [5], [2], [3], [1], [4]])
    predict = order.argsort(1).argsort(1) < torch.minimum(wanted, real - 1)
    return Mask.of(predict).with_visible(padding)


def tokens_of(bias: str, padding: Tensor | None, num_prefix: int, rows: int) -> Tokens:
    """Arbitrary tokens and bias; `rows`: samples, or views."""
    shape: Any = BIASES[bias]
    length = num_prefix + LENGTH
    if shape is not None:
        shape = [rows if size == SAMPLES and n < len(shape) - 1 else size
                 for n, size in enumerate(shape)]  # fmt: skip
    padded = None
    if padding is not None:
        per_row = padding.repeat_interleave(rows // SAMPLES, dim=0)
        padded = torch.cat([torch.zeros(rows, num_prefix, dtype=torch.bool), per_row], dim=1)
    return Tokens(
        values=normal(1, rows, length, DIM),
        padding=padded,
        attention_bias=None if shape is None else normal(2, *shape, length, length),
        num_prefix=num_prefix,
    )


def shown(mask: Mask, padding: Tensor | None, view: int) -> list[int]:
    """The places that a view shows."""
    return [
        place
        for place in range(LENGTH)
        if not mask.predict[view, place]
        and not (padding is not None and padding[view // VIEWS, place])
    ]


CASES = list(
    itertools.product(("samples", "views"), (0, 2), BIASES, (None, PADDING), (True, False))
)


@pytest.mark.parametrize(("rows", "num_prefix", "bias", "padding", "even"), CASES)
def test_keep_visible__gathers_tokens_and_biases_as_loops_do(
    rows: str, num_prefix: int, bias: str, padding: Tensor | None, even: bool
) -> None:
    num_rows = SAMPLES if rows == "samples" else TOTAL
    tokens, mask = tokens_of(bias, padding, num_prefix, num_rows), drawn_mask(padding, even=even)
    kept = keep_visible(tokens, mask)
    assert kept.num_prefix == num_prefix
    width = max(len(shown(mask, padding, view)) for view in range(TOTAL))
    assert kept.values.shape == (TOTAL, num_prefix + width, DIM)
    for view in range(TOTAL):
        row = view // VIEWS if rows == "samples" else view
        places = [*range(num_prefix), *(num_prefix + p for p in shown(mask, padding, view))]
        for slot, place in enumerate(places):
            assert torch.equal(kept.values[view, slot], tokens.values[row, place])
        empty = [] if kept.padding is None else kept.padding[view].nonzero().flatten().tolist()
        assert empty == list(range(len(places), num_prefix + width))
        if tokens.attention_bias is not None:
            assert kept.attention_bias is not None
            both = kept.attention_bias.movedim(-4, 0), tokens.attention_bias.movedim(-4, 0)
            found, given = both[0][view], both[1][row if len(both[1]) > 1 else 0]
            for (i, one), (j, other) in itertools.product(enumerate(places), repeat=2):
                assert torch.equal(found[..., i, j], given[..., one, other])
        else:
            assert kept.attention_bias is None
    if padding is None and even:
        assert kept.padding is None, "nothing is padded that need not be"


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("padding", [None, PADDING], ids=["whole", "padded"])
@pytest.mark.parametrize("num_prefix", [0, 1])
@pytest.mark.parametrize("bias", ["none", "alibi", "shared", "sample", "block", "block-sample"])
def test_encoder__of_visible_tokens_is_that_of_all_without_the_masked_keys(
    bias: str, num_prefix: int, padding: Tensor | None, even: bool
) -> None:
    """What is masked is told to the encoder as padding: every key of it is left out."""
    encoder = tiny_encoder()
    plain = "none" if bias == "alibi" else bias
    tokens, mask = tokens_of(plain, padding, num_prefix, TOTAL), drawn_mask(padding, even=even)
    if bias == "alibi":
        alibi = Alibi(HEADS).double()
        shaken(alibi)
        between = alibi(num_prefix + LENGTH)
        tokens = Tokens(values=tokens.values, padding=tokens.padding, attention_bias=between,
                        num_prefix=num_prefix)  # fmt: skip
    unseen = torch.cat([torch.zeros(TOTAL, num_prefix, dtype=torch.bool), mask.predict], dim=1)
    if tokens.padding is not None:
        unseen = unseen | tokens.padding
    whole = Tokens(values=tokens.values, padding=unseen, attention_bias=tokens.attention_bias,
                   num_prefix=num_prefix)  # fmt: skip
    full, few = encoder(whole).last, encoder(keep_visible(tokens, mask)).last
    for view in range(TOTAL):
        places = [*range(num_prefix), *(num_prefix + p for p in shown(mask, padding, view))]
        torch.testing.assert_close(few[view, : len(places)], full[view, places], rtol=0, atol=1e-6)


def test_keep_visible__hands_gradients_back_to_the_tokens_that_it_showed() -> None:
    tokens, mask = tokens_of("shared", PADDING, 1, SAMPLES), drawn_mask(PADDING, even=False)
    values = tokens.values.requires_grad_()
    kept = keep_visible(tokens, mask)
    assert kept.padding is not None
    kept.values[~kept.padding].sum().backward()
    assert values.grad is not None
    for sample, place in itertools.product(range(SAMPLES), range(LENGTH)):
        views = range(sample * VIEWS, (sample + 1) * VIEWS)
        count = sum(place in shown(mask, PADDING, view) for view in views)
        assert set(values.grad[sample, 1 + place].tolist()) == {float(count)}
    assert set(values.grad[:, 0].flatten().tolist()) == {float(VIEWS)}, "a prefix is in every view"


# The way back


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("padding", [None, PADDING], ids=["whole", "padded"])
def test_fill_masked__puts_every_token_back_and_noise_elsewhere(
    padding: Tensor | None, even: bool
) -> None:
    mask = drawn_mask(padding, even=even)
    assert mask.visible is not None
    x = normal(4, TOTAL, mask.visible.shape[1], DIM).requires_grad_()
    torch.manual_seed(0)
    full = fill_masked(x, mask, noise_std=0.01)
    assert full.shape == (TOTAL, LENGTH, DIM)
    expected = torch.zeros_like(x)
    for view in range(TOTAL):
        places = shown(mask, padding, view)
        for slot, place in enumerate(places):
            assert torch.equal(full[view, place], x[view, slot])
            expected[view, slot] = 1
        hidden = [place for place in range(LENGTH) if place not in places]
        assert full[view, hidden].abs().max() < 0.06, "noise alone, nothing of the sample"
        assert full[view, hidden].abs().min() > 0
    (gradient,) = torch.autograd.grad(full.sum(), x)
    assert torch.equal(gradient, expected)


def test_fill_masked__draws_fresh_noise_of_the_asked_deviation() -> None:
    predict = torch.ones(4, 200, dtype=torch.bool)
    predict[:, 0] = False
    mask, x = Mask.of(predict).with_visible(None), torch.zeros(4, 1, 50, dtype=torch.float64)
    torch.manual_seed(0)
    one, two = (fill_masked(x, mask, noise_std=0.01) for _ in range(2))
    torch.manual_seed(0)
    assert torch.equal(fill_masked(x, mask, noise_std=0.01), one), "from the generator of dropout"
    assert not torch.equal(one, two)
    for noise in (one[:, 1:], two[:, 1:]):
        assert float(noise.std()) == pytest.approx(0.01, rel=0.02)
        assert abs(float(noise.mean())) < 2e-4
    assert float(one[0].flatten() @ one[1].flatten()) < 0.05, "every view has its own"
    assert not fill_masked(x, mask, noise_std=0)[:, 1:].any()
