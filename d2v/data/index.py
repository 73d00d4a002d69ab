"""`index.json` of a split: where every member of every sample lies. Read into flat arrays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2v.errors import UsageError

FORMAT = "d2v-shards"
VERSION = 1
"""The newest version that this d2v reads, and the one it writes."""

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One shard, without its samples."""

    name: str
    bytes: int
    sha256: str
    num_samples: int


class Texts:
    """Many short strings in one block of memory instead of one object each."""

    def __init__(self, texts: list[bytes]) -> None:
        self._ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
        self._block = b"".join(texts)

    def __getitem__(self, number: int) -> str:
        begin = int(self._ends[number - 1]) if number else 0
        # File names need not be valid Unicode; what is written in the index comes back.
        return self._block[begin : int(self._ends[number])].decode("utf-8", "surrogatepass")


@dataclass(frozen=True, kw_only=True)
class Index:
    """N samples with M members in S shards."""

    split: str
    classes: list[str]
    shards: list[Shard]
    extensions: list[str]
    keys: Texts
    sources: Texts
    about: dict[str, Any]
    """What a reader must know of the samples, as whoever encoded them put it."""
    labels: Ints
    """(N,) class ids, -1 where there is none."""
    lengths: Ints
    """(N,) what batches are measured by, at least 1."""
    shard_of: Ints
    """(N,) number of the shard."""
    first_member: Ints
    """(N + 1,) sample i has the members first_member[i] to first_member[i + 1]."""
    members: Ints
    """(M, 4) number of the extension, offset, size, crc32."""

    def __len__(self) -> int:
        return len(self.labels)


def read_index(path: Path) -> Index:
    """Read and check an index.

    Raises:
        UsageError: missing, damaged, or of a newer format.
    """
    if not path.is_file():
        raise UsageError(
            f"{path} does not exist",
            expected="a folder of shards with their index",
            remedy="Run d2v prepare first.",
        )
    try:
        head, shards = _head_and_shards(path)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"it is not valid JSON ({error})") from None
    _check_format(path, head)
    try:
        return _collect(head, shards)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, IndexError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from None


def _head_and_shards(path: Path) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """As written by prepare there is one shard a line: parsing them one by one saves memory."""
    with path.open("rb") as file:
        first = file.readline()
    if first.endswith(b'"shards": [\n'):
        head = json.loads(first.rstrip() + b"]}")
        return _checked(head), _shard_lines(path)
    whole = _checked(json.loads(path.read_bytes()))
    shards = whole.get("shards", [])
    return whole, iter(shards if isinstance(shards, list) else [shards])


def _checked(head: Any) -> dict[str, Any]:
    if not isinstance(head, dict):
        raise ValueError("not an object")
    return head


def _shard_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        file.readline()
        line = b""
        for line in file:
            if line != b"]}\n":
                yield json.loads(line.rstrip(b"\n").removesuffix(b","))
    if line != b"]}\n":
        raise ValueError("it breaks off before its end")


def _check_format(path: Path, head: dict[str, Any]) -> None:
    if head.get("format") != FORMAT:
        raise _damaged(path, f"its format is {head.get('format')!r}, not {FORMAT!r}")
    version = head.get("version")
    if not isinstance(version, int) or version < 1:
        raise _damaged(path, f"its version is {version!r}")
    if version > VERSION:
        raise UsageError(
            f"{path} has format version {version}",
            expected=f"this d2v reads up to version {VERSION}",
            remedy="Use a newer d2v, or run d2v prepare again.",
        )


def _collect(head: dict[str, Any], shards: Iterator[dict[str, Any]]) -> Index:
    known: list[Shard] = []
    keys: list[bytes] = []
    sources: list[bytes] = []
    extensions: dict[str, int] = {}
    tables: list[tuple[Ints, Ints, Ints, Ints]] = []
    for record in shards:
        samples = record.pop("samples")
        shard = Shard(**record)
        known.append(shard)
        keys += [sample["key"].encode("utf-8", "surrogatepass") for sample in samples]
        sources += [sample["source"].encode("utf-8", "surrogatepass") for sample in samples]
        tables.append(_tables(samples, extensions))
        _check_shard(shard, len(samples), tables[-1][3])
    if len(keys) != head["num_samples"]:
        raise ValueError(f"{len(keys)} samples instead of {head['num_samples']}")
    if not isinstance(head.get("about", {}), dict):
        raise ValueError("its `about` is not an object")
    counts = _joined([table[2] for table in tables])
    return Index(
        split=head["split"],
        classes=[str(name) for name in head["classes"]],
        shards=known,
        extensions=list(extensions),
        keys=Texts(keys),
        sources=Texts(sources),
        about=head.get("about", {}),
        labels=_joined([table[0] for table in tables]),
        lengths=_joined([table[1] for table in tables]),
        shard_of=np.repeat(np.arange(len(known)), [shard.num_samples for shard in known]),
        first_member=np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)]),
        members=_joined([table[3] for table in tables], columns=4),
    )


def _tables(
    samples: list[dict[str, Any]], extensions: dict[str, int]
) -> tuple[Ints, Ints, Ints, Ints]:
    """Labels (n,), lengths (n,), numbers of members (n,) and members (m, 4) of a shard."""
    labels = [-1 if sample["label"] is None else sample["label"] for sample in samples]
    lengths = [sample.get("length", 1) for sample in samples]
    if any(not isinstance(length, int) or length < 1 for length in lengths):
        raise ValueError("a length is not a whole number above 0")
    counts = [len(sample["members"]) for sample in samples]
    members = [
        (extensions.setdefault(extension, len(extensions)), *place)
        for sample in samples
        for extension, place in sample["members"].items()
    ]
    table = np.array(members, np.int64).reshape(len(members), 4)
    return _ints(labels), _ints(lengths), _ints(counts), table


def _check_shard(shard: Shard, num_samples: int, members: Ints) -> None:
    if num_samples != shard.num_samples:
        raise ValueError(f"{shard.name} lists {num_samples} samples, not {shard.num_samples}")
    if Path(shard.name).name != shard.name:
        raise ValueError(f"{shard.name!r} is not a plain file name")
    offsets, sizes = members[:, 1], members[:, 2]
    if len(members) and (
        min(offsets.min(), sizes.min()) < 0 or (offsets + sizes).max() > shard.bytes
    ):
        raise ValueError(f"a member of {shard.name} lies outside of it")


def _ints(values: list[int]) -> Ints:
    return np.array(values, np.int64)


def _joined(arrays: list[Ints], columns: int = 0) -> Ints:
    empty = np.zeros((0, columns) if columns else 0, np.int64)
    return np.concatenate([empty, *arrays])


def _damaged(path: Path, how: str) -> UsageError:
    return UsageError(
        f"{path} is damaged: {how}",
        expected="an index as d2v prepare writes it",
        remedy="Run d2v prepare with --fresh.",
    )
