"""A task's head in the layout of another library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from d2v.exchange.links import Link


@dataclass(frozen=True, kw_only=True)
class TaskHead:
    """What a reader makes of it.

    Args:
        task: the `finetune.task` section.
        about: what its outputs are, as `Task.about` gives it.
        links: of `head.*`.
    """

    task: dict[str, Any]
    about: dict[str, Any]
    links: list[Link]
