"""Folders that are whole or not there, and the hashes that tell whether they still are."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from d2v.engine.checkpoint import sync_folder, write_durably


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder to write into, which takes the place of `path` where the block succeeds.

    A kill at any moment leaves a whole folder or none, and at most one with a dot in front, which
    the next try removes.

    Raises:
        OSError: it cannot be written; nothing half-written is left.
    """
    partial = path.with_name(f".partial-{path.name}")
    _remove(partial)
    partial.mkdir(parents=True)
    try:
        yield partial
        _remove(path)
        partial.rename(path)
        sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):  # the error that is under way says more
            _remove(partial)
        raise


def file_names(folder: Path) -> list[str]:
    """Every file below a folder, relative to it, sorted; hidden ones are not finished."""
    return [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    ]


def copy_files(source: Path, names: Iterable[str], folder: Path) -> None:
    """Copy files from below one folder to below another."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_durably(folder / name, (source / name).read_bytes())


def file_hashes(folder: Path) -> dict[str, str]:
    """Path below the folder -> sha256, of every file but hidden ones."""
    return {name: _sha256(folder / name) for name in file_names(folder)}


def altered_file(folder: Path, hashes: Mapping[str, str]) -> tuple[str, str] | None:
    """The first file that is not what it was, and why; None where all are."""
    for name, digest in hashes.items():
        try:
            found = _sha256(folder / name)
        except OSError as error:
            return name, error.strerror or str(error)
        if found != digest:
            return name, "its sha256 is another one than when it was written"
    return None


def as_json(value: object) -> bytes:
    """JSON for a file; it knows no NaN and no infinity: null."""
    return (json.dumps(_sayable(value), indent=1, sort_keys=True) + "\n").encode()


def _sayable(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _sayable(part) for name, part in value.items()}
    return [_sayable(part) for part in value] if isinstance(value, list | tuple) else value


def _remove(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
