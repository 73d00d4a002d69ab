"""What every downstream task promises.

Letters: B batch, T tokens, C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from d2v.core.encoder import Encoder
from d2v.tasks.model import TaskModel
from d2v.types import Batch, Frontend


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model said of one sample, on the CPU.

    Args:
        sample: its number in the split.
        output: (C,) logits, () value, or (T, C) log-probabilities without padding; float32.
        target: what is true in the task's own terms (a class id, a value, a text); None where
            unknown.
    """

    sample: int
    output: Tensor
    target: Any = None


Judge = Callable[[NDArray[np.int64]], dict[str, float]]
"""Figures over some of the answers, by their places."""


class Task(ABC):
    """One downstream task, built from its settings and what the training data say.

    Small and picklable: processes that read data carry it along.
    """

    needs_member: ClassVar[str | None] = None
    """Extension of the member that a labelled sample has; None where a class id is the label."""
    target_members: ClassVar[tuple[str, ...]] = ()
    """Extensions of the members that `target` reads."""

    @property
    @abstractmethod
    def main_score(self) -> str:
        """The figure that picks checkpoints and learning rates; higher is better."""

    @property
    def masks_input(self) -> bool:
        """Whether training masks the input as the modality does."""
        return False

    @abstractmethod
    def target(self, parts: Mapping[str, bytes]) -> Any:
        """What a sample's members say is true of it; None where they say nothing.

        Args:
            parts: extension -> content, as stored.

        Raises:
            BadSampleError: what is there cannot be learned from; says why.
        """

    def problem(self, target: Any, num_tokens: int | None) -> str | None:
        """Why a sample cannot be learned from, though its target can be scored; None: it can.

        Args:
            target: what `target` gave, not None.
            num_tokens: that the encoder makes of the sample; None where that is all the same.
        """
        return None

    @abstractmethod
    def collate(self, targets: Sequence[Any]) -> Tensor | None:
        """`Batch.targets` of some samples; None where `Batch.labels` says all."""

    @abstractmethod
    def truths(self, batch: Batch) -> list[Any]:
        """What is true of each sample in the task's own terms (`Answer.target`), None: unknown."""

    @abstractmethod
    def build(self, frontend: Frontend, encoder: Encoder) -> TaskModel:
        """The model, head included; weights are drawn by `initialise`."""

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """What the outputs mean, as JSON; the task is built again from it."""

    @abstractmethod
    def judge(self, answers: Sequence[Answer]) -> Judge:
        """Compare answers with their targets, once: all of them have one, and there are some.

        Returns:
            A function from places among the answers, (n,) int64, some perhaps several times, to
            figures over these, `main_score` first. It is called a thousand times for an interval.
        """

    def score(self, answers: Sequence[Answer]) -> dict[str, float]:
        """Figures over the answers whose target is known, `main_score` first; {} without any."""
        known = [answer for answer in answers if answer.target is not None]
        return self.judge(known)(np.arange(len(known))) if known else {}

    def check_scores(  # noqa: B027  # most tasks have nothing to check
        self, history: Sequence[Mapping[str, float]]
    ) -> None:
        """Stop a training whose scores say that it learns nothing.

        Args:
            history: what was logged of it so far, oldest first; rows without scores among them.

        Raises:
            GuardError: says what was seen.
        """

    @abstractmethod
    def describe(self, answer: Answer, seconds_per_token: float | None) -> dict[str, Any]:
        """An answer for people and programs, as JSON, what matters most first.

        Args:
            answer: its target is not read.
            seconds_per_token: from one token to the next, where tokens lie in time.
        """

    def fit_readings(
        self, train: Iterable[Any], val: Sequence[Answer], folder: Path
    ) -> dict[str, Task]:
        """Better ways to read the same outputs, learnt from data: name -> the task that does.

        Args:
            train: targets of the training samples.
            val: answers that weights may be chosen on.
            folder: to write what they need again later (a language model).
        """
        return {}

    def report(self, answers: Sequence[Answer], sources: Sequence[str], folder: Path) -> list[str]:
        """Write pictures and lists about the answers of one split; returns remarks.

        Args:
            answers: of the split that is reported.
            sources: where each answer's sample came from.
            folder: to write into.
        """
        return []
