"""Proves: token masks are the reference's, in distribution and draw by draw (section 2.3).

The loss covers every place that the mask chose, whatever the student reads there (P23).
"""

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from d2v.core.masking import token_spans
from d2v.modalities.text.masks import MaskSettings, token_masks
from d2v.modalities.text.tokenizer import TokenizerSettings
from d2v.types import Batch, Mask
from tests.maths_case import seeded, tail_padding

DRAWS = 2000
SMALL = TokenizerSettings(size=300, bos_id=0, pad_id=1, eos_id=2, unk_id=7, mask_id=40)
"""Special ids with ordinary ones between them."""
PAPER = {"ratio": 0.15, "span": 1, "random_rate": 0.1, "keep_rate": 0.1}


def slow_spans(
    num_tokens: int, ratio: float, length: int, generator: torch.Generator
) -> list[bool]:
    """Steps 1 to 3 of the reference place by place, fed with the same draws; then our rule."""
    u = float(torch.rand((), generator=generator))
    n = math.floor(ratio * num_tokens / length + u)
    order = torch.randperm(num_tokens, generator=generator).tolist()
    masked = [False] * num_tokens
    for start in order[:n]:
        for place in range(start, start + length):
            if place < num_tokens:
                masked[place] = True
    if not any(masked):
        masked[order[0]] = True
    if all(masked) and num_tokens > 1:
        masked[int(torch.randint(num_tokens, (), generator=generator))] = False
    return masked


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 7, 61])
@pytest.mark.parametrize(("ratio", "length"), [(0.35, 4), (0.15, 1), (0.99, 3), (0.9, 1), (0.5, 9)])
def test_spans__equal_the_reference_draw_by_draw(
    num_tokens: int, ratio: float, length: int
) -> None:
    for seed in range(60):
        fast = token_spans(num_tokens, ratio=ratio, length=length, generator=seeded(seed))
        assert fast.tolist() == slow_spans(num_tokens, ratio, length, seeded(seed)), seed


@pytest.mark.parametrize("num_tokens", [2, 3, 4, 9])
@pytest.mark.parametrize(("ratio", "length"), [(0.01, 1), (0.35, 4), (0.999, 4), (0.999, 1)])
def test_spans__of_short_samples_mask_one_token_at_least_and_never_all(
    num_tokens: int, ratio: float, length: int
) -> None:
    generator = seeded(0)
    for _ in range(200):
        masked = token_spans(num_tokens, ratio=ratio, length=length, generator=generator)
        assert 1 <= int(masked.sum()) < num_tokens


def expected_coverage(num_tokens: int, ratio: float, length: int) -> float:
    """Exact mean share: a place is free when none of the starts that reach it is drawn."""
    mean = ratio * num_tokens / length
    shares = []
    for n, weight in ((math.floor(mean), 1 - mean % 1), (math.floor(mean) + 1, mean % 1)):
        for place in range(num_tokens):
            reaching = min(length, place + 1)
            free = math.comb(num_tokens - reaching, n) / math.comb(num_tokens, n)
            shares.append(weight * (1 - free) / num_tokens)
    return math.fsum(shares)


@pytest.mark.parametrize(("ratio", "length", "figure"), [(0.35, 4, 0.307), (0.15, 1, 0.15)])
def test_spans__cover_the_references_share(ratio: float, length: int, figure: float) -> None:
    generator = seeded(1)
    draws = [token_spans(512, ratio=ratio, length=length, generator=generator)
             for _ in range(DRAWS)]  # fmt: skip
    share = float(torch.stack(draws).double().mean())
    exact = expected_coverage(512, ratio, length)
    assert exact == pytest.approx(figure, abs=0.001)
    assert share == pytest.approx(exact, abs=0.0005)
    assert MaskSettings(ratio=ratio, span=length).num_masked(512) == pytest.approx(
        512 * share, abs=1
    )


def test_spans__mask_the_first_and_the_last_token_too() -> None:
    generator = seeded(2)
    draws = torch.stack(
        [token_spans(40, ratio=0.15, length=1, generator=generator) for _ in range(DRAWS)]
    )
    rate = draws.double().mean(0)
    assert float((rate - 0.15).abs().max()) < 5 * math.sqrt(0.15 * 0.85 / DRAWS)


# What the student reads


def ids(num: int, length: int, seed: int = 5) -> Tensor:
    return torch.randint(SMALL.size, (num, length), generator=seeded(seed))


def draw(batch: Batch, seeds: range, **changes: Any) -> Mask:
    return token_masks(batch, MaskSettings(**changes), SMALL, [seeded(s) for s in seeds])


def slow_reading(
    tokens: list[int], settings: MaskSettings, generator: torch.Generator
) -> tuple[list[bool], list[int]]:
    """One sample, place by place, fed with the same draws."""
    hidden = slow_spans(len(tokens), settings.ratio, settings.span, generator)
    places = [i for i, h in enumerate(hidden) if h]
    read = list(tokens)
    ordinary = [token for token in range(SMALL.size) if token not in SMALL.special_ids]
    chance = torch.rand(len(places), generator=generator).tolist()
    random = torch.randint(len(ordinary), (len(places),), generator=generator).tolist()
    for place, u, r in zip(places, chance, random, strict=True):
        if u < settings.keep_rate:
            continue
        read[place] = ordinary[r] if u < settings.keep_rate + settings.random_rate else SMALL.mask
    return hidden, read


@pytest.mark.parametrize(
    "changes", [PAPER, {"random_rate": 0.5, "keep_rate": 0.4}, {"random_rate": 1.0}]
)
def test_replacement__equals_the_slow_twin_on_ragged_samples(changes: dict[str, float]) -> None:
    lengths = [23, 4, 17, 2]
    batch = Batch(inputs=ids(4, 23), padding=tail_padding(lengths, 23))
    mask = draw(batch, range(4), **changes)
    assert mask.replacement is not None
    for row, length in enumerate(lengths):
        tokens = batch.inputs[row, :length].tolist()
        settings = MaskSettings.model_validate(changes)
        hidden, read = slow_reading(tokens, settings, seeded(row))
        assert mask.predict[row, :length].tolist() == hidden
        assert mask.replacement[row, :length].tolist() == read


def test_replacement__is_the_mask_token_alone_by_default() -> None:
    batch = Batch(inputs=ids(3, 64))
    mask = draw(batch, range(3))
    assert mask.replacement is not None
    assert torch.equal(mask.replacement, batch.inputs.masked_fill(mask.predict, SMALL.mask))
    assert not torch.equal(mask.replacement, batch.inputs)


def test_replacement__of_the_paper_is_80_10_10_and_all_of_it_is_predicted() -> None:
    batch = Batch(inputs=torch.full((400, 200), 100))
    mask = draw(batch, range(400), **PAPER)
    assert mask.replacement is not None
    chosen = mask.replacement[mask.predict]
    shares = {
        "mask": float((chosen == SMALL.mask).double().mean()),
        "kept": float((chosen == 100).double().mean()),
    }
    error = 5 * math.sqrt(0.1 * 0.9 / len(chosen))
    assert shares["mask"] == pytest.approx(0.8, abs=error * 4 / 3)
    assert shares["kept"] == pytest.approx(0.1 + 0.1 / 295, abs=error)
    assert len(chosen) == pytest.approx(400 * 30, rel=0.01), "P23: kept and random ones count"
    assert torch.equal(mask.replacement[~mask.predict], batch.inputs[~mask.predict])


def test_random_tokens__are_uniform_over_all_but_the_special_ones() -> None:
    batch = Batch(inputs=torch.full((300, 500), SMALL.pad_id))
    mask = draw(batch, range(300), ratio=0.9, span=1, random_rate=1.0)
    assert mask.replacement is not None
    counts = mask.replacement[mask.predict].bincount(minlength=SMALL.size)
    assert len(counts) == SMALL.size
    assert int(counts[list(SMALL.special_ids)].sum()) == 0
    ordinary = counts[[t for t in range(SMALL.size) if t not in SMALL.special_ids]].double()
    assert float((ordinary - ordinary.mean()).abs().max()) < 5 * float(ordinary.mean().sqrt())


@pytest.mark.parametrize("changes", [{}, PAPER, {"ratio": 0.99, "span": 50}])
def test_masks__never_cover_padding_and_predict_something_everywhere(
    changes: dict[str, float],
) -> None:
    lengths = [1, 2, 3, 5, 30, 64]
    padding = tail_padding(lengths, 64)
    batch = Batch(inputs=ids(6, 64).masked_fill(padding, SMALL.pad_id), padding=padding)
    for first in range(0, 60, 6):
        mask = draw(batch, range(first, first + 6), **changes)
        assert mask.replacement is not None
        assert not (mask.predict & padding).any()
        assert torch.equal(mask.replacement[padding], batch.inputs[padding])
        masked = mask.predict.sum(1)
        assert int(masked.min()) >= 1
        assert bool((masked[1:] < torch.tensor(lengths[1:])).all()), "something to predict from"
        assert torch.equal(mask.positions, mask.predict.flatten().nonzero().squeeze(1))


def test_masks__depend_on_each_samples_generator_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    batch = Batch(inputs=ids(2, 50))
    both = draw(batch, range(3, 5), **PAPER)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is not touched"
    alone = draw(Batch(inputs=batch.inputs[1:]), range(4, 5), **PAPER)
    assert both.replacement is not None
    assert alone.replacement is not None
    assert torch.equal(both.predict[1:], alone.predict)
    assert torch.equal(both.replacement[1:], alone.replacement)
    assert torch.equal(batch.inputs, ids(2, 50)), "the batch stays as it is"


@pytest.mark.parametrize(
    "changes", [{"random_rate": 0.6, "keep_rate": 0.5}, {"ratio": 0}, {"ratio": 1}, {"span": 0}]
)
def test_settings__nonsense_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        MaskSettings.model_validate(changes)
