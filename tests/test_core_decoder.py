"""Proves: the decoder of data2vec 2.0 is that of reference 4.6, product by product."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from d2v.core.decoder import Decoder, DecoderSettings
from d2v.types import Mask
from tests.maths_case import normal, seeded, shaken, tail_padding

DIM, VIEWS = 8, 2
GRIDS = {"line": (None, 7), "square": ((3, 3), 9), "oblong": ((2, 4), 8)}
"""Rows and columns, and how many tokens."""
CASES: dict[str, dict[str, Any]] = {
    "plain": {"layers": 1, "groups": 1},
    "deep": {"layers": 3, "groups": 4},
    "wide kernel": {"layers": 2, "kernel": 5, "groups": 2},
    "narrow": {"layers": 3, "width": 4, "groups": 2},
    "wide": {"layers": 2, "width": 16, "groups": 8},
    "no residual": {"layers": 3, "residual": False, "groups": 1},
    "two projections": {"layers": 2, "width": 16, "projection_layers": 2, "groups": 4},
    "point": {"layers": 2, "kernel": 1, "groups": 1},
}


def built(grid: tuple[int, int] | None, **changes: Any) -> Decoder:
    decoder = Decoder(DecoderSettings(**{"noise_std": 0.0, **changes}), DIM, grid).double()
    shaken(decoder)
    return decoder


def ragged(num_tokens: int, padding: Tensor | None = None) -> Mask:
    """Three places shown in the first view, two in the second."""
    predict = torch.ones(VIEWS, num_tokens, dtype=torch.bool)
    predict[0, [0, 2, 3]] = False
    predict[1, [1, 4]] = False
    if padding is not None:
        predict &= ~padding
    return Mask.of(predict).with_visible(padding)


class Slow:
    """The same with loops over places and channels, and a count of its multiplications."""

    def __init__(self, decoder: Decoder, grid: tuple[int, int] | None, num_tokens: int) -> None:
        self.decoder, self.grid = decoder, grid or (1, num_tokens)
        self.reach = [(0, decoder.settings.kernel)[grid is not None], decoder.settings.kernel]
        self.multiplications = 0

    def convolved(self, number: int, x: Tensor) -> Tensor:
        """Layer `number` of one view, (T, C) to (T, W); what lies outside counts as zero."""
        rows, columns = self.grid
        weight, bias = (self.decoder.convolutions[number].get_parameter(name).detach()
                        for name in ("weight", "bias"))  # fmt: skip
        wide, of_group = weight.shape[:2]
        out = torch.zeros(len(x), wide, dtype=torch.float64)
        for row, column, channel in itertools.product(range(rows), range(columns), range(wide)):
            first = channel // (wide // self.decoder.settings.groups) * of_group
            total = bias[channel].clone()
            for i, j in itertools.product(*(range(size) for size in weight.shape[2:])):
                at, to = row + i - weight.shape[2] // 2, column + j - weight.shape[3] // 2
                self.multiplications += of_group
                if 0 <= at < rows and 0 <= to < columns:
                    seen = x[at * columns + to, first : first + of_group]
                    total += sum(a * b for a, b in zip(weight[channel, :, i, j], seen, strict=True))
            out[row * columns + column, channel] = total
        return out

    def linear(self, number: int, x: Tensor) -> Tensor:
        layer = self.decoder.projections[number]
        weight, bias = layer.get_parameter("weight").detach(), layer.get_parameter("bias").detach()
        self.multiplications += len(x) * weight.numel()
        return torch.stack([weight @ row + bias for row in x])

    def view(self, shown: dict[int, Tensor], num_tokens: int, padded: set[int]) -> Tensor:
        """(T, D) of one view, from place -> token; noise is off."""
        x = torch.zeros(num_tokens, DIM, dtype=torch.float64)
        for place, token in shown.items():
            x[place] = token
        for number in range(self.decoder.settings.layers):
            for place in padded:
                x[place] = 0
            y = self.convolved(number, x)
            for place, row in enumerate(y):
                scale = math.sqrt(float(row.var(correction=0)) + 1e-5)
                y[place] = gelu((row - row.mean()) / scale)
            same = self.decoder.settings.residual and y.shape == x.shape
            x = x + y if same else y
        *first, last = range(self.decoder.settings.projection_layers)
        for number in first:
            x = gelu(self.linear(number, x))
        return self.linear(last, x)


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("case", CASES)
def test_decoder__equals_nested_loops(case: str, grid: str, padded: bool) -> None:
    shape, num_tokens = GRIDS[grid]
    padding = tail_padding([num_tokens, 5], num_tokens) if padded else None
    decoder, mask = built(shape, **CASES[case]), ragged(num_tokens, padding)
    assert mask.visible is not None
    x = normal(0, VIEWS, mask.visible.shape[1], DIM)
    with torch.no_grad():
        found = decoder(x, mask, padding)
    assert found.shape == (VIEWS, num_tokens, DIM)
    for view, places in enumerate(([0, 2, 3], [1, 4])):
        slow = Slow(decoder, shape, num_tokens)
        empty = set() if padding is None else set(padding[view].nonzero().flatten().tolist())
        expected = slow.view(dict(zip(places, x[view], strict=False)), num_tokens, empty)
        kept = [place for place in range(num_tokens) if place not in empty]
        torch.testing.assert_close(found[view, kept], expected[kept], rtol=1e-8, atol=1e-9)
        assert decoder.flops(num_tokens, DIM) == 2 * slow.multiplications


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("case", CASES)
def test_flops__are_those_that_torch_counts(case: str, grid: str) -> None:
    shape, num_tokens = GRIDS[grid]
    decoder, mask = built(shape, **CASES[case]), ragged(num_tokens)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        decoder(normal(0, VIEWS, 3, DIM), mask, None)
    assert counted.get_total_flops() == VIEWS * decoder.flops(num_tokens, DIM)


def test_padding__may_hold_anything() -> None:
    decoder, padding = built(None, layers=3, groups=2, noise_std=0.1), tail_padding([7, 5], 7)
    mask, x = ragged(7, padding), normal(0, VIEWS, 3, DIM)
    found = []
    for value in (0.0, 1e9):
        torch.manual_seed(0)
        given = x.clone()
        given[1, 2] = value  # behind the two tokens that the second view shows
        found.append(decoder(given, mask, padding))
    assert torch.equal(found[0][~padding], found[1][~padding])


def test_dropout__acts_on_what_the_encoder_gives_and_not_on_the_noise() -> None:
    """Reference 4.6: dropout, then noise for what is masked."""
    decoder = built(None, layers=1, groups=1, kernel=1, input_dropout=0.5, noise_std=0.01)
    mask, x = ragged(7), torch.ones(VIEWS, 3, DIM, dtype=torch.float64)
    seen: list[Tensor] = []
    decoder.convolutions[0].register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    torch.manual_seed(0)
    decoder.train()(x, mask, None)
    rows = seen[0].squeeze(2).transpose(1, 2)  # (N, T, D)
    assert set(rows[0, [0, 2, 3]].flatten().tolist()) == {0.0, 2.0}
    assert rows[0, [1, 4, 5, 6]].abs().min() > 0
    assert rows[0, [1, 4, 5, 6]].abs().max() < 0.06
    decoder.eval()(x, mask, None)
    assert set(seen[1].squeeze(2).transpose(1, 2)[0, [0, 2, 3]].flatten().tolist()) == {1.0}


def test_gradients__reach_every_weight_and_every_visible_token() -> None:
    decoder, mask = built((3, 3), **CASES["two projections"]), ragged(9)
    x = normal(0, VIEWS, 3, DIM).requires_grad_()
    decoder(x, mask, None).square().sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().sum(2) > 0).tolist() == [[True, True, True], [True, True, False]]
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.any(), name


def test_initialise__draws_as_torch_does_from_its_generator_alone() -> None:
    decoder = Decoder(DecoderSettings(layers=2, groups=4, width=64), 32, (3, 3))
    state = torch.get_rng_state()
    decoder.initialise(seeded(0))
    assert torch.equal(torch.get_rng_state(), state)
    inputs = {"convolutions.0": 32 // 4 * 9, "convolutions.1": 64 // 4 * 9, "projections.0": 64}
    for name, count in inputs.items():
        bound = 1 / math.sqrt(count)
        for kind in ("weight", "bias"):
            drawn = decoder.get_parameter(f"{name}.{kind}")
            assert 0.9 * bound < float(drawn.detach().abs().max()) <= bound
            assert abs(float(drawn.detach().mean())) < 0.2 * bound


@torch.no_grad()
def test_projection_std__is_how_the_projection_starts_and_nothing_else() -> None:
    plain, asked = (
        Decoder(DecoderSettings(layers=2, groups=4, projection_layers=2, **more), 64, None)
        for more in ({}, {"projection_std": 0.02})
    )
    plain.initialise(seeded(0))
    asked.initialise(seeded(0))
    for mine, theirs in zip(asked.convolutions, plain.convolutions, strict=True):
        assert torch.equal(mine.get_parameter("weight"), theirs.get_parameter("weight"))
    for projection in asked.projections:
        assert float(projection.get_parameter("weight").std()) == pytest.approx(0.02, rel=0.05)
        assert float(projection.get_parameter("bias").abs().max()) == 0


def test_width__is_the_encoders_unless_told() -> None:
    assert Decoder(DecoderSettings(groups=4), 32, None).width == 32
    assert Decoder(DecoderSettings(groups=4, width=8), 32, None).width == 8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"groups": 16}, ["objective.decoder.groups 16", "encoder.dim 8", "divide"]),
        ({"groups": 8, "width": 12}, ["groups 8", "width 12"]),
        ({"kernel": 4, "groups": 1}, ["kernel", "odd"]),
    ],
)
def test_settings__that_do_not_fit_are_refused(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError, match=words[0]) as raised:
        Decoder(DecoderSettings(**changes), DIM, None)
    assert all(word in str(raised.value) for word in words), str(raised.value)
