"""Files that are either whole or not there, and errors that name the file they happened to."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from d2v.errors import UsageError


class WriteFailedError(Exception):
    """The system refused to write a file; the caller knows what that means for the run."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"{path}: {reason}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name `path` in whatever the system says against writing it."""
    try:
        yield
    except OSError as error:
        raise WriteFailedError(path, error.strerror or str(error)) from error


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class WholeFile:
    """A file under a temporary name until `commit`; gone after `discard`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name}.tmp")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = self._temporary.open("wb", buffering=1 << 20)

    def write(self, data: bytes) -> int:
        """Append."""
        with writing(self.path):
            return self._file.write(data)

    def commit(self) -> None:
        """Flush to the disk, then take the final name."""
        with writing(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._temporary.replace(self.path)
            sync_folder(self.path.parent)

    def discard(self) -> None:
        """Leave nothing behind. After `commit` this does nothing."""
        with suppress(OSError):  # a full disk refuses the last flush as well
            self._file.close()
        self._temporary.unlink(missing_ok=True)


@contextmanager
def whole_file(path: Path) -> Iterator[WholeFile]:
    """A `WholeFile` that is committed where the block succeeds and discarded where it does not."""
    file = WholeFile(path)
    try:
        yield file
        file.commit()
    finally:
        file.discard()


def remove_temporaries(folder: Path) -> None:
    """Delete what a killed run left under temporary names."""
    for path in sorted(folder.glob(".*.tmp")):
        path.unlink()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second writer out of `folder`; a killed writer's lock falls by itself."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise UsageError(
                    f"Another process is writing {folder} right now",
                    remedy="Wait for it to finish, or choose another folder.",
                ) from None
            # Some network file systems know no locks: go on without one.
        yield
    finally:
        os.close(descriptor)
