"""From shards to batches. The order is a pure function of (seed, epoch, position).

Worker processes, ranks and restarts change who reads a sample, never which sample comes when.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from d2v.core.seeding import generator_for
from d2v.data.shards import Shards
from d2v.errors import BadSampleError, D2VError, UsageError
from d2v.types import Batch, Mask


class Reader(Protocol):
    """The part of a modality that turns stored samples into batches; must be picklable."""

    def decode(self, parts: dict[str, bytes], generator: Generator | None) -> Tensor:
        """One example; random changes come from the generator, None asks for none."""

    def collate(self, examples: Sequence[Tensor]) -> Batch:
        """Examples side by side."""

    def sample_mask(self, batch: Batch, generators: Sequence[Generator]) -> Mask:
        """Where the model must predict; one generator a sample."""


@dataclass(frozen=True, kw_only=True)
class Read:
    """What a worker hands over: a batch, its mask, and the samples it could not use."""

    batch: Batch
    mask: Mask
    problems: list[tuple[int, str]] = field(default_factory=list)
    """(sample number, reason)"""

    def pin_memory(self) -> "Read":
        """Copy to page-locked memory, from where copies to a GPU do not wait."""
        return replace(self, batch=self.batch.pin_memory(), mask=self.mask.pin_memory())


def epoch_order(
    num_samples: int, *, seed: int, epoch: int
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The order of all samples in one epoch: (num_samples,) int64, a permutation."""
    generator = generator_for("order", seed, epoch)
    return torch.randperm(num_samples, generator=generator).numpy()


@dataclass(frozen=True, kw_only=True)
class Share:
    """Which part of each global batch this process reads, and in how many pieces.

    A global batch holds `micro * world_size * accumulation` samples.
    """

    micro: int
    accumulation: int = 1
    rank: int = 0
    world_size: int = 1

    @property
    def batch_size(self) -> int:
        """Samples of one update over all processes."""
        return self.micro * self.accumulation * self.world_size


class TrainLoader:
    """One rank's micro-batches, in order, from any update on."""

    def __init__(
        self,
        shards: Shards,
        reader: Reader,
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
            share: how global batches are cut.
            seed: of the run.
            num_workers: processes that read ahead; 0 reads in this one.
            max_bad_fraction: share of the split's samples that may be unusable.
            on_problem: told once of each unusable sample.
            pin: hand over in page-locked memory.

        Raises:
            UsageError: the split has fewer samples than one global batch.
        """
        if len(shards) < share.batch_size:
            raise UsageError(
                f"{shards.folder} has {len(shards)} samples, one batch takes {share.batch_size}",
                expected="at least one whole batch",
                remedy="Lower pretrain.batch_size or add data.",
            )
        self.shards, self.share, self.seed = shards, share, seed
        self.steps_per_epoch = len(shards) // share.batch_size
        self.dataset = _Samples(shards, reader, seed)
        self.num_workers, self.pin = num_workers, pin
        self.max_bad, self.on_problem = max_bad_fraction * len(shards), on_problem
        self.bad: set[int] = set()

    def iterate(
        self, start_step: int, *, in_this_process: bool = False
    ) -> Iterator[tuple[Batch, Mask]]:
        """Micro-batches from update `start_step` on, `accumulation` of them for each, endlessly.

        Raises:
            D2VError: more unusable samples than `max_bad_fraction` allows.
        """
        num_workers = 0 if in_this_process else self.num_workers
        loader = DataLoader(
            self.dataset,
            sampler=_Order(self, start_step),
            batch_size=None,
            num_workers=num_workers,
            collate_fn=_unchanged,
            pin_memory=self.pin,
            worker_init_fn=_start_worker,
            prefetch_factor=4 if num_workers else None,
        )
        for read in loader:
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
    num_workers: int = 0,
    limit: int | None = None,
) -> Iterator[Batch]:
    """All samples of a split in stored order, without random changes or masks.

    Args:
        shards: the split.
        reader: decodes and collates.
        batch_size: samples of a batch; the last may be smaller.
        num_workers: processes that read ahead.
        limit: read only this many samples, evenly spaced over the split.

    Yields:
        Batches with labels and sample numbers; unusable samples are missing from them.
    """
    numbers = np.arange(len(shards))
    if limit is not None and limit < len(shards):
        numbers = np.linspace(0, len(shards) - 1, limit).round().astype(np.int64)
    pieces = [numbers[i : i + batch_size].tolist() for i in range(0, len(numbers), batch_size)]
    loader = DataLoader(
        _Unchanged(shards, reader),
        sampler=pieces,
        batch_size=None,
        num_workers=num_workers,
        collate_fn=_unchanged,
        worker_init_fn=_start_worker,
    )
    for batch in loader:
        if batch is not None:
            yield batch


class _Order(Sampler[tuple[int, list[int]]]):
    """(epoch, sample numbers) of this rank's micro-batches."""

    def __init__(self, loader: TrainLoader, start_step: int) -> None:
        self.loader, self.start_step = loader, start_step

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        loader, share = self.loader, self.loader.share
        epoch, position = divmod(self.start_step, loader.steps_per_epoch)
        while True:
            order = epoch_order(len(loader.shards), seed=loader.seed, epoch=epoch)
            for step in range(position, loader.steps_per_epoch):
                for piece in range(share.accumulation):
                    offset = (piece * share.world_size + share.rank) * share.micro
                    first = step * share.batch_size + offset
                    yield epoch, order[first : first + share.micro].tolist()
            epoch, position = epoch + 1, 0


class _Samples(Dataset[Read]):
    """Reads, decodes, collates and masks one micro-batch; runs in a worker."""

    def __init__(self, shards: Shards, reader: Reader, seed: int) -> None:
        self.shards, self.reader, self.seed = shards, reader, seed

    def __getitem__(self, key: tuple[int, list[int]]) -> Read:
        epoch, numbers = key
        examples, used, problems = [], [], []
        for number in numbers:
            generator = generator_for("augment", self.seed, epoch, number)
            try:
                examples.append(self.reader.decode(self.shards.read(number), generator))
                used.append(number)
            except BadSampleError as error:
                problems.append((number, str(error)))
        if not used:
            raise D2VError(
                f"No sample of a batch can be used. The last: {problems[-1][1]}",
                remedy="Run `d2v prepare RECIPE --check` and mend the data.",
            )
        batch = _numbered(self.reader.collate(examples), self.shards, used)
        generators = [generator_for("mask", self.seed, epoch, number) for number in used]
        return Read(batch=batch, mask=self.reader.sample_mask(batch, generators), problems=problems)


class _Unchanged(Dataset[Batch | None]):
    """Reads one batch without randomness."""

    def __init__(self, shards: Shards, reader: Reader) -> None:
        self.shards, self.reader = shards, reader

    def __getitem__(self, numbers: list[int]) -> Batch | None:
        examples, used = [], []
        for number in numbers:
            try:
                examples.append(self.reader.decode(self.shards.read(number), None))
                used.append(number)
            except BadSampleError:
                continue  # missing from the batch; the caller compares counts
        return _numbered(self.reader.collate(examples), self.shards, used) if used else None


def _numbered(batch: Batch, shards: Shards, numbers: list[int]) -> Batch:
    return replace(
        batch,
        labels=torch.from_numpy(shards.labels[numbers]),
        samples=torch.tensor(numbers),
    )


def _unchanged(value: object) -> object:
    return value


def _start_worker(number: int) -> None:
    """Ctrl-C is the main process's business; it ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
