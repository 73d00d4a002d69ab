"""Files to documents: plain text and JSON lines, as they are or compressed by gzip.

Nothing here holds more in memory than one part of a document or one line.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from d2v.errors import BadSampleError
from d2v.modalities.text.cutting import Part, parts, short_lines
from d2v.modalities.text.items import CONTINUED, decoded
from d2v.samples import SourceItem

MAX_BYTES = 4 << 20
"""A longer document is cut into several items: an encoder holds fifty times as much."""
MAX_LINE = 16 << 20
"""A longer JSON line is turned away, in bytes."""


@dataclass(frozen=True, kw_only=True)
class TextFile:
    """A file with documents, and what is known of all of them.

    Args:
        path: of the file.
        name: for reports, relative to the source.
        split: train, val, test or None.
    """

    path: Path
    name: str
    split: str | None = None

    @property
    def is_compressed(self) -> bool:
        """Whether its name says gzip."""
        return self.path.suffix.lower() == ".gz"

    def problem(self, reason: str, place: str = "") -> SourceItem:
        """An item for what cannot be used."""
        return SourceItem(name=self.name + place, path=self.path, split=self.split, problem=reason)


def plain_documents(
    file: TextFile, *, blank_lines: bool, max_bytes: int = MAX_BYTES
) -> Iterator[SourceItem]:
    """The documents of a plain text file. Their encoding is checked later.

    Args:
        file: to read.
        blank_lines: whether blank lines part documents; else the file is one.
        max_bytes: a longer document gives several items, which form a group; see `parts`.
    """

    def items(stream: BinaryIO) -> Iterator[SourceItem]:
        for part in parts(stream, blank_lines=blank_lines, max_bytes=max_bytes):
            yield _part_item(file, part, file.name if not blank_lines and part.offset == 0 else "")

    is_small = not file.is_compressed and file.path.stat().st_size <= max_bytes
    if is_small and not blank_lines:
        yield SourceItem(name=file.name, path=file.path, split=file.split)
    else:
        yield from streamed(file, items)


def json_documents(
    file: TextFile, as_item: Callable[[object, int], SourceItem], *, max_bytes: int = MAX_LINE
) -> Iterator[SourceItem]:
    """One item a JSON line; blank lines are passed over.

    Args:
        file: to read.
        as_item: value of a line and its number, from 1 -> item; raises BadSampleError.
        max_bytes: longest line.
    """

    def from_line(line: str, number: int) -> SourceItem:
        return as_item(_json_value(line), number)

    yield from streamed(file, partial(line_items, file, from_line, max_bytes=max_bytes))


def line_items(
    file: TextFile,
    as_item: Callable[[str, int], SourceItem],
    stream: BinaryIO,
    *,
    max_bytes: int = MAX_LINE,
) -> Iterator[SourceItem]:
    """One item a line of UTF-8; blank lines are passed over.

    Args:
        file: names the items.
        as_item: a line with its end and its number, from 1 -> item; raises BadSampleError.
        stream: the file's content, at its beginning.
        max_bytes: longest line.
    """
    offset = 0
    for number, (line, num_bytes) in enumerate(short_lines(stream, max_bytes), 1):
        begin, offset = offset, offset + num_bytes
        try:
            if line is None:
                raise BadSampleError(f"a line of more than {max_bytes:,} bytes")
            if line.strip():
                yield as_item(decoded(line, begin), number)
        except BadSampleError as error:
            yield file.problem(str(error), f":{number}")


def streamed(
    file: TextFile, items: Callable[[BinaryIO], Iterator[SourceItem]]
) -> Iterator[SourceItem]:
    """The items of a file; one more, with the reason, where it cannot be read to its end."""
    try:
        if file.is_compressed:
            with gzip.open(file.path) as unpacked:
                yield from items(cast("BinaryIO", unpacked))
        else:
            with file.path.open("rb") as stream:
                yield from items(stream)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        yield file.problem("damaged gzip: the rest of the file is lost", " (rest)")
    except OSError as error:
        yield file.problem(f"cannot be read: {error.strerror}", " (rest)")


def _part_item(file: TextFile, part: Part, name: str) -> SourceItem:
    has_path = part.content is None or not file.is_compressed
    return SourceItem(
        name=name or f"{file.name}@{part.offset}",
        path=file.path if has_path else None,
        content=None if has_path else part.content,
        offset=part.offset,
        num_bytes=part.num_bytes,
        split=file.split,
        group=f"{file.name}@{part.document}" if part.is_cut else None,
        details={CONTINUED: "yes"} if part.offset > part.document else {},
        problem=None
        if part.content is not None
        else "longer than a document may be, without a line end or space to cut it at",
    )


def _json_value(line: str) -> object:
    try:
        return cast("object", json.loads(line))
    except (ValueError, RecursionError) as error:
        raise BadSampleError(f"not JSON: {error}") from None
