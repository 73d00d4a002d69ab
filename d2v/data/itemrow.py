"""An item as a row of the plan and back, and what tells whether a source has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from d2v.samples import SourceItem

COLUMNS = (
    "name", "path", "content", "first_byte", "num_bytes", "part", "label", "split", "kin",
    "details", "problem",
)  # fmt: skip
"""In SQL's words: there `offset` and `group` mean something else."""


def as_row(item: SourceItem) -> tuple[Any, ...]:
    """The values of `COLUMNS`."""
    return (
        _as_bytes(item.name),
        None if item.path is None else _as_bytes(str(item.path)),
        item.content,
        item.offset,
        item.num_bytes,
        _as_bytes(item.part),
        None if item.label is None else _as_bytes(item.label),
        item.split,
        None if item.group is None else _as_bytes(item.group),
        json.dumps(item.details),
        None if item.problem is None else _as_bytes(item.problem),
    )


def as_item(row: Sequence[Any]) -> SourceItem:
    """The inverse of `as_row`."""
    name, path, content, offset, num_bytes, part, label, split, group, details, problem = row
    return SourceItem(
        name=as_text(name),
        path=None if path is None else Path(as_text(path)),
        content=content,
        offset=offset,
        num_bytes=num_bytes,
        part=as_text(part),
        label=None if label is None else as_text(label),
        split=split,
        group=None if group is None else as_text(group),
        details=json.loads(details),
        problem=None if problem is None else as_text(problem),
    )


def identity(item: SourceItem) -> dict[str, Any]:
    """All that is said of an item, with its content's hash or its file's size and time."""
    state: object = None
    if item.content is not None:
        state = hashlib.sha256(item.content).hexdigest()
    elif item.path is not None:
        with suppress(OSError):  # a file that is not there is rejected later, with its reason
            stat = item.path.stat()
            state = [stat.st_size, stat.st_mtime_ns]
    said = {key: value for key, value in vars(item).items() if key not in ("path", "content")}
    return {**said, "state": state}


def as_text(data: bytes) -> str:
    """What `as_row` made bytes."""
    return data.decode("utf-8", "surrogatepass")


def _as_bytes(text: str) -> bytes:
    """File names need not be valid Unicode, and SQLite's text must."""
    return text.encode("utf-8", "surrogatepass")
