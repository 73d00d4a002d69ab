"""Random access to the samples of one split on disk."""

from __future__ import annotations

import copy
import hashlib
import os
import threading
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import numpy as np

from d2v.data.index import Index, Ints, read_index
from d2v.data.verify import Problem, check, shard_problems
from d2v.errors import BadSampleError, D2VError, UsageError

__all__ = ["Problem", "Shards", "check"]

MAX_MEMBER_BYTES = 1 << 30
"""A larger member is refused before it is read: an index is data from outside."""
MAX_OPEN_FILES = 128


class Shards:
    """The N samples of a split, by number.

    Cheap to pickle for workers; each process opens the shards anew, at the first read.
    """

    def __init__(self, folder: Path, index: Index, fingerprint: str) -> None:
        self.folder = folder
        self.classes = index.classes
        """Label names; a class id is the place in this list."""
        self.labels: Ints = index.labels
        """(N,) int64 class ids, -1 where there is none."""
        self.lengths: Ints = index.lengths
        """(N,) int64, `StoredSample.length` of each; 1 where the index says nothing."""
        self.about = index.about
        """What a reader must know of the samples, as the encoder put it; {} where nothing."""
        self.fingerprint = fingerprint
        """sha256 of index.json, which holds every shard's sha256."""
        self.num_bytes = sum(shard.bytes for shard in index.shards)
        self._index = index
        self._numbers: Ints | None = None  # of the samples in the index; None for all of them
        self._files = _OpenFiles()

    @staticmethod
    def open(folder: Path, *, verify: Literal["size", "hash"] = "size") -> Shards:
        """Read the index of a split and check its shards.

        Args:
            folder: of the split, with index.json.
            verify: "size" looks at each shard's size, "hash" reads every byte.

        Raises:
            UsageError: nothing prepared there, a damaged or newer index, a bad shard.
        """
        path = folder / "index.json"
        index = read_index(path)
        for number, shard in enumerate(index.shards):
            _check_size(folder / shard.name, shard.bytes)
            if verify == "hash" and (problems := shard_problems(folder, index, number)):
                raise _unusable(f"{folder / problems[0].shard} is damaged: {problems[0]}")
        with path.open("rb") as file:
            fingerprint = hashlib.file_digest(file, "sha256").hexdigest()
        return Shards(folder, index, fingerprint)

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, numbers: Ints) -> Shards:
        """Some of the samples as a split of their own, in the order given.

        Args:
            numbers: (n,) int64, places in this split.
        """
        chosen = copy.copy(self)
        chosen.labels, chosen.lengths = self.labels[numbers], self.lengths[numbers]
        chosen._numbers = numbers if self._numbers is None else self._numbers[numbers]
        chosen._files = _OpenFiles()
        return chosen

    def relabelled(self, classes: list[str]) -> Shards:
        """The same samples, their classes numbered as in `classes`; other classes are no label."""
        changed = copy.copy(self)
        place = {name: number for number, name in enumerate(classes)}
        numbers = np.array([*(place.get(name, -1) for name in self.classes), -1], np.int64)
        changed.classes, changed.labels = classes, numbers[self.labels]
        changed._files = _OpenFiles()
        return changed

    def having(self, extension: str) -> Ints:
        """Numbers of the samples that have a member with this extension, ascending. (n,) int64."""
        index = self._index
        if extension not in index.extensions:
            return np.zeros(0, np.int64)
        found = index.members[:, 0] == index.extensions.index(extension)
        owners = np.repeat(np.arange(len(index)), np.diff(index.first_member))[found]
        numbers = np.arange(len(index)) if self._numbers is None else self._numbers
        places: Ints = np.flatnonzero(np.isin(numbers, owners))
        return places

    def source(self, i: int) -> str:
        """Where sample i came from: its path relative to the source."""
        return self._index.sources[self._number(i)]

    def key(self, i: int) -> str:
        """The name of sample i's members inside the shard, without extension."""
        return self._index.keys[self._number(i)]

    def read(self, i: int, only: Collection[str] | None = None) -> dict[str, bytes]:
        """The members of sample i: extension -> content; `only` these, None for all.

        Raises:
            BadSampleError: the bytes are not those that were written.
        """
        i, index = self._number(i), self._index
        path = self.folder / index.shards[int(index.shard_of[i])].name
        rows = index.members[index.first_member[i] : index.first_member[i + 1]]
        members = {}
        for number, offset, size, crc in rows.tolist():
            extension = index.extensions[number]
            if only is not None and extension not in only:
                continue
            where = f"{path}, member {index.keys[i]}.{extension} at offset {offset}"
            content = self._content(path, offset, size, where)
            if zlib.crc32(content) != crc:
                raise BadSampleError(f"{where}: the content has changed since it was written")
            members[extension] = content
        return members

    def close(self) -> None:
        """Close the shards; the next read opens them again."""
        self._files.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_files": _OpenFiles()}

    def _number(self, i: int) -> int:
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        return i if self._numbers is None else int(self._numbers[i])

    def _content(self, path: Path, offset: int, size: int, where: str) -> bytes:
        if size > MAX_MEMBER_BYTES:
            raise BadSampleError(f"{where}: {size} bytes, more than {MAX_MEMBER_BYTES}")
        try:
            content = self._files.read(path, offset, size)
        except OSError as error:
            raise D2VError(
                f"{where} cannot be read: {error.strerror}",
                remedy="Check that the shards are still there and the disk is healthy.",
            ) from error
        if len(content) < size:
            raise BadSampleError(f"{where}: breaks off after {len(content)} of {size} bytes")
        return content


class _OpenFiles:
    """Descriptors of this process, the most recently used ones."""

    def __init__(self) -> None:
        self._begin()

    def read(self, path: Path, offset: int, size: int) -> bytes:
        if os.getpid() != self._process:  # after a fork: the parent's lock may be held for ever
            self.close()
            self._begin()
        with self._lock:
            descriptor = self._open.pop(path, None)
            if descriptor is None:
                descriptor = os.open(path, os.O_RDONLY)
            self._open[path] = descriptor  # last = most recent
            if len(self._open) > MAX_OPEN_FILES:
                os.close(self._open.pop(next(iter(self._open))))
            return os.pread(descriptor, size, offset)

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._begin()

    def __del__(self) -> None:
        self.close()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._open: dict[Path, int] = {}
        self._lock = threading.Lock()


def _check_size(path: Path, num_bytes: int) -> None:
    if not path.is_file():
        raise _unusable(f"{path} is missing")
    size = path.stat().st_size
    if size != num_bytes:
        raise _unusable(f"{path} has {size} bytes, and its index says {num_bytes}")


def _unusable(happened: str) -> UsageError:
    return UsageError(
        happened,
        expected="shards as d2v prepare wrote them",
        remedy="Copy them again, or run d2v prepare with --fresh.",
    )
