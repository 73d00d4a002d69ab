"""Made-up sources and small questions about what became of them, for the tests of preparing."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from d2v.data.encoding import Encode
from d2v.data.prepare import PrepareSettings, PrepareSummary, prepare
from d2v.data.shards import Shards
from d2v.errors import BadSampleError
from d2v.samples import SourceItem, StoredSample

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


def encode(item: SourceItem) -> list[StoredSample]:
    content = item.read()
    if content.startswith(b"bad"):
        raise BadSampleError("it is bad")
    members = {"txt": content, "meta.json": b'{"length": %d}' % len(content)}
    return [StoredSample(members=members)]


def encode_several(item: SourceItem) -> list[StoredSample]:
    """One to three samples an item, of unequal length; the third one is odd."""
    (whole,) = encode(item)
    content, count = whole.members["txt"], int(item.name.removesuffix(".txt")) % 3 + 1
    return [
        StoredSample(
            members={"txt": content[place:]},
            length=10 * len(content) + place,
            totals={"bytes": len(content) - place, "tenths": 0.1},
            warnings=("it is the third",) if place == 2 else (),
        )
        for place in range(count)
    ]


def run(
    items: Iterable[SourceItem],
    dest: Path,
    settings: PrepareSettings = SMALL,
    *,
    seed: int = 0,
    encoder: Encode = encode,
    **options: Any,
) -> PrepareSummary:
    kept = list(items)
    return prepare(lambda: kept, encoder, dest, settings, seed=seed, **options)


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

    def stopping(item: SourceItem) -> list[StoredSample]:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return encode(item)

    with pytest.raises(KeyboardInterrupt):
        prepare(lambda: items, stopping, dest, SMALL, seed=0)
