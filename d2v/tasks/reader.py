"""A modality's reader with a task's targets beside the examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from torch import Generator, Tensor

from d2v.errors import BadSampleError
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

    def num_tokens(self, example: Tensor) -> int | None:
        """How many tokens an example gives; None where that depends on nothing."""

    def sample_mask(self, batch: Batch, generators: Sequence[Generator]) -> Mask:
        """Where the model must predict."""


class Example(NamedTuple):
    """One example with its target."""

    inputs: Tensor
    target: Any


@dataclass(frozen=True)
class TaskReader:
    """Reads stored samples for a task; picklable.

    Args:
        modality: reads the examples.
        task: reads the targets.
        for_training: whether samples are learned from: those that cannot be are then refused,
            though a model can be scored on them.
    """

    modality: Examples
    task: Task
    for_training: bool = False

    def decode(
        self, parts: dict[str, bytes], generator: Generator | None, limit: int | None = None
    ) -> Example:
        """The example as the modality decodes it, and its target.

        A cropped input could not be told from a whole one by its label, so `limit` is for tasks
        whose targets hold for every part of a sample.

        Raises:
            BadSampleError: the input cannot be read, or the target not be learned.
        """
        target = self.task.target(parts)
        inputs = self.modality.decode(parts, generator, limit)
        if self.for_training and target is not None:
            problem = self.task.problem(target, self.modality.num_tokens(inputs))
            if problem is not None:
                raise BadSampleError(problem)
        return Example(inputs, target)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """The modality's batch with targets."""
        batch = self.modality.collate([example.inputs for example in examples])
        return replace(batch, targets=self.task.collate([example.target for example in examples]))

    def sample_mask(self, batch: Batch, generators: Sequence[Generator]) -> Mask | None:
        """The modality's mask where the task trains on masked inputs."""
        return self.modality.sample_mask(batch, generators) if self.task.masks_input else None
