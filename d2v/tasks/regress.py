"""Regression: encoder, one pooled vector, a head with one output, squared error.

Letters: B batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import model_validator
from torch import Generator, Tensor, nn

from d2v.core.encoder import Encoder
from d2v.core.scores import pearson, spearman
from d2v.errors import BadSampleError
from d2v.tasks.base import Answer, Judge, Task
from d2v.tasks.heads import HeadSettings, PooledHead
from d2v.tasks.model import Outputs, TaskModel, TaskSettings
from d2v.types import NUMBER, Batch, Frontend, Loss, Mask


class RegressSettings(TaskSettings):
    """One number for each sample."""

    name: Literal["regress"]
    head: HeadSettings = HeadSettings()
    low: float = 0.0
    """Smallest number there is; the model sees it as 0."""
    high: float = 1.0
    """Largest number; the model sees it as 1 (STS-B: 5; reference section 3.3)."""
    score: Literal["pearson", "spearman"] = "pearson"
    """What picks checkpoints."""

    @model_validator(mode="after")
    def _check(self) -> RegressSettings:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low {self.low} must be below high {self.high}, both finite")
        return self


class RegressModel(TaskModel):
    """A model of one number that the engine can train."""

    def __init__(self, frontend: Frontend, encoder: Encoder, settings: RegressSettings) -> None:
        self.low, self.span = settings.low, settings.high - settings.low
        super().__init__(
            frontend, encoder, PooledHead(settings.head, encoder.settings, 1), settings
        )
        self.own_norm = settings.head.norm

    def forward(self, batch: Batch, mask: Mask | None, *, monitor: bool = False) -> Loss:
        """Squared error, of numbers scaled to 0..1, summed over samples that have one."""
        assert batch.targets is not None
        known = ~batch.targets.isnan()
        target = ((batch.targets - self.low) / self.span).nan_to_num()
        value = self.head(*self.encode(batch, mask))[:, 0]  # (B,)
        error = (value - target) * known
        return Loss(total=error.square().sum(), count=known.sum())

    def read_head(
        self, head: nn.Module, x: Tensor, padding: Tensor | None, num_prefix: int
    ) -> Outputs:
        """Numbers (B,) in the data's own scale."""
        return Outputs(head(x, padding, num_prefix)[:, 0] * self.span + self.low)

    def initialise_head(self, generator: Generator) -> None:
        """Draw the head's weights."""
        assert isinstance(self.head, PooledHead)
        self.head.initialise(generator)


@dataclass(frozen=True)
class Regress(Task):
    """One number."""

    settings: RegressSettings
    needs_member: ClassVar[str | None] = NUMBER
    target_members: ClassVar[tuple[str, ...]] = (NUMBER,)

    @property
    def main_score(self) -> str:
        """As set."""
        return self.settings.score

    def target(self, parts: Mapping[str, bytes]) -> float | None:
        """The number that prepare stored."""
        content = parts.get(NUMBER)
        if content is None:
            return None
        value = float(content)
        if not self.settings.low <= value <= self.settings.high:
            raise BadSampleError(
                f"its number {value:g} is not within {self.settings.low:g} to "
                f"{self.settings.high:g} (finetune.task.low, finetune.task.high)"
            )
        return value

    def collate(self, targets: Sequence[Any]) -> Tensor:
        """(B,) float32, NaN where unknown."""
        return torch.tensor([math.nan if target is None else target for target in targets])

    def truths(self, batch: Batch) -> list[Any]:
        """Numbers."""
        if batch.targets is None:
            return [None] * len(batch)
        return [None if math.isnan(value) else value for value in batch.targets.tolist()]

    def build(self, frontend: Frontend, encoder: Encoder) -> RegressModel:
        """The model."""
        return RegressModel(frontend, encoder, self.settings)

    def about(self) -> dict[str, Any]:
        """Settings say all."""
        return {}

    def judge(self, answers: Sequence[Answer]) -> Judge:
        """Pearson's and Spearman's correlation, and the mean absolute error."""
        predicted = torch.stack([answer.output for answer in answers]).double()
        truth = torch.tensor([answer.target for answer in answers], dtype=torch.float64)

        def figures(places: NDArray[np.int64]) -> dict[str, float]:
            rows = torch.from_numpy(places)
            guess, true = predicted[rows], truth[rows]
            found = {
                "pearson": pearson(guess, true),
                "spearman": spearman(guess, true),
                "mean_absolute_error": float((guess - true).abs().mean()),
            }
            return {self.main_score: found.pop(self.main_score), **found}

        return figures

    def describe(self, answer: Answer, seconds_per_token: float | None) -> dict[str, Any]:
        """The number."""
        return {"value": round(float(answer.output), 6)}
