"""Proves: what is fewer than a batch is trained on as one batch, which can be cut evenly."""

from typing import Any

import numpy as np
import pytest

from d2v.commands.batches import batch_cut, batch_plan
from d2v.commands.fitted_batch import fitted
from d2v.engine.job import TrainSettings
from d2v.errors import UsageError
from d2v.modalities.base import LengthUnit

UNIT = LengthUnit(name="seconds", size=10)


def settings(**given: Any) -> TrainSettings:
    return TrainSettings.model_validate(given)


@pytest.mark.parametrize(
    ("count", "world_size", "most", "expected"),
    [
        (64, 1, None, 64),
        (1000, 1, None, 64),
        (63, 1, None, 63),
        (63, 2, None, 62),
        (61, 1, 32, 60),  # a prime: 61 micro-batches of one sample otherwise
        (61, 2, 10, 60),
        (5, 1, 32, 5),
    ],
)
def test_fitted__batch_takes_what_there_is_in_as_few_pieces_as_fit(
    count: int, world_size: int, most: int | None, expected: int
) -> None:
    lengths = np.ones(count, np.int64)
    asked = settings(batch_size=64, max_batch_per_device=most)
    found = fitted(asked, lengths, UNIT, world_size=world_size)
    assert found.batch_size == expected
    plan = batch_plan(found, lengths, UNIT, seed=0)
    cut = batch_cut(found, plan, UNIT, world_size=world_size)
    assert cut.accumulation == -(-expected // (world_size * (most or expected)))
    assert plan.steps_per_epoch >= 1


def test_fitted__fewer_samples_than_devices_are_refused() -> None:
    lengths = np.ones(3, np.int64)
    found = fitted(settings(batch_size=64), lengths, UNIT, world_size=4)
    plan = batch_plan(found, lengths, UNIT, seed=0)
    with pytest.raises(UsageError, match="divided over 4 devices"):
        batch_cut(found, plan, UNIT, world_size=4)


def test_fitted__length_takes_all_samples_padded_to_the_longest() -> None:
    lengths = np.array([20, 50, 30], np.int64)
    found = fitted(settings(batch_length=100), lengths, UNIT, world_size=1)
    assert found.batch_length == 15  # three times five seconds
    assert batch_plan(found, lengths, UNIT, seed=0).samples_per_step == 3
    assert fitted(settings(batch_length=12), lengths, UNIT, world_size=1).batch_length == 12
