"""Which sample comes when: a pure function of (seed, epoch, position)."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler

from d2v.core.seeding import generator_for
from d2v.data.index import Ints


def epoch_order(num_samples: int, *, seed: int, epoch: int) -> Ints:
    """The order of all samples in one epoch: (num_samples,) int64, a permutation."""
    generator = generator_for("order", seed, epoch)
    return torch.randperm(num_samples, generator=generator).numpy()


@dataclass(frozen=True, kw_only=True)
class LengthLimit:
    """How long a sample may be in its batch; lengths as stored."""

    max_length: int | None = None
    """Longer samples are cropped; None for no limit."""
    to_shortest: bool = False
    """Crop every sample of a global batch to the shortest of them, so that nothing is padded."""

    def clipped(self, lengths: Ints) -> Ints:
        """What is at most left of samples of these lengths: at least 1 each."""
        return np.clip(lengths, 1, self.max_length)

    def of_batches(self, lengths: Ints, order: Ints, starts: Ints) -> Ints | None:
        """The longest length wanted in each batch: (steps,) int64; None where all is wanted.

        Args:
            lengths: (N,) int64, of all samples.
            order: sample numbers, batch after batch.
            starts: (steps + 1,) int64, where each batch begins in `order`, and the end.
        """
        steps = len(starts) - 1
        if self.to_shortest and steps:
            used = self.clipped(lengths)[order[: starts[-1]]]
            return np.minimum.reduceat(used, starts[:-1])
        return None if self.max_length is None else np.full(steps, self.max_length)


@dataclass(frozen=True, kw_only=True)
class EpochBatches:
    """The global batches of one epoch.

    Args:
        order: int64 sample numbers, batch after batch.
        starts: (steps + 1,) int64, where each batch begins in `order`, and the end.
        limits: (steps,) int64, the longest length wanted in each batch; None where all is wanted.
    """

    order: Ints
    starts: Ints
    limits: Ints | None = None

    def batch(self, position: int) -> tuple[list[int], int | None]:
        """Sample numbers of one batch, and the longest length wanted in it."""
        numbers = self.order[self.starts[position] : self.starts[position + 1]]
        return numbers.tolist(), None if self.limits is None else int(self.limits[position])


class BatchPlan(ABC):
    """Which samples make which update; the same however many processes share the work."""

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int:
        """Updates in one pass over the data: the same in every epoch; 0 for too little data."""

    @property
    @abstractmethod
    def samples_per_step(self) -> float:
        """Samples of one update, the mean over an epoch."""

    @abstractmethod
    def epoch(self, epoch: int) -> EpochBatches:
        """All batches of one epoch, no sample twice."""


class CountPlan(BatchPlan):
    """Batches of one number of samples, in random order.

    An epoch has as many whole batches as fit; what is left over is another draw each epoch.
    """

    def __init__(
        self, lengths: Ints, batch_size: int, *, seed: int, limit: LengthLimit | None = None
    ) -> None:
        self.lengths, self.batch_size, self.seed = lengths, batch_size, seed
        self.limit = limit or LengthLimit()

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the data."""
        return len(self.lengths) // self.batch_size

    @property
    def samples_per_step(self) -> float:
        """As asked."""
        return self.batch_size

    def epoch(self, epoch: int) -> EpochBatches:
        """One permutation, cut evenly."""
        order = epoch_order(len(self.lengths), seed=self.seed, epoch=epoch)
        starts = np.arange(self.steps_per_epoch + 1) * self.batch_size
        limits = self.limit.of_batches(self.lengths, order, starts)
        return EpochBatches(order=order, starts=starts, limits=limits)


@dataclass(frozen=True, kw_only=True)
class Share:
    """Which part of each global batch this process reads, and in how many micro-batches."""

    accumulation: int = 1
    rank: int = 0
    world_size: int = 1

    @property
    def num_pieces(self) -> int:
        """Micro-batches of one update over all processes."""
        return self.accumulation * self.world_size

    def piece(self, numbers: list[int], micro: int) -> list[int]:
        """This process's micro-batch number `micro`: pieces follow each other, equal or one off."""
        place = micro * self.world_size + self.rank
        first, last = (len(numbers) * end // self.num_pieces for end in (place, place + 1))
        return numbers[first:last]


class Wanted(NamedTuple):
    """One micro-batch to read."""

    epoch: int
    samples: list[int]
    limit: int | None
    """Longest length wanted, as stored; None for all of it."""


class MicroBatchOrder(Sampler[Wanted]):
    """One rank's micro-batches, endlessly; only the running epoch is kept."""

    def __init__(self, plan: BatchPlan, share: Share, *, start_step: int) -> None:
        self.plan, self.share, self.start_step = plan, share, start_step

    def __iter__(self) -> Iterator[Wanted]:
        epoch, position = divmod(self.start_step, self.plan.steps_per_epoch)
        while True:
            batches = self.plan.epoch(epoch)
            for step in range(position, self.plan.steps_per_epoch):
                numbers, limit = batches.batch(step)
                for micro in range(self.share.accumulation):
                    yield Wanted(epoch, self.share.piece(numbers, micro), limit)
            epoch, position = epoch + 1, 0
