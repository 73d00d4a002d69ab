"""From shards to batches. The order is a pure function of (seed, epoch, position).

Worker processes, ranks and restarts change who reads a sample, never which sample comes when.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from torch.utils.data import DataLoader

from d2v.data.index import Ints
from d2v.data.order import BatchPlan, MicroBatchOrder, Share
from d2v.data.reading import (
    Reader,
    Samples,
    Unchanged,
    own_generator,
    received,
    start_worker,
    unchanged,
)
from d2v.data.shards import Shards
from d2v.errors import D2VError, UsageError
from d2v.types import Batch, Mask


class TrainLoader:
    """One rank's micro-batches, in order, from any update on."""

    def __init__(
        self,
        shards: Shards,
        reader: Reader,
        plan: BatchPlan,
        share: Share,
        *,
        seed: int,
        num_workers: int,
        max_bad_fraction: float,
        on_problem: Callable[[str], None] = lambda text: None,
        pin: bool = False,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            shards: the split.
            reader: decodes, collates and masks.
            plan: which samples make which update.
            share: this process's part of each.
            seed: of the run.
            num_workers: processes that read ahead; 0 reads in this one.
            max_bad_fraction: share of the split's samples that may be unusable.
            on_problem: told once of each unusable sample.
            pin: hand over in page-locked memory.

        Raises:
            UsageError: the split does not fill one global batch.
        """
        if plan.steps_per_epoch == 0:
            raise UsageError(
                f"{shards.folder} has {len(shards)} samples, and they do not fill one batch",
                expected="at least one whole batch",
                remedy="Lower batch_size or batch_length, or add data.",
            )
        self.shards, self.plan, self.share, self.seed = shards, plan, share, seed
        self.dataset = Samples(shards, reader, seed)
        self.num_workers, self.pin = num_workers, pin
        self.max_bad, self.on_problem = max_bad_fraction * len(shards), on_problem
        self.bad: set[int] = set()

    def iterate(
        self, start_step: int, *, in_this_process: bool = False
    ) -> Iterator[tuple[Batch, Mask | None]]:
        """Micro-batches from update `start_step` on, `accumulation` of them for each, endlessly.

        Raises:
            D2VError: more unusable samples than `max_bad_fraction` allows.
        """
        num_workers = 0 if in_this_process else self.num_workers
        loader = DataLoader(
            self.dataset,
            sampler=MicroBatchOrder(self.plan, self.share, start_step=start_step),
            batch_size=None,
            num_workers=num_workers,
            collate_fn=unchanged,
            pin_memory=self.pin,
            worker_init_fn=start_worker,
            prefetch_factor=4 if num_workers else None,
            generator=own_generator(self.seed),
        )
        for read in received(loader):
            for sample, reason in read.problems:
                self._note(sample, reason)
            yield read.batch, read.mask

    def _note(self, sample: int, reason: str) -> None:
        if sample in self.bad:
            return
        self.bad.add(sample)
        text = f"Sample {sample} ({self.shards.source(sample)}) cannot be used: {reason}"
        self.on_problem(text)
        if len(self.bad) > self.max_bad:
            raise D2VError(
                f"{len(self.bad)} of {len(self.shards)} samples in {self.shards.folder} cannot be "
                f"used. The last: {text}",
                expected=f"at most {self.max_bad:g} (data.max_bad_fraction)",
                remedy="Run `d2v prepare RECIPE --check`, mend the data, or raise the limit.",
            )


def read_split(
    shards: Shards,
    reader: Reader,
    *,
    batch_size: int,
    batch_length: int | None = None,
    num_workers: int = 0,
    limit: int | None = None,
    numbers: Ints | None = None,
) -> Iterator[Batch]:
    """Samples of a split one after the other, without random changes or masks.

    Args:
        shards: the split.
        reader: decodes and collates.
        batch_size: samples of a batch; the last may be smaller.
        batch_length: longest batch, the number of samples times the longest of them, as stored; a
            sample that is longer comes alone. None for no limit.
        num_workers: processes that read ahead.
        limit: read only this many samples, evenly spaced over `numbers`.
        numbers: (n,) of the samples to read, in this order; None for all in stored order.

    Yields:
        Batches with labels and sample numbers; unusable samples are missing from them.
    """
    if numbers is None:
        numbers = np.arange(len(shards))
    if limit is not None:
        numbers = evenly_spaced(numbers, limit)
    edges = _edges(shards.lengths[numbers], batch_size, batch_length or sys.maxsize)
    wanted = [numbers[start:end].tolist() for start, end in pairwise(edges)]
    for batch in read_batches(shards, reader, wanted, num_workers=num_workers):
        if batch is not None:
            yield batch


def read_batches(
    shards: Shards, reader: Reader, wanted: Sequence[list[int]], *, num_workers: int = 0
) -> Iterator[Batch | None]:
    """Named batches of a split, one after the other, without random changes or masks.

    Args:
        shards: the split.
        reader: decodes and collates.
        wanted: numbers of each batch's samples.
        num_workers: processes that read ahead.

    Yields:
        Each batch with labels and sample numbers, without the samples that cannot be used; None
        where that is all of them.
    """
    loader = DataLoader(
        Unchanged(shards, reader),
        sampler=wanted,
        batch_size=None,
        num_workers=num_workers,
        collate_fn=unchanged,
        worker_init_fn=start_worker,
        generator=own_generator(0),
    )
    yield from received(loader)


def _edges(lengths: Ints, batch_size: int, batch_length: int) -> list[int]:
    """Where batches begin, and the end; each takes what fits, in order."""
    edges, longest = [0], 0
    for place, length in enumerate(lengths.tolist()):
        longest, size = max(longest, length), place - edges[-1]
        if size and (size == batch_size or (size + 1) * longest > batch_length):
            edges.append(place)
            longest = length
    return [*edges, len(lengths)]


def evenly_spaced(numbers: Ints, count: int) -> Ints:
    """So many of the numbers, from the first to the last; all where there are no more."""
    if count >= len(numbers):
        return numbers
    return numbers[np.linspace(0, len(numbers) - 1, count).round().astype(np.int64)]
