"""Writing one tar shard, so that the same samples give the same bytes."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webdataset.writer import TarWriter

from d2v.data.files import WholeFile
from d2v.data.tarformat import BLOCK, MODE, MTIME, OWNER, member_bytes


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """A finished shard, as the index describes it."""

    name: str
    bytes: int
    sha256: str
    num_samples: int


class ShardFile:
    """A shard being written under a temporary name."""

    def __init__(self, path: Path) -> None:
        self.num_samples = 0
        self.data_bytes = 0
        """Bytes of the members so far, headers and padding included."""
        self._stream = _HashedFile(path)
        # TarWriter's own defaults put the clock into the file; these do not.
        self._tar: Any = TarWriter(
            self._stream, user=OWNER, group=OWNER, mode=MODE, mtime=MTIME, encoder=False
        )

    def add(self, key: str, members: dict[str, bytes]) -> dict[str, list[int]]:
        """Append a sample. Returns extension -> [offset, size, crc32] of every member."""
        places = {}
        for extension in sorted(members):  # the order in which TarWriter writes them
            content = members[extension]
            places[extension] = [self.data_bytes + BLOCK, len(content), zlib.crc32(content)]
            self.data_bytes += member_bytes(len(content))
        self._tar.write({"__key__": key, **members})
        assert self._tar.tarstream.offset == self.data_bytes, "a member header is not one block"
        self.num_samples += 1
        return places

    def commit(self) -> ShardRecord:
        """End the tar and give the file its final name."""
        self._tar.close()
        self._stream.file.commit()
        return ShardRecord(
            name=self._stream.file.path.name,
            bytes=self._stream.size,
            sha256=self._stream.sha256.hexdigest(),
            num_samples=self.num_samples,
        )

    def discard(self) -> None:
        """Leave nothing behind."""
        self._stream.is_open = False  # tarfile ends an archive even while being thrown away
        self._tar.close()
        self._stream.file.discard()


class _HashedFile:
    """Hashes what passes, so that a shard need not be read again."""

    def __init__(self, path: Path) -> None:
        self.file = WholeFile(path)
        self.sha256 = hashlib.sha256()
        self.size = 0
        self.is_open = True

    def write(self, data: bytes) -> int:
        if not self.is_open:
            return len(data)
        self.sha256.update(data)
        self.size += len(data)
        return self.file.write(data)
