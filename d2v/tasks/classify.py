"""Classification: encoder, one pooled vector, a head, cross entropy.

Letters: B batch, T tokens, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from d2v.core.encoder import Encoder
from d2v.core.scores import accuracy, among_top_k, f1, macro_f1, matthews
from d2v.tasks.base import Answer, Judge, Task
from d2v.tasks.heads import HeadSettings, PooledHead
from d2v.tasks.mixing import MixSettings, mix
from d2v.tasks.model import Outputs, TaskModel, TaskSettings
from d2v.tasks.pictures import draw_confusion
from d2v.types import Batch, Frontend, Loss, Mask

Score = Literal["accuracy", "matthews", "f1"]
_TOP = 5


class ClassifySettings(TaskSettings):
    """One class for each sample."""

    name: Literal["classify"]
    head: HeadSettings = HeadSettings()
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target that is spread over all classes."""
    mix: MixSettings = MixSettings()
    score: Score = "accuracy"
    """What picks checkpoints; matthews and f1 (of the second class) want two classes."""


class ClassifyModel(TaskModel):
    """A classifier that the engine can train."""

    def __init__(
        self, frontend: Frontend, encoder: Encoder, settings: ClassifySettings, num_classes: int
    ) -> None:
        self.task_settings, self.num_classes = settings, num_classes
        head = PooledHead(settings.head, encoder.settings, num_classes)
        super().__init__(frontend, encoder, head, settings)
        self.own_norm = settings.head.norm

    def forward(self, batch: Batch, mask: Mask | None, *, monitor: bool = False) -> Loss:
        """Cross entropy summed over labelled samples."""
        assert batch.labels is not None
        known = batch.labels >= 0
        target = F.one_hot(batch.labels.clamp_min(0), self.num_classes).float()
        target = target * known.unsqueeze(1)  # unlabelled samples have no part in the loss
        if self.training:
            batch, target = mix(batch, target, self.task_settings.mix)
        logits = self.head(*self.encode(batch, mask)).float()
        smooth = self.task_settings.label_smoothing
        target = target * (1 - smooth) + smooth * target.sum(1, keepdim=True) / self.num_classes
        total = -(target * logits.log_softmax(1)).sum()
        monitors = {}
        if monitor:
            right = (logits.detach().argmax(1) == target.argmax(1)) & known
            monitors = {"train_accuracy": right.sum() / known.sum().clamp_min(1)}
        return Loss(total=total, count=known.sum(), monitors=monitors)

    def read_head(
        self, head: nn.Module, x: Tensor, padding: Tensor | None, num_prefix: int
    ) -> Outputs:
        """Logits (B, C)."""
        return Outputs(head(x, padding, num_prefix))

    def initialise_head(self, generator: Generator) -> None:
        """Draw the head's weights."""
        assert isinstance(self.head, PooledHead)
        self.head.initialise(generator)


@dataclass(frozen=True)
class Classify(Task):
    """Classes with names."""

    settings: ClassifySettings
    classes: tuple[str, ...]

    @property
    def main_score(self) -> str:
        """As set."""
        return self.settings.score

    def target(self, parts: Mapping[str, bytes]) -> Any:
        """The index knows the class."""
        return None

    def collate(self, targets: Sequence[Any]) -> Tensor | None:
        """`Batch.labels` says all."""
        return None

    def truths(self, batch: Batch) -> list[Any]:
        """Class ids."""
        if batch.labels is None:
            return [None] * len(batch)
        return [None if label < 0 else label for label in batch.labels.tolist()]

    def build(self, frontend: Frontend, encoder: Encoder) -> ClassifyModel:
        """The model."""
        return ClassifyModel(frontend, encoder, self.settings, len(self.classes))

    def about(self) -> dict[str, Any]:
        """The names of the outputs."""
        return {"classes": list(self.classes)}

    def judge(self, answers: Sequence[Answer]) -> Judge:
        """Accuracy, top 5, macro F1; Matthews' correlation and F1 of the second of two classes."""
        logits = torch.stack([answer.output for answer in answers])  # (N, C)
        truth = torch.tensor([answer.target for answer in answers])
        predicted, num_classes = logits.argmax(1), len(self.classes)
        near = among_top_k(logits, truth, _TOP)  # (N,), ranked once

        def figures(places: NDArray[np.int64]) -> dict[str, float]:
            rows = torch.from_numpy(places)
            guess, true = predicted[rows], truth[rows]
            found = {
                "accuracy": accuracy(guess, true),
                "macro_f1": macro_f1(guess, true, num_classes),
            }
            if num_classes > _TOP:
                found["top5"] = float(near[rows].double().mean())
            if num_classes == 2:
                found |= {"matthews": matthews(guess, true), "f1": f1(guess, true)}
            return {self.main_score: found.pop(self.main_score), **found}

        return figures

    def describe(self, answer: Answer, seconds_per_token: float | None) -> dict[str, Any]:
        """The label, and every class with its probability, the likeliest first."""
        chances = answer.output.softmax(0)
        order = chances.argsort(descending=True, stable=True).tolist()
        ranked = {self.classes[place]: round(float(chances[place]), 6) for place in order}
        return {"label": self.classes[order[0]], "probabilities": ranked}

    def report(self, answers: Sequence[Answer], sources: Sequence[str], folder: Path) -> list[str]:
        """The confusion matrix as a picture."""
        known = [answer for answer in answers if answer.target is not None]
        path = folder / "confusion.png"
        draw_confusion(
            [int(answer.output.argmax()) for answer in known],
            [answer.target for answer in known], self.classes, path,
        )  # fmt: skip
        return [f"confusion matrix in {path}"]
