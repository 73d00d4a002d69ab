"""What leaves for another library, and what is told of it there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from d2v.core.encoder import Encoder
from d2v.exchange.own_scale import in_own_scale
from d2v.modalities import Modality
from d2v.recipe import Recipe
from d2v.tasks import (
    ClassifySettings,
    CtcSettings,
    RegressSettings,
    Task,
    TaskModel,
    TaskSettings,
)
from d2v.types import Frontend


@dataclass(frozen=True, kw_only=True)
class Table:
    """Figures, as a command reported them.

    Args:
        columns: headings.
        rows: cells as text, one list a row.
        remarks: what they mean.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """A trained model of ours: in eval mode, float32, without gradients, on the CPU.

    Args:
        recipe: as it was when the weights were made: of a task model while fine-tuning. It holds
            the settings of `frontend` and `encoder`.
        modality: turns raw data into batches; knows its tokenizer where there is one.
        frontend: the task model's where there is one.
        encoder: likewise. A task model with `own_norm` reads it without its final norm.
        model: frontend, encoder and head for a task; None for the encoder alone.
        task: knows what the outputs of `model` mean; None with it.
        learned: folder of what the modality learned from the data (a tokenizer); None for nothing.
        regression_head: the student's head of pre-training, name -> tensor; {} without one.
        figures: what was measured -> a table of it, with intervals where they were computed.
        data: what it was trained on, a line each, for people.
        name: of the run.
        network: whose weights, for people: student, teacher, or fine-tuned.
        steps: optimiser updates of pre-training; None where nobody knows.
        licence: SPDX identifier, or None where the user named none.
        made_anew: our names of weights that another library did not have when they came from it,
            such as the vector for masked places: drawn, and never trained.
    """

    recipe: Recipe
    modality: Modality
    frontend: Frontend
    encoder: Encoder
    model: TaskModel | None = None
    task: Task | None = None
    learned: Path | None = None
    regression_head: Mapping[str, Tensor] = field(default_factory=dict)
    figures: Mapping[str, Table] = field(default_factory=dict)
    data: tuple[str, ...] = ()
    name: str
    network: str
    steps: int | None = None
    licence: str | None = None
    made_anew: frozenset[str] = frozenset()

    def task_and_tensors(self) -> tuple[TaskSettings | None, dict[str, Tensor]]:
        """The task's settings, and all tensors by our names: frontend.*, encoder.*, head.*.

        A regression's last layer gives the value itself, as no other library knows of a scale.
        """
        parts: dict[str, nn.Module] = {"frontend": self.frontend, "encoder": self.encoder}
        task: TaskSettings | None = None
        if self.model is not None:
            settings = self.model.settings
            assert isinstance(settings, ClassifySettings | RegressSettings | CtcSettings)
            parts, task = self.model.kept_parts(), settings.model_copy(update={"average": None})
        tensors = {
            f"{part}.{name}": tensor
            for part, module in parts.items()
            for name, tensor in module.state_dict().items()
        }
        return (in_own_scale(task, tensors) if isinstance(task, RegressSettings) else task), tensors


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written for another library, loaded there again and compared.

    Args:
        what: what it is there, in a few words: "transformers Data2VecVisionModel".
        files: names below the folder, sorted.
        how_to_load: lines of Python that load and call it; the folder is written `DEST`.
        largest_difference: of any output from ours, absolute.
        remarks: what a user should know.
    """

    what: str
    files: tuple[str, ...]
    how_to_load: str
    largest_difference: float
    remarks: tuple[str, ...] = ()
