"""Proves: block masks are BEiT's, in distribution and draw by draw (reference section 2.1)."""

import math

import pytest
import torch
from torch import Tensor

from d2v.core.masking import block_mask, random_mask
from d2v.modalities.vision.masks import MaskSettings, patch_masks
from tests.maths_case import seeded

DRAWS = 2000


def draw(generator: torch.Generator, num_masked: int = 120, side: int = 14) -> Tensor:
    return block_mask(
        side,
        side,
        num_masked=num_masked,
        min_block=16,
        max_block=side * side,
        aspect_min=0.3,
        generator=generator,
    )


def slow_mask(
    height: int, width: int, num_masked: int, blocks: tuple[int, int], generator: torch.Generator
) -> set[tuple[int, int]]:
    """The six steps of the reference, cell by cell, fed with the same uniform numbers."""
    masked: set[tuple[int, int]] = set()
    min_block, max_block = blocks
    while len(masked) < num_masked:
        budget = min(num_masked - len(masked), max_block)
        delta = 0
        for u_area, u_aspect, u_top, u_left in torch.rand(10, 4, generator=generator).tolist():
            area = min_block + u_area * (budget - min_block)
            low, high = math.log(0.3), math.log(1 / 0.3)
            aspect = math.exp(low + u_aspect * (high - low))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if not (w < width and h < height):
                continue
            top, left = math.floor(u_top * (height - h + 1)), math.floor(u_left * (width - w + 1))
            cells = {(r, c) for r in range(top, top + h) for c in range(left, left + w)}
            new = cells - masked
            if 0 < len(new) <= budget:
                masked |= cells
                delta = len(new)
                break
        if delta == 0:
            break
    return masked


@pytest.mark.parametrize(
    ("height", "width", "num_masked", "blocks"),
    [(14, 14, 120, (16, 196)), (14, 14, 75, (16, 196)), (9, 13, 60, (16, 30)), (5, 4, 9, (2, 6))],
)
def test_block_mask__equals_the_reference_draw_by_draw(
    height: int, width: int, num_masked: int, blocks: tuple[int, int]
) -> None:
    for seed in range(100):
        fast = block_mask(
            height,
            width,
            num_masked=num_masked,
            min_block=blocks[0],
            max_block=blocks[1],
            aspect_min=0.3,
            generator=seeded(seed),
        )
        slow = slow_mask(height, width, num_masked, blocks, seeded(seed))
        assert {(r, c) for r, c in fast.nonzero().tolist()} == slow, seed


@pytest.fixture(scope="module")
def published() -> Tensor:
    """(DRAWS, 14, 14) masks of the published ViT-B."""
    generator = seeded(0)
    return torch.stack([draw(generator) for _ in range(DRAWS)])


def test_block_mask__of_120_has_the_measured_distribution(published: Tensor) -> None:
    counts = published.flatten(1).sum(1)
    assert int(counts.max()) == 120, "never above, often exactly"
    assert int(counts.min()) >= 105
    assert float(counts.double().mean()) == pytest.approx(119.5, abs=0.1)
    assert float((counts == 120).double().mean()) == pytest.approx(0.69, abs=0.035)


def test_block_mask__of_75_has_the_measured_mean() -> None:
    generator = seeded(1)
    counts = torch.stack([draw(generator, 75).sum() for _ in range(DRAWS)])
    assert float(counts.double().mean()) == pytest.approx(74.5, abs=0.1)
    assert int(counts.max()) == 75
    assert int(counts.min()) >= 62


def test_block_mask__favours_the_middle_and_no_side(published: Tensor) -> None:
    rate = published.double().mean(0)
    assert float(rate[5:9, 5:9].mean()) > float(rate.mean()) > float(rate[0].mean())
    for other in (rate.flip(0), rate.flip(1), rate.T):
        assert float((rate - other).abs().max()) < 0.06, "symmetric up to chance"


def test_block_mask__of_one_block_is_the_drawn_rectangle() -> None:
    found = 0
    for seed in range(300):
        _, u_aspect, *_ = torch.rand(10, 4, generator=seeded(seed))[0].tolist()
        aspect = math.exp(math.log(1 / 0.3) * (2 * u_aspect - 1))
        h, w = round(math.sqrt(40 * aspect)), round(math.sqrt(40 / aspect))
        if h * w != 40:
            continue  # rounding left less than the budget, or more: another block follows
        grid = block_mask(
            14,
            14,
            num_masked=40,
            min_block=40,
            max_block=40,
            aspect_min=0.3,
            generator=seeded(seed),
        )
        rows, columns = grid.any(1).nonzero(), grid.any(0).nonzero()
        assert int(rows.max() - rows.min()) + 1 == h
        assert int(columns.max() - columns.min()) + 1 == w
        assert int(grid.sum()) == 40
        assert 0.3 <= aspect <= 1 / 0.3
        found += 1
    assert found > 20


def test_block_mask__depends_on_its_generator_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = [draw(seeded(7)) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state), "the global generator is not touched"
    torch.manual_seed(2)
    assert torch.equal(one[0], one[1])
    assert torch.equal(one[0], draw(seeded(7)))
    assert not torch.equal(one[0], draw(seeded(8)))


@pytest.mark.parametrize("kind", ["block", "random"])
@pytest.mark.parametrize("side", [2, 3, 4, 5])
@pytest.mark.parametrize("ratio", [0.05, 0.6122, 0.99])
def test_tiny_grids__predict_at_least_one_patch_and_never_all(
    side: int, ratio: float, kind: str
) -> None:
    settings = MaskSettings.model_validate({"kind": kind, "ratio": ratio})
    mask = patch_masks(side, settings, [seeded(seed) for seed in range(200)])
    counts = mask.predict.sum(1)
    assert mask.predict.shape == (200, side * side)
    assert int(counts.min()) >= 1
    assert int(counts.max()) < side * side
    assert torch.equal(mask.positions, mask.predict.flatten().nonzero().squeeze(1))


@pytest.mark.parametrize(
    ("ratio", "patches", "count"), [(0.6122, 196, 120), (0.3827, 196, 75), (0.01, 9, 1)]
)
def test_ratio__gives_the_published_counts(ratio: float, patches: int, count: int) -> None:
    assert MaskSettings(ratio=ratio).num_masked(patches) == count


def test_patch_masks__row_by_row_from_each_samples_generator() -> None:
    both = patch_masks(14, MaskSettings(), [seeded(3), seeded(4)]).predict
    assert torch.equal(both[0], draw(seeded(3)).flatten())
    assert torch.equal(both[1], draw(seeded(4)).flatten())


def test_random_mask__is_exact_and_uniform() -> None:
    generator = seeded(0)
    masks = torch.stack([random_mask(11, num_masked=4, generator=generator) for _ in range(DRAWS)])
    assert set(masks.sum(1).tolist()) == {4}
    deviation = (masks.double().mean(0) - 4 / 11).abs().max()
    assert float(deviation) < 5 * math.sqrt(4 / 11 * 7 / 11 / DRAWS)
