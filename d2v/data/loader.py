"""From shards to batches. The order is a pure function of (seed, epoch, position).

Worker processes, ranks and restarts change who reads a sample, never which sample comes when.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from d2v.core.seeding import generator_for
from d2v.data.order import MicroBatchOrder, Share
from d2v.data.shards import Shards
from d2v.errors import BadSampleError, D2VError, UsageError
from d2v.types import Batch, Mask

_T = TypeVar("_T")


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
            sampler=MicroBatchOrder(
                len(self.shards), self.share, seed=self.seed, start_step=start_step
            ),
            batch_size=None,
            num_workers=num_workers,
            collate_fn=_unchanged,
            pin_memory=self.pin,
            worker_init_fn=_start_worker,
            prefetch_factor=4 if num_workers else None,
            generator=_own_generator(self.seed),
        )
        for read in _received(loader):
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
        generator=_own_generator(0),
    )
    for batch in _received(loader):
        if batch is not None:
            yield batch


class _Samples(Dataset[Read | D2VError]):
    """Reads, decodes, collates and masks one micro-batch; runs in a worker.

    An error is handed over as a value: raised here, torch would put its traceback into the message.
    """

    def __init__(self, shards: Shards, reader: Reader, seed: int) -> None:
        self.shards, self.reader, self.seed = shards, reader, seed

    def __getitem__(self, key: tuple[int, list[int]]) -> Read | D2VError:
        try:
            return self._read(*key)
        except D2VError as error:
            return error

    def _read(self, epoch: int, numbers: list[int]) -> Read:
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


class _Unchanged(Dataset[Batch | D2VError | None]):
    """Reads one batch without randomness."""

    def __init__(self, shards: Shards, reader: Reader) -> None:
        self.shards, self.reader = shards, reader

    def __getitem__(self, numbers: list[int]) -> Batch | D2VError | None:
        try:
            return self._read(numbers)
        except D2VError as error:
            return error

    def _read(self, numbers: list[int]) -> Batch | None:
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


def _received(loader: "DataLoader[_T | D2VError]") -> Iterator[_T]:
    """What the workers hand over; their errors are raised here, in the main process."""
    try:
        for value in loader:
            if isinstance(value, D2VError):
                raise value
            yield value
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise D2VError(
            f"A process that reads data ended unexpectedly: {str(error).splitlines()[0]}",
            remedy="Most often the memory is full: lower data.workers or the batch size, then "
            "start the same command again.",
        ) from error


def _own_generator(seed: int) -> Generator:
    """Without one, starting a DataLoader draws from the main process's global generator."""
    return generator_for("workers", seed)


def _unchanged(value: object) -> object:
    return value


def _start_worker(number: int) -> None:
    """Signals are the main process's business, also those sent to the whole process group.

    It ends its workers itself, after the step it is in and the checkpoint.
    """
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    torch.set_num_threads(1)
