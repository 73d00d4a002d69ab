"""Is every byte of a split what it was when it was written? If not, which member is bad?"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from d2v.data.index import Index, read_index
from d2v.data.tarformat import BLOCK, header, member_bytes

CHUNK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something wrong with a shard."""

    shard: str
    member: str | None
    """File name inside the shard; None where no single member is to blame."""
    offset: int | None
    """Where in the shard the first difference is: the byte itself in headers and padding, the
    member's first byte where its content differs."""
    what: str

    def __str__(self) -> str:
        place = "" if self.member is None else f", member {self.member}"
        offset = "" if self.offset is None else f", offset {self.offset}"
        return f"{self.shard}{place}{offset}: {self.what}"


def check(folder: Path, progress: Callable[[int, int], None] | None = None) -> list[Problem]:
    """Read every shard of a split and compare it with the index.

    Args:
        folder: of the split.
        progress: told bytes done and bytes in all after each shard.

    Raises:
        UsageError: the index itself cannot be read.
    """
    index = read_index(folder / "index.json")
    total, done = sum(shard.bytes for shard in index.shards), 0
    problems = []
    for number, shard in enumerate(index.shards):
        problems += shard_problems(folder, index, number)
        done += shard.bytes
        if progress is not None:
            progress(done, total)
    listed = {shard.name for shard in index.shards}
    for path in sorted(folder.glob("*.tar")):
        if path.name not in listed:
            what = "not in the index, though any reader of *.tar would read it"
            problems.append(Problem(shard=path.name, member=None, offset=None, what=what))
    return problems


def shard_problems(folder: Path, index: Index, number: int) -> list[Problem]:
    """What is wrong with one shard; reads it once where nothing is."""
    shard = index.shards[number]
    whole = Problem(shard=shard.name, member=None, offset=None, what="")
    try:
        with (folder / shard.name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == shard.sha256:
                return []
            found = list(_differences(file, index, number))
            size = file.seek(0, 2)
    except OSError as error:
        return [Problem(**{**vars(whole), "what": f"cannot be read: {error.strerror}"})]
    if size != shard.bytes:
        what = f"has {size} bytes instead of {shard.bytes}"
        found.insert(0, Problem(**{**vars(whole), "what": what}))
    return found or [Problem(**{**vars(whole), "what": "differs from the hash in the index"})]


def _differences(file: BinaryIO, index: Index, number: int) -> Iterator[Problem]:
    """Compare member by member; in a tar of ours every byte is accounted for."""
    shard = index.shards[number]
    end, limit = 0, file.seek(0, 2)
    for name, offset, size, crc in _members(index, number):
        place = {"shard": shard.name, "member": name}
        end = offset - BLOCK + member_bytes(size)
        if end > limit:
            yield Problem(**place, offset=limit, what="the shard breaks off in or before it")
            return
        file.seek(offset - BLOCK)
        at = _first_difference(file.read(BLOCK), header(name, size))
        if at is not None:
            yield Problem(**place, offset=offset - BLOCK + at, what="its tar header differs")
        if _crc32(file, size) != crc:
            yield Problem(**place, offset=offset, what="its content differs")
        at = _first_difference(file.read(end - offset - size), bytes(end - offset - size))
        if at is not None:
            yield Problem(**place, offset=offset + size + at, what="the padding after it differs")
    file.seek(end)
    at = _first_difference(file.read(shard.bytes - end), bytes(shard.bytes - end))
    if at is not None:
        yield Problem(shard=shard.name, member=None, offset=end + at, what="its end differs")


def _members(index: Index, number: int) -> Iterator[tuple[str, int, int, int]]:
    """Name, offset, size and crc32 of a shard's members, in the order of the file."""
    samples = np.flatnonzero(index.shard_of == number)
    for sample in map(int, samples):
        rows = index.members[index.first_member[sample] : index.first_member[sample + 1]]
        for extension, offset, size, crc in sorted(rows.tolist(), key=lambda row: int(row[1])):
            yield f"{index.keys[sample]}.{index.extensions[extension]}", offset, size, crc


def _crc32(file: BinaryIO, size: int) -> int:
    crc = 0
    while size and (chunk := file.read(min(CHUNK, size))):
        crc, size = zlib.crc32(chunk, crc), size - len(chunk)
    return crc


def _first_difference(found: bytes, expected: bytes) -> int | None:
    if found == expected:
        return None
    pairs = zip(found, expected, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), len(found))
