"""A stream of bytes to documents, and documents to parts of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO


@dataclass(frozen=True, kw_only=True)
class Part:
    """A document, or a part of one.

    Args:
        offset: where it begins in the stream, in bytes.
        num_bytes: its size.
        content: its bytes; None where there was no place to cut.
        document: where its document begins.
        is_cut: whether the document has further parts, before or behind.
    """

    offset: int
    num_bytes: int
    content: bytes | None
    document: int
    is_cut: bool


def parts(stream: BinaryIO, *, blank_lines: bool, max_bytes: int) -> Iterator[Part]:
    """Cut a stream into documents and these into parts.

    A document of more than `max_bytes` is cut behind its last line end before that, a longer line
    behind its last space. A stretch without either comes without content.

    Args:
        stream: of bytes, at its beginning.
        blank_lines: whether blank lines part documents; else the stream is one.
        max_bytes: the largest part.
    """
    held: list[bytes] = []
    begin = document = offset = 0
    is_line_start = True
    for line, num_bytes in bounded_lines(stream, max_bytes):
        is_end = blank_lines and is_line_start and line is not None and not line.strip()
        if held and (is_end or line is None or offset + num_bytes - begin > max_bytes):
            yield _part(held, begin, document, is_cut=not is_end or begin > document)
            held = []
        if is_end:
            document = offset + num_bytes
        elif line is None:
            yield Part(
                offset=offset, num_bytes=num_bytes, content=None, document=document, is_cut=True
            )
        else:
            begin = begin if held else offset
            held.append(line)
        offset += num_bytes
        is_line_start = line is None or line.endswith(b"\n")
    if held:
        yield _part(held, begin, document, is_cut=begin > document)


def bounded_lines(stream: BinaryIO, max_bytes: int) -> Iterator[tuple[bytes | None, int]]:
    """Lines and their sizes; a longer one in portions that end in a space.

    Where a portion has no space, it comes with the rest of its line as None.
    """
    line = b""
    while True:
        if not line.endswith(b"\n"):
            line += stream.readline(max_bytes + 1 - len(line))
        if not line:
            return
        if len(line) <= max_bytes:
            yield line, len(line)
            line = b""
        elif end := line.rfind(b" ", 0, max_bytes) + 1:
            yield line[:end], end
            line = line[end:]
        else:
            yield None, len(line) + _skip_line(line, stream, max_bytes)
            line = b""


def short_lines(stream: BinaryIO, max_bytes: int) -> Iterator[tuple[bytes | None, int]]:
    """Lines and their sizes; a longer one comes as None."""
    while line := stream.readline(max_bytes + 1):
        if len(line) <= max_bytes:
            yield line, len(line)
        else:
            yield None, len(line) + _skip_line(line, stream, max_bytes)


def _part(held: list[bytes], begin: int, document: int, *, is_cut: bool) -> Part:
    content = b"".join(held)
    return Part(
        offset=begin, num_bytes=len(content), content=content, document=document, is_cut=is_cut
    )


def _skip_line(line: bytes, stream: BinaryIO, max_bytes: int) -> int:
    """Bytes behind `line` up to and with its line end."""
    skipped = 0
    while line and not line.endswith(b"\n"):
        line = stream.readline(max_bytes)
        skipped += len(line)
    return skipped
