"""What the readers of Hugging Face folders share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from d2v.exchange.huggingface.config import CommonConfig
from d2v.exchange.huggingface.names import prefixed
from d2v.exchange.links import Link


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """A folder, as far as it needs no knowledge of the kind of model.

    Args:
        folder: where it lies.
        values: of its config.json.
        tensors: all of its weights.
        class_name: the stock class that wrote it.
        has_head: whether a head that d2v has sits on top.
        prefix: of the bare model's tensors: "data2vec_text.", or "" where nothing sits on top.
        tokenizer: a file that the user named.
    """

    folder: Path
    values: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    class_name: str
    has_head: bool
    prefix: str
    tokenizer: Path | None = None

    @property
    def kind(self) -> str:
        """What the user is told."""
        return f"Hugging Face {self.class_name}"

    def has(self, name: str) -> bool:
        """Whether the bare model has a tensor of this name."""
        return f"{self.prefix}{name}" in self.tensors

    def under_prefix(self, links: list[Link]) -> list[Link]:
        """Links of the bare model, as its tensors are called here."""
        return prefixed(links, self.prefix.removesuffix(".")) if self.prefix else links

    def left_out(self, reasons: Mapping[str, str]) -> dict[str, str]:
        """Patterns of the bare model's names as they are here, and of a head that d2v has not."""
        own = {re.escape(self.prefix) + what: why for what, why in reasons.items()}
        if self.prefix and not self.has_head:
            why = f"of the head of {self.class_name}, which d2v does not have"
            return {**own, rf"(?!{re.escape(self.prefix)}).*": why}
        return own


def pooled_task(
    config: CommonConfig, head: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The task of a classifier and what it says of its outputs.

    Args:
        config: tells labels, and whether the one output is a number.
        head: settings of the task's head.
    """
    if config.regresses:
        # As it comes: the task's own scale, 0 to 1, changes nothing.
        return {"name": "regress", "head": head, "low": 0.0, "high": 1.0}, {}
    return {"name": "classify", "head": head}, {"classes": list(config.labels)}
