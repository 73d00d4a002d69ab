"""A modality's reader with a task's targets beside the examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from torch import Generator, Tensor

from d2v.tasks.base import Task
from d2v.types import Batch, Mask


class Examples(Protocol):
    """The part of a modality that is needed here."""

    def decode(
        self, parts: dict[str, bytes], generator: Generator | None, limit: int | None = None
    ) -> Tensor:
        """One example."""

    def collate(self, examples: Sequence[Tensor]) -> Batch:
        """Examples side by side."""

    def sample_mask(self, batch: Batch, generators: Sequence[Generator]) -> Mask:
        """Where the model must predict."""


class Example(NamedTuple):
    """One example with its target."""

    inputs: Tensor
    target: Any


@dataclass(frozen=True)
class TaskReader:
    """Reads stored samples for a task; picklable."""

    modality: Examples
    task: Task

    def decode(
        self, parts: dict[str, bytes], generator: Generator | None, limit: int | None = None
    ) -> Example:
        """The example as the modality decodes it, and its target.

        A cropped input could not be told from a whole one by its label, so `limit` is for tasks
        whose targets hold for every part of a sample.

        Raises:
            BadSampleError: the input or the target cannot be read.
        """
        target = self.task.target(parts)
        return Example(self.modality.decode(parts, generator, limit), target)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """The modality's batch with targets."""
        batch = self.modality.collate([example.inputs for example in examples])
        return replace(batch, targets=self.task.collate([example.target for example in examples]))

    def sample_mask(self, batch: Batch, generators: Sequence[Generator]) -> Mask | None:
        """The modality's mask where the task trains on masked inputs."""
        return self.modality.sample_mask(batch, generators) if self.task.masks_input else None
