"""Made-up sources and small questions about what became of them, for the tests of preparing."""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from d2v.data.prepare import (
    PrepareProgress,
    PrepareSettings,
    PrepareSummary,
    prepare,
)
from d2v.data.shards import Shards
from d2v.errors import BadSampleError
from d2v.types import SourceItem

SMALL = PrepareSettings(shard_samples=7, val_fraction=0.2, test_fraction=0.1)


def make_items(
    count: int, *, labels: int = 3, same: int = 0, bad: int = 0, split: str | None = None
) -> list[SourceItem]:
    """`count` items; every `same`-th has the bytes of item 0, every `bad`-th cannot be used."""
    items = []
    for number in range(count):
        content = f"content of {number} ".encode() * (number % 5 + 1)
        if same and number % same == 0:
            content = b"content that comes back"
        if bad and number % bad == 1:
            content = b"bad" + content
        label = None if labels == 0 else f"class {number % labels}"
        items.append(SourceItem(name=f"{number}.txt", content=content, label=label, split=split))
    return items


def encode(item: SourceItem) -> dict[str, bytes]:
    content = item.read()
    if content.startswith(b"bad"):
        raise BadSampleError("it is bad")
    return {"txt": content, "meta.json": b'{"length": %d}' % len(content)}


def run(
    items: Iterable[SourceItem],
    dest: Path,
    settings: PrepareSettings = SMALL,
    *,
    seed: int = 0,
    progress: Callable[[PrepareProgress], None] | None = None,
) -> PrepareSummary:
    kept = list(items)
    return prepare(lambda: kept, encode, dest, settings, seed=seed, progress=progress)


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def stored_names(dest: Path, split: str) -> list[str]:
    shards = Shards.open(dest / split)
    return [shards.source(number) for number in range(len(shards))]


def interrupted(dest: Path, items: list[SourceItem], after: int) -> None:
    """Leaves a preparation that was stopped after so many items."""
    calls = iter(range(after))

    def stopping(item: SourceItem) -> dict[str, bytes]:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return encode(item)

    with pytest.raises(KeyboardInterrupt):
        prepare(lambda: items, stopping, dest, SMALL, seed=0)
