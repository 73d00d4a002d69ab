"""A small split on disk, and ways to damage it, for the tests of shards."""

import json
from pathlib import Path
from typing import Any

from d2v.data.prepare import PrepareSettings, prepare
from d2v.samples import SourceItem, StoredSample

COUNT = 25


def content(number: int) -> bytes:
    return f"content of {number} ".encode() * (number + 1)


def encode(item: SourceItem) -> list[StoredSample]:
    return [StoredSample(members={"txt": item.read(), "meta.json": b"{}"})]


def make_folder(tmp_path: Path) -> Path:
    """25 samples in 3 shards; every third has no label."""
    items = [
        SourceItem(
            name=f"s{number}",
            content=content(number),
            label=None if number % 3 == 2 else "ab"[number % 3],
        )
        for number in range(COUNT)
    ]
    settings = PrepareSettings(shard_samples=10, val_fraction=0)
    prepare(lambda: items, encode, tmp_path, settings, seed=0)
    return tmp_path / "train"


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def member(folder: Path, sample: int, extension: str) -> tuple[Path, int, int]:
    """Shard, offset and size of a member, from the index as anybody can read it."""
    index = json.loads((folder / "index.json").read_text())
    shard = index["shards"][sample // 10]
    offset, size, _ = shard["samples"][sample % 10]["members"][extension]
    return folder / shard["name"], offset, size


def edit_index(folder: Path, **changes: Any) -> None:
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, **changes}, indent=2))
