"""A batch for training data that are fewer than it takes: subsets of the labels."""

from __future__ import annotations

import math
from typing import TypeVar

from d2v.data.index import Ints
from d2v.engine.job import TrainSettings
from d2v.modalities.base import LengthUnit

T = TypeVar("T", bound=TrainSettings)


def fitted(settings: T, lengths: Ints, unit: LengthUnit, *, world_size: int) -> T:
    """The settings, with a batch of all samples where there are fewer than a batch takes.

    Of these a few stay out, others in each epoch, where they could not be cut evenly over devices
    and micro-batches.

    Args:
        settings: how much an update takes.
        lengths: (N,) int64, of the training samples as stored.
        unit: what settings measure in.
        world_size: devices.
    """
    if settings.batch_size is None:
        assert settings.batch_length is not None
        padded = len(lengths) * int(lengths.max(initial=0)) / unit.size
        return settings.model_copy(update={"batch_length": min(settings.batch_length, padded)})
    if settings.batch_size <= len(lengths):
        return settings
    limit = settings.max_batch_per_device or len(lengths)

    def is_even(size: int) -> bool:
        return size % (world_size * math.ceil(size / (world_size * limit))) == 0

    even = next(filter(is_even, range(len(lengths), 0, -1)), len(lengths))
    return settings.model_copy(update={"batch_size": even})
