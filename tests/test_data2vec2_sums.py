"""Proves: what 2.0 sums does not depend on how a batch is cut, and its monitors count samples."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from d2v.core.monitors import effective_rank, regression_monitors
from d2v.data2vec2 import Data2Vec2
from d2v.types import Batch, Loss, Mask
from tests.data2vec2_case import PATCHES, build, masks, part, slow_parts
from tests.data2vec_case import BATCH, DIM, pictures
from tests.maths_case import normal


def gradients(model: Data2Vec2) -> dict[str, Tensor]:
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def in_pieces(model: Data2Vec2, batch: Batch, mask: Mask, cut: list[int]) -> Loss:
    """Gradients add up as the engine lets them; the sum of all pieces."""
    views, first = model.masks_per_sample, 0
    total, count = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.int64)
    for size in cut:
        some = slice(first, first + size)
        of_these = part(mask, slice(views * first, views * (first + size)))
        loss = model(replace(batch, inputs=batch.inputs[some]), of_these)
        loss.total.backward()
        total, count, first = total + loss.total.detach(), count + loss.count, first + size
    return Loss(total=total, count=count)


@pytest.mark.parametrize("weight", [0.0, 2.56])
@pytest.mark.parametrize("even", [True, False], ids=["even", "uneven"])
@pytest.mark.parametrize("cut", [[1, 3], [2, 2], [1, 1, 1, 1]])
def test_micro_batches__sum_to_the_whole_batch(cut: list[int], even: bool, weight: float) -> None:
    model, batch = build({"norm_position": "post"}, prefix_weight=weight), pictures()
    mask = masks(BATCH * model.masks_per_sample, even=even)
    whole = in_pieces(model, batch, mask, [BATCH])
    expected = gradients(model)
    model.zero_grad(set_to_none=True)
    pieces = in_pieces(model, batch, mask, cut)
    assert int(pieces.count) == int(whole.count) == int(mask.predict.sum())
    assert float(pieces.total) == pytest.approx(float(whole.total), rel=1e-12)
    assert gradients(model).keys() == expected.keys()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-8, atol=1e-10, msg=name)


@pytest.mark.parametrize(("devices", "weight"), [(1, 2.56), (2, 1.28)])
def test_prefix_weight__of_2_56_is_the_published_0_01_for_256_views_a_device(
    devices: int, weight: float
) -> None:
    """Reference 4.8: a device multiplies by 0.01 and its masked tokens, and sums over its views.

    The trainer divides by the masked tokens of all devices.
    """
    views = 64
    model, batch = build(masks_per_sample=views, prefix_weight=weight), pictures()
    mask = masks(BATCH * views)
    regression, of_prefix = (torch.stack(one).detach() for one in slow_parts(model, batch, mask))
    counts = mask.predict.sum(1)
    published = torch.zeros((), dtype=torch.float64)
    for own in torch.arange(BATCH * views).chunk(devices):
        sample_size = int(counts[own].sum())
        published += regression[own].sum() + 0.01 * sample_size * of_prefix[own].sum()
    with torch.no_grad():
        loss = model(batch, mask)
    assert len(of_prefix) // devices * 0.01 == pytest.approx(weight)
    mean = float(loss.total / loss.count)
    assert mean == pytest.approx(float(published / counts.sum()), rel=1e-9)
    assert mean == pytest.approx(
        float(regression.sum() / counts.sum() + weight * of_prefix.mean()), rel=1e-9
    )


# Monitors


def slow_spread(values: Tensor, mask: Mask, views: int) -> float:
    """Over samples, for each view and place that at least two of them mask."""
    rows = dict(zip(mask.positions.tolist(), values, strict=True))
    deviations = []
    for view, place in itertools.product(range(views), range(PATCHES)):
        numbers = [(sample * views + view) * PATCHES + place
                   for sample in range(len(mask.predict) // views)]  # fmt: skip
        found = [rows[number] for number in numbers if number in rows]
        if len(found) > 1:
            deviations.append(torch.stack(found).double().std(0))
    return float(torch.stack(deviations).mean())


@pytest.mark.parametrize("views", [1, 5])
def test_spread__is_that_across_samples_and_not_across_views(views: int) -> None:
    mask, seen = masks(4 * views, even=False), normal(0, 4, PATCHES, DIM)
    per_sample = normal(1, 4 * PATCHES, DIM)  # all views of a sample share its targets
    of_sample = mask.positions // (PATCHES * views) * PATCHES + mask.positions % PATCHES
    target, prediction = per_sample[of_sample], normal(2, len(mask.positions), DIM)
    found = regression_monitors(seen, target, prediction, mask)
    for name, values in (("target_spread", target), ("prediction_spread", prediction)):
        assert float(found[name]) == pytest.approx(slow_spread(values, mask, views), rel=1e-5)
    assert float(found["target_spread"]) == pytest.approx(0.9, abs=0.2)


def test_spread__of_one_sample_is_not_a_number_however_many_its_views() -> None:
    """Guards skip what is not a number; its views are alike, and would look like a collapse."""
    model, mask = build(), masks(3)
    found = model(pictures(1), mask, monitor=True).monitors
    assert math.isnan(found["target_spread"])
    assert math.isnan(found["prediction_spread"])
    assert found["target_std"].isfinite()


def test_rank__looks_at_many_samples_and_not_at_the_views_of_a_few() -> None:
    """Every sample has its own direction; the rows that are counted hold those of all."""
    views, samples = 40, 12
    mask = masks(samples * views)
    sample = mask.positions // (PATCHES * views)
    target = torch.eye(samples, dtype=torch.float64)[sample]
    seen = normal(0, samples, PATCHES, samples)
    assert float(effective_rank(target)) < 9.5, "or this test proves nothing"
    rank = float(regression_monitors(seen, target, target, mask)["target_rank"])
    assert rank == pytest.approx(samples - 1, abs=0.1)
