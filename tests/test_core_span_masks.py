"""Proves: span masks are the reference's (section 2.2), in distribution and draw by draw."""

import math

import pytest
import torch
from torch import Tensor

from d2v.core.masking import span_mask, trim_to_same_count
from d2v.modalities.speech.masks import MaskSettings, span_masks
from tests.maths_case import seeded

DRAWS = 2000


def draw(num_tokens: int, generator: torch.Generator, ratio: float = 0.65, length: int = 10,
         min_spans: int = 1) -> Tensor:  # fmt: skip
    return span_mask(
        num_tokens, ratio=ratio, length=length, min_spans=min_spans, generator=generator
    )


def slow_mask(
    sz: int, p: float, length: int, min_spans: int, generator: torch.Generator
) -> set[int]:
    """Steps 1 to 4 of the reference, fed with the same random numbers, and the two deviations."""
    u = float(torch.rand((), generator=generator))
    n = max(min_spans, math.floor(p * sz / length + u))
    upper = sz - length
    if upper <= n:
        upper = n + 1
    starts = torch.randperm(upper, generator=generator).tolist()[:n]
    places = {start + j for start in starts for j in range(length)}
    places = {place for place in places if place < sz}
    if not places:
        return {int(torch.randint(sz, (), generator=generator))}
    if len(places) == sz and sz > 1:
        places.remove(int(torch.randint(sz, (), generator=generator)))
    return places


def expected_coverage(sz: int, p: float, length: int) -> float:
    """Exact share of masked tokens: which of the equally likely sets of starts miss a token."""
    whole = math.floor(p * sz / length)
    chance = p * sz / length - whole
    places = sz - length
    share = 0.0
    for n, weight in ((whole, 1 - chance), (whole + 1, chance)):
        for token in range(sz):
            covering = sum(1 for start in range(places) if start <= token < start + length)
            missed = math.comb(places - covering, n) / math.comb(places, n)
            share += weight * (1 - missed) / sz
    return share


@pytest.mark.parametrize(
    ("num_tokens", "ratio", "length", "min_spans"),
    [(500, 0.65, 10, 1), (49, 0.65, 10, 2), (37, 0.3, 4, 1), (12, 0.65, 10, 1), (11, 1.0, 3, 5),
     (3, 0.65, 10, 4), (2, 0.65, 10, 1), (1, 0.65, 10, 1)],
)  # fmt: skip
def test_span_mask__equals_the_reference_draw_by_draw(
    num_tokens: int, ratio: float, length: int, min_spans: int
) -> None:
    for seed in range(100):
        fast = draw(num_tokens, seeded(seed), ratio, length, min_spans)
        slow = slow_mask(num_tokens, ratio, length, min_spans, seeded(seed))
        assert set(fast.nonzero().flatten().tolist()) == slow, seed


@pytest.mark.parametrize("num_tokens", [200, 500, 999])
def test_span_mask__covers_what_the_reference_expects(num_tokens: int) -> None:
    generator = seeded(0)
    shares = torch.stack([draw(num_tokens, generator).double().mean() for _ in range(DRAWS)])
    expected = expected_coverage(num_tokens, 0.65, 10)
    error = float(shares.std()) / math.sqrt(DRAWS)
    assert float(shares.mean()) == pytest.approx(expected, abs=5 * error)
    if num_tokens == 500:
        assert expected == pytest.approx(0.49, abs=0.005), "the published 49 %"


@pytest.mark.parametrize(("num_tokens", "measured"), [(200, 0.426), (500, 0.450), (999, 0.460)])
def test_same_count__costs_what_the_reference_measured(num_tokens: int, measured: float) -> None:
    shares = []
    for number in range(DRAWS // 8):
        generators = [seeded(1000 * number + row) for row in range(8)]
        predict = span_masks([num_tokens] * 8, MaskSettings(), generators).predict
        assert len(set(predict.sum(1).tolist())) == 1
        shares.append(float(predict.double().mean()))
    assert sum(shares) / len(shares) == pytest.approx(measured, abs=0.005)


def test_span_mask__never_draws_the_last_place_where_a_span_fits() -> None:
    generator = seeded(1)
    hits = sum(draw(40, generator, 0.25, 10)[-1].item() for _ in range(DRAWS))
    assert hits == 0


def test_span_mask__is_made_of_whole_spans() -> None:
    for seed in range(200):
        mask = draw(500, seeded(seed), 0.1)
        edges = torch.nn.functional.pad(mask.int(), (1, 1)).diff().nonzero().flatten()
        assert (edges[1::2] - edges[::2]).min() >= 10


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 5, 9, 10, 11, 13, 20])
@pytest.mark.parametrize(("ratio", "length"), [(0.05, 1), (0.65, 10), (1.0, 10), (1.0, 100)])
def test_short_recordings__predict_something_and_see_something(
    num_tokens: int, ratio: float, length: int
) -> None:
    for seed in range(100):
        count = int(draw(num_tokens, seeded(seed), ratio, length).sum())
        assert 1 <= count <= max(1, num_tokens - 1)


def test_trim__takes_random_tokens_out_of_all_but_the_smallest() -> None:
    masks = [draw(size, seeded(size)) for size in (100, 80, 61)]
    before = [mask.clone() for mask in masks]
    target = min(int(mask.sum()) for mask in masks)
    trim_to_same_count(masks, [seeded(number) for number in range(3)])
    for old, new in zip(before, masks, strict=True):
        assert int(new.sum()) == target
        assert not (new & ~old).any(), "only taken out"
    again = [mask.clone() for mask in before]
    trim_to_same_count(again, [seeded(number) for number in (9, 9, 9)])
    assert not torch.equal(again[0], masks[0]), "another generator loses others"


def test_trim__loses_every_token_alike() -> None:
    kept = torch.zeros(12)
    for seed in range(DRAWS):
        masks = [torch.ones(12, dtype=torch.bool), torch.arange(12) < 3]
        trim_to_same_count(masks, [seeded(seed), seeded(seed)])
        kept += masks[0]
    deviation = (kept / DRAWS - 3 / 12).abs().max()
    assert float(deviation) < 5 * math.sqrt(3 / 12 * 9 / 12 / DRAWS)


@pytest.mark.parametrize("same_count", [True, False])
def test_span_masks__spare_padding_and_leave_no_row_out(same_count: bool) -> None:
    counts = [99, 14, 1, 60]
    for seed in range(50):
        generators = [seeded(10 * seed + row) for row in range(4)]
        mask = span_masks(counts, MaskSettings(same_count=same_count), generators)
        assert mask.predict.shape == (4, 99)
        padding = torch.arange(99) >= torch.tensor(counts).unsqueeze(1)
        assert not (mask.predict & padding).any()
        assert mask.predict.any(1).all()
        assert torch.equal(mask.positions, mask.predict.flatten().nonzero().squeeze(1))
        if not same_count:
            alone = draw(99, seeded(10 * seed))
            assert torch.equal(mask.predict[0], alone), "others change nothing"


def test_plan__tells_about_as_many_as_are_masked() -> None:
    for tokens in (30, 49, 200, 500, 999):
        expected = tokens * expected_coverage(tokens, 0.65, 10)
        assert MaskSettings().num_masked(tokens) == pytest.approx(expected, rel=0.04)
