"""Proves: how much an update takes is read in the modality's unit, cut to fit, or refused."""

import math
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from d2v.commands.batches import (
    BatchFigures,
    batch_cut,
    batch_plan,
    expected_figures,
    figures_of,
)
from d2v.data.index import Ints
from d2v.data.lengths import LengthPlan
from d2v.data.order import CountPlan, Share
from d2v.engine.job import BatchCut, TrainSettings
from d2v.errors import UsageError
from d2v.modalities.base import LengthUnit

SECONDS = LengthUnit(name="seconds", size=100)


def settings(**given: Any) -> TrainSettings:
    return TrainSettings.model_validate(given)


def recordings(count: int = 600) -> Ints:
    """1 to 8 seconds, and one of exactly 8."""
    return np.append(np.random.default_rng(0).integers(100, 801, count - 1), 800)


def cut_of(asked: TrainSettings, lengths: Ints, devices: int = 1) -> tuple[LengthPlan, BatchCut]:
    plan = batch_plan(asked, lengths, SECONDS, seed=0)
    assert isinstance(plan, LengthPlan)
    return plan, batch_cut(asked, plan, SECONDS, world_size=devices)


# Settings


def test_settings__batch_length_takes_the_place_of_the_default_batch_size() -> None:
    assert settings().batch_size == 2048
    measured = settings(batch_length=3800)
    assert (measured.batch_size, measured.batch_length) == (None, 3800)
    assert TrainSettings.model_validate(measured.model_dump(mode="json")) == measured


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"batch_size": 8, "batch_length": 10}, "of batch_size and batch_length, both of them"),
        ({"batch_size": None}, "of batch_size and batch_length, neither of them"),
        ({"batch_length": 9, "max_batch_per_device": 4}, "set max_length_per_device"),
        ({"max_length_per_device": 4}, "max_length_per_device goes with batch_length"),
        ({"batch_length": 0}, "greater than 0"),
        ({"max_length": -1}, "greater than 0"),
    ],
)
def test_settings__that_contradict_each_other_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        settings(**given)


# The plan


def test_plan__counts_where_batch_size_decides() -> None:
    plan = batch_plan(settings(batch_size=50, max_length=2.5), recordings(), SECONDS, seed=0)
    assert isinstance(plan, CountPlan)
    assert (plan.steps_per_epoch, plan.samples_per_step) == (12, 50)
    assert plan.epoch(0).batch(3)[1] == 250


def test_plan__measures_in_the_modalitys_unit() -> None:
    asked, lengths = settings(batch_length=60, max_length=5, length_mode="crop"), recordings()
    plan, _ = cut_of(asked, lengths)
    longest = 0
    for epoch in range(3):
        batches = plan.epoch(epoch)
        for position in range(plan.steps_per_epoch):
            batch, limit = batches.batch(position)
            used = np.minimum(lengths[batch], 500)
            assert limit == used.min()
            longest = max(longest, len(batch) * int(used.max()))
    assert 5400 < longest <= 6000


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"batch_size": 601}, "There are 600 training samples, and one batch takes 601"),
        (
            {"batch_length": 1e4},
            r"There are 2,\d\d\d.* seconds of training data, .* takes 10,000",
        ),
        ({"batch_length": 7}, r"longest training sample has 8 seconds, and .*batch_length is 7"),
    ],
)
def test_plan__that_cannot_be_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        batch_plan(settings(**given), recordings(), SECONDS, seed=0)


def test_plan__a_batch_may_hold_one_sample_cropped_to_it() -> None:
    plan = batch_plan(settings(batch_length=7, max_length=7), recordings(), SECONDS, seed=0)
    assert isinstance(plan, LengthPlan)
    assert plan.smallest_batch == 1


# The cut


@pytest.mark.parametrize("devices", [1, 2, 5])
@pytest.mark.parametrize("limit", [None, 60, 31, 21.5])
def test_cut__has_the_fewest_micro_batches_that_fit(limit: float | None, devices: int) -> None:
    lengths = recordings()
    plan = batch_plan(settings(batch_length=240), lengths, SECONDS, seed=0)
    assert isinstance(plan, LengthPlan)
    asked = settings(batch_length=240, max_length_per_device=limit)
    cut = batch_cut(asked, plan, SECONDS, world_size=devices)
    assert cut.micro * cut.accumulation * devices == pytest.approx(plan.samples_per_step)

    def fits(accumulation: int) -> bool:
        """Whether pieces fit, whatever the draw: as if all were as long as the bucket's longest."""
        sizes = plan._sizes.tolist()
        pieces = [math.ceil(size / devices / accumulation) for size in sizes]
        whole = zip(pieces, plan._longest.tolist(), strict=True)
        return limit is None or all(n * longest <= 100 * limit for n, longest in whole)

    assert fits(cut.accumulation)
    assert cut.accumulation == 1 or not fits(cut.accumulation - 1)
    epoch = plan.epoch(0)
    for position in range(plan.steps_per_epoch):
        batch, _ = epoch.batch(position)
        share = Share(accumulation=cut.accumulation, world_size=devices)
        piece = share.piece(batch, 0)
        assert piece
        assert limit is None or len(piece) * lengths[piece].max() <= 100 * limit


@pytest.mark.parametrize(
    ("given", "devices", "said"),
    [
        ({"batch_length": 24}, 4, r"smallest batch has 3 samples.* 4 device\(s\) with 1 micro"),
        ({"batch_length": 24, "max_length_per_device": 8}, 2, r"2 device\(s\) with \d micro"),
        ({"batch_length": 24, "max_length_per_device": 6}, 1, "has 8 seconds, and .*_device is 6"),
    ],
)
def test_cut__that_cannot_be_is_refused(given: dict[str, Any], devices: int, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        cut_of(settings(**given), recordings(), devices)
    assert "pretrain.max_length" in str(caught.value)
    cut_of(settings(**given, max_length=2), recordings(), devices)


# Figures of a dry run


def figures(asked: TrainSettings, lengths: Ints, devices: int) -> BatchFigures:
    return figures_of(asked, lengths, SECONDS, world_size=devices)


def test_figures__before_the_data_is_there_are_those_of_the_data_about() -> None:
    lengths = recordings(20_000)
    asked = settings(batch_length=1000, max_length_per_device=130, max_length=6)
    real = figures(asked, lengths, 4)
    mean = float(np.minimum(lengths, 600).mean()) / 100
    expected = expected_figures(asked, 20_000, mean, SECONDS, world_size=4)
    assert (expected.num_train, expected.cut.accumulation) == (20_000, real.cut.accumulation) == (
        20_000, 2
    )  # fmt: skip
    for name in ("steps_per_epoch", "samples_per_step", "mean_length", "largest_micro"):
        assert getattr(expected, name) == pytest.approx(getattr(real, name), rel=0.08), name


def test_figures__of_the_published_base_recipe() -> None:
    """16 GPUs x 3.8 million samples at 16 kHz are 3,800 seconds (reference 2.2)."""
    unit = LengthUnit(name="seconds", size=16_000)
    found = expected_figures(
        settings(batch_length=3800, max_length=20), 281_241, 12.3, unit, world_size=16
    )
    assert found.steps_per_epoch == int(281_241 * 12.3 / 3800) == 910
    assert found.mean_length == pytest.approx(12.3 * 16_000)
    assert found.cut.micro * 12.3 * 16_000 == pytest.approx(3_800_000)


def test_figures__by_count_are_exact_without_lengths() -> None:
    asked = settings(batch_size=64, max_batch_per_device=16)
    found = expected_figures(asked, 1000, None, SECONDS, world_size=2)
    assert found == BatchFigures(
        num_train=1000, mean_length=None, steps_per_epoch=15, samples_per_step=64,
        cut=BatchCut(micro=16, accumulation=2), largest_micro=16,
    )  # fmt: skip
    real = figures(asked, np.full(1000, 1), 2)
    assert (real.steps_per_epoch, real.cut, real.largest_micro) == (15, found.cut, 16)


@pytest.mark.parametrize(
    ("given", "mean", "said"),
    [
        ({"batch_length": 10}, None, "data.mean_train_length"),
        ({"batch_length": 301}, 3.0, "There are 300 seconds of training data.*takes 301"),
        ({"batch_length": 201, "max_length": 2}, 3.0, "There are 200 seconds"),
        ({"batch_size": 101}, None, "There are 100 training samples, and one batch takes 101"),
    ],
)
def test_figures__that_cannot_be_are_refused(
    given: dict[str, Any], mean: float | None, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        expected_figures(settings(**given), 100, mean, SECONDS, world_size=1)
