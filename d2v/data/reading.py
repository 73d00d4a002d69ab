"""What a worker process does: reads, decodes, collates and masks one micro-batch."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Generator
from torch.utils.data import DataLoader, Dataset

from d2v.core.seeding import generator_for
from d2v.data.order import Wanted
from d2v.data.shards import Shards
from d2v.errors import BadSampleError, D2VError
from d2v.types import Batch, Mask

_T = TypeVar("_T")


class Reader(Protocol):
    """The part of a modality that turns stored samples into batches; must be picklable."""

    def decode(
        self, parts: dict[str, bytes], generator: Generator | None, limit: int | None = None
    ) -> Any:
        """One example, of whatever kind `collate` takes.

        Args:
            parts: extension -> content.
            generator: of random changes; None asks for none.
            limit: longest length wanted, as stored; what is longer is cropped.
        """

    def collate(self, examples: Sequence[Any]) -> Batch:
        """Examples side by side."""

    def sample_mask(self, batch: Batch, generators: Sequence[Generator]) -> Mask | None:
        """Where the model must predict, None for nowhere; one generator a sample."""


@dataclass(frozen=True)
class ManyMasks:
    """A reader that masks every sample several times, and tells what stays visible.

    The masks of a sample come from its one generator, one after the other.
    """

    reader: Reader
    masks_per_sample: int

    def decode(
        self, parts: dict[str, bytes], generator: Generator | None, limit: int | None = None
    ) -> Any:
        """As the reader does."""
        return self.reader.decode(parts, generator, limit)

    def collate(self, examples: Sequence[Any]) -> Batch:
        """As the reader does."""
        return self.reader.collate(examples)

    def sample_mask(self, batch: Batch, generators: Sequence[Generator]) -> Mask:
        """Of every view, those of one sample side by side."""
        drawn = [self.reader.sample_mask(batch, generators) for _ in range(self.masks_per_sample)]
        predict = torch.stack([mask.predict for mask in drawn if mask is not None], dim=1)
        return Mask.of(predict.flatten(0, 1)).with_visible(batch.padding)


@dataclass(frozen=True, kw_only=True)
class Read:
    """What a worker hands over: a batch, its mask, and the samples it could not use."""

    batch: Batch
    mask: Mask | None
    problems: list[tuple[int, str]] = field(default_factory=list)
    """(sample number, reason)"""

    def pin_memory(self) -> "Read":
        """Copy to page-locked memory, from where copies to a GPU do not wait."""
        mask = None if self.mask is None else self.mask.pin_memory()
        return replace(self, batch=self.batch.pin_memory(), mask=mask)


class Samples(Dataset[Read | D2VError]):
    """Reads, decodes, collates and masks one micro-batch; runs in a worker.

    An error is handed over as a value: raised here, torch would put its traceback into the message.
    """

    def __init__(self, shards: Shards, reader: Reader, seed: int) -> None:
        self.shards, self.reader, self.seed = shards, reader, seed

    def __getitem__(self, wanted: Wanted) -> Read | D2VError:
        try:
            return self._read(wanted)
        except D2VError as error:
            return error

    def _read(self, wanted: Wanted) -> Read:
        examples, used, problems = [], [], []
        for number in wanted.samples:
            generator = generator_for("augment", self.seed, wanted.epoch, number)
            try:
                parts = self.shards.read(number)
                examples.append(self.reader.decode(parts, generator, wanted.limit))
                used.append(number)
            except BadSampleError as error:
                problems.append((number, str(error)))
        if not used:
            raise D2VError(
                f"No sample of a batch can be used. The last: {problems[-1][1]}",
                remedy="Run `d2v prepare RECIPE --check` and mend the data.",
            )
        batch = _numbered(self.reader.collate(examples), self.shards, used)
        batch = replace(batch, missing=len(problems))
        generators = [generator_for("mask", self.seed, wanted.epoch, number) for number in used]
        return Read(batch=batch, mask=self.reader.sample_mask(batch, generators), problems=problems)


class Unchanged(Dataset[Batch | D2VError | None]):
    """Reads one batch without randomness; errors as values, like `Samples`."""

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


def received(loader: "DataLoader[_T | D2VError]") -> Iterator[_T]:
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


def own_generator(seed: int) -> Generator:
    """Without one, starting a DataLoader draws from the main process's global generator."""
    return generator_for("workers", seed)


def unchanged(value: object) -> object:
    """A collate function for batches that are whole already."""
    return value


def start_worker(number: int) -> None:
    """Signals are the main process's business, also those sent to all processes of a job.

    It takes a checkpoint and then ends its workers itself; a worker that ended earlier would make
    it fail instead.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    main = multiprocessing.parent_process()
    if main is not None:
        threading.Thread(target=_end_for, args=(main.pid,), daemon=True).start()
    torch.set_num_threads(1)


def _end_for(main: int | None) -> None:
    """Heed SIGTERM from the main process alone."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != main:
        pass
    os._exit(0)
