"""Features on their way to a file: durable parts beside it, so that a killed run can go on.

.FILE.partial/settings.json         what the features are of, and how they are made
.FILE.partial/part-000000.floats    float32, one sample's features behind the other's
.FILE.partial/part-000000.jsonl     a head, a line a sample; where this file lies, its part counts
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from d2v.commands.embed_source import Floats, Piece, Row
from d2v.data.files import WholeFile, locked, remove_temporaries, whole_file, writing
from d2v.errors import UsageError

_SETTINGS = "settings.json"
_PART_BYTES = 32 << 20
PART_SECONDS = 10.0
"""Work that a kill may cost."""


class Parts:
    """The folder of the parts; made by `opened`, which holds its lock."""

    def __init__(self, folder: Path, *, per_token: bool, ragged: bool) -> None:
        """Take over what an earlier start has finished.

        Args:
            folder: of the parts.
            per_token: features are (T, F) instead of (F,).
            ragged: whether T may differ.
        """
        self.folder = folder
        self.consumed = self.num_rows = self.num_errors = 0
        self.shape: tuple[int, ...] | None = None
        """Of each row's features; where they are ragged, of the first row's."""
        self._per_token, self._ragged = per_token, ragged
        self._parts = 0
        while (head := self._head(self._parts)) is not None:
            self._count(head)
        self._piece, self._bytes, self._begun = Piece(consumed=self.consumed), 0, time.monotonic()

    def add(self, piece: Piece) -> None:
        """Append the next piece; it is durable once its part is full.

        Raises:
            UsageError: samples differ in length, where they may not.
        """
        for row, features in zip(piece.rows, piece.features, strict=True):
            self._check_shape(row, features)
            self._bytes += features.nbytes
        self._piece.rows += piece.rows
        self._piece.features += piece.features
        self._piece.errors += piece.errors
        self._piece.consumed = piece.consumed
        if self._bytes >= _PART_BYTES or time.monotonic() - self._begun >= PART_SECONDS:
            self.end_part()

    def end_part(self) -> None:
        """Write what has come since the last part."""
        piece = self._piece
        if piece.consumed > self.consumed:
            head = {
                "consumed": piece.consumed,
                "rows": len(piece.rows),
                "errors": len(piece.errors),
                "shape": self.shape,
            }
            with whole_file(self._path("floats")) as file:
                for features in piece.features:
                    file.write(features.tobytes())
            with whole_file(self._path("jsonl")) as file:
                _write_line(file, head)
                for row, features in zip(piece.rows, piece.features, strict=True):
                    _write_line(file, ["row", row, len(features)])
                for error in piece.errors:
                    _write_line(file, ["error", error, 0])
            self._count(head)
        self._piece, self._bytes, self._begun = Piece(consumed=self.consumed), 0, time.monotonic()

    def discard(self) -> None:
        """Forget all of them."""
        shutil.rmtree(self.folder)
        self.consumed = 0

    def rows(self) -> Iterator[tuple[Row, Floats]]:
        """Every usable sample in order, with its features; one part is in memory at a time."""
        for part in range(self._parts):
            floats = np.fromfile(self._path("floats", part), np.float32)
            at = 0
            for row, count in self._lines(part, "row"):
                shape = (count, *(self.shape or ())[1:])
                size = int(np.prod(shape))
                yield row, floats[at : at + size].reshape(shape)
                at += size

    def errors(self) -> Iterator[Row]:
        """What could not be used, in order."""
        for part in range(self._parts):
            for row, _ in self._lines(part, "error"):
                yield row

    def _lines(self, part: int, kind: str) -> Iterator[tuple[Row, int]]:
        with self._path("jsonl", part).open(encoding="ascii") as file:
            next(file)
            for line in file:
                what, row, count = json.loads(line)
                if what == kind:
                    yield row, count

    def _check_shape(self, row: Row, features: Floats) -> None:
        self.shape = self.shape or features.shape
        if features.shape == self.shape or (self._ragged and self._per_token):
            return
        self.discard()  # it could never end: there is nothing to go on with
        first, own = self.shape[0], features.shape[0]
        what = "tokens" if self._per_token else "numbers"
        raise UsageError(
            f"Samples differ in length: the first has {first} {what}, {row['input']} has {own}",
            expected="as many for every sample in this format"
            if self._per_token
            else "as many for every sample: --pool tokens puts all of them side by side",
            remedy="Write a .parquet or a folder of shards, or leave --per-token out."
            if self._per_token
            else "Pass --pool mean, or --per-token.",
        )

    def _count(self, head: Mapping[str, Any]) -> None:
        self.consumed = head["consumed"]
        self.num_rows += head["rows"]
        self.num_errors += head["errors"]
        self.shape = None if head["shape"] is None else tuple(head["shape"])
        self._parts += 1

    def _head(self, part: int) -> dict[str, Any] | None:
        path = self._path("jsonl", part)
        if not path.exists():
            return None
        with path.open(encoding="ascii") as file:
            head: dict[str, Any] = json.loads(next(file))
        return head

    def _path(self, ending: str, part: int | None = None) -> Path:
        return self.folder / f"part-{self._parts if part is None else part:06d}.{ending}"


def partial_folder(out: Path) -> Path:
    """Where the parts of a file lie."""
    return out.with_name(f".{out.name}.partial")


@contextmanager
def opened(
    out: Path, settings: Mapping[str, Any], *, fresh: bool, per_token: bool, ragged: bool
) -> Iterator[Parts]:
    """Own the parts of a file for the time of the block; empty ones do not stay.

    Args:
        out: the file or folder that is to be written.
        settings: what decides its bytes, as JSON.
        fresh: forget what an earlier start has finished.
        per_token: features are (T, F) instead of (F,).
        ragged: whether T may differ.

    Raises:
        UsageError: it was begun with other settings, or another process is writing it.
    """
    folder = partial_folder(out)
    with writing(out):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        path = folder / _SETTINGS
        if fresh:
            for left in folder.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        if path.exists():
            differing = differences(json.loads(path.read_bytes()), settings)
            if differing:
                raise UsageError(
                    f"{out} was begun with {'; '.join(differing)}",
                    expected="the command that was stopped, to continue it",
                    remedy="Pass --fresh to start over, or choose another --out.",
                )
        else:
            with whole_file(path) as file:
                file.write(json.dumps(settings).encode())
        remove_temporaries(folder)
        parts = Parts(folder, per_token=per_token, ragged=ragged)
        try:
            yield parts
        finally:
            if parts.consumed == 0:
                shutil.rmtree(folder, ignore_errors=True)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Each setting that was another one, in words."""
    return [
        f"{name} {before.get(name)!r}, now it is {now.get(name)!r}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]


def _write_line(file: WholeFile, value: object) -> None:
    file.write(json.dumps(value).encode() + b"\n")
