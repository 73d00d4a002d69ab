"""A model of another library, as it was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from d2v.exchange.links import Layout


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """What a reader makes of one source; reading it changes nothing.

    Args:
        kind: of model, as the user is told: "Hugging Face Data2VecAudioForCTC".
        modality: the `modality` section: its name and the sections that shape the model.
        encoder: the `encoder` section.
        objective: what is known of the `objective` section; {} for nothing.
        layout: of `frontend.*`, `encoder.*` and `head.*` (the task's where `task` is set, else the
            regression head where the source has one).
        tensors: name -> tensor, all that the source holds.
        teacher: layout of `teacher.encoder.*` and `teacher.frontend.*`, out of the same tensors.
        task: the `finetune.task` section; None where the source has no task's head.
        about: what `Task.about` gives (classes, symbols); None without a task.
        tokenizer: content of a tokenizer.json; None where the source has none.
        notes: what a user should know.
    """

    kind: str
    modality: dict[str, Any]
    encoder: dict[str, Any]
    objective: dict[str, Any]
    layout: Layout
    tensors: Mapping[str, Tensor]
    teacher: Layout | None = None
    task: dict[str, Any] | None = None
    about: dict[str, Any] | None = None
    tokenizer: bytes | None = None
    notes: tuple[str, ...] = ()
