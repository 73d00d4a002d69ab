"""ARPA files: n-gram language models as text, as KenLM and SRILM write them."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn, TextIO

from d2v.errors import UsageError
from d2v.tasks.decoding.ngram import BEGIN, END, UNKNOWN, Entry, NGram, Table

UNKNOWN_MISSING = -100.0
"""log10 probability of an unknown word where the file gives none; KenLM's value."""

_COUNT = re.compile(r"ngram\s+(\d+)\s*=\s*(\d+)")


def write_arpa(model: NGram, path: Path) -> None:
    """Write a model; numbers are kept exactly, lines are sorted: same model, same bytes."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write("\\data\\\n")
        for order, table in enumerate(model.tables, start=1):
            file.write(f"ngram {order}={len(table)}\n")
        for order, table in enumerate(model.tables, start=1):
            file.write(f"\n\\{order}-grams:\n")
            for ngram, (log10, backoff) in sorted(table.items()):
                weight = f"\t{backoff!r}" if backoff else ""
                file.write(f"{log10!r}\t{' '.join(ngram)}{weight}\n")
        file.write("\n\\end\\\n")


def read_arpa(path: Path) -> NGram:
    """A model from a file, `.gz` or plain.

    Raises:
        UsageError: the file is missing or damaged; names the line.
    """
    tables: list[Table] = []
    for ngram, entry in read_entries(path):
        if len(ngram) > len(tables):
            tables.append({})
        tables[len(ngram) - 1][ngram] = entry
    tables[0].setdefault((UNKNOWN,), Entry(UNKNOWN_MISSING))
    return NGram(tables)


def read_words(path: Path) -> tuple[dict[str, float], int]:
    """Words of a model, and nothing else in memory; the whole file is checked.

    Returns:
        word -> log10 p(word), `<s>` and its like left out; the order.

    Raises:
        UsageError: as `read_arpa`.
    """
    words: dict[str, float] = {}
    order = 1
    for ngram, entry in read_entries(path):
        order = len(ngram)
        if order == 1 and ngram[0] not in (BEGIN, END, UNKNOWN):
            words[ngram[0]] = entry.log10
    return words, order


def read_entries(path: Path) -> Iterator[tuple[tuple[str, ...], Entry]]:
    """All n-grams of a file, shortest first, checked as they come.

    Raises:
        UsageError: as `read_arpa`.
    """
    try:
        with _open(path) as file:
            lines = _Lines(path, file)
            yield from _entries(lines)
    except OSError as error:  # gzip's own is among them
        raise _damaged(path, f"cannot be read ({error.strerror or error})") from error
    except (EOFError, zlib.error, UnicodeDecodeError) as error:
        raise _damaged(path, f"cannot be read after line {lines.number} ({error})") from error


def _entries(lines: _Lines) -> Iterator[tuple[tuple[str, ...], Entry]]:
    counts = _read_counts(lines)
    known: set[str] = set()
    for order, count in enumerate(counts, start=1):
        for _ in range(count):
            line = lines.next_filled()
            if line.startswith("\\"):
                lines.fail(
                    f"{line} comes before the {count:,} {order}-grams of the header are read"
                )
            ngram, entry = _parse(lines, line, order, last=order == len(counts))
            if order == 1 and ngram[0] in known:
                lines.fail(f"the word {ngram[0]} for the second time")
            known.update(ngram if order == 1 else ())
            if strange := [word for word in ngram if word not in known]:
                lines.fail(f"the word {strange[0]} is not among the 1-grams")
            yield ngram, entry
        following = "\\end\\" if order == len(counts) else f"\\{order + 1}-grams:"
        line = lines.next_filled()
        if line != following:
            lines.fail(
                f"{line!r} after {count:,} {order}-grams", f"{following}, as the header says"
            )
        if order == 1 and (missing := {BEGIN, END} - known):
            lines.fail(f"the 1-grams lack {' and '.join(sorted(missing))}")


def _read_counts(lines: _Lines) -> list[int]:
    """The header, up to and with the heading of the 1-grams."""
    while (line := lines.next_filled("\\data\\")) != "\\data\\":
        if line.startswith("\\"):
            lines.fail(f"{line} before \\data\\")
    counts: list[int] = []
    while not (line := lines.next_filled()).startswith("\\"):
        found = _COUNT.fullmatch(line)
        if found is None or int(found[1]) != len(counts) + 1:
            lines.fail(f"{line!r} in the header", f"ngram {len(counts) + 1}=COUNT")
        counts.append(int(found[2]))
    if line != "\\1-grams:" or not counts:
        lines.fail(f"{line!r} after the header", "ngram 1=COUNT, then \\1-grams:")
    return counts


def _parse(lines: _Lines, line: str, order: int, *, last: bool) -> tuple[tuple[str, ...], Entry]:
    fields = re.split(r"[ \t]+", line)  # not split(): a word may hold other Unicode spaces
    lengths = (order + 1,) if last else (order + 1, order + 2)
    if len(fields) not in lengths:
        expected = f"log10 probability, {order} words" + (
            "" if last else ", maybe a backoff weight"
        )
        lines.fail(f"{len(fields)} fields for a {order}-gram", expected)
    log10 = _number(lines, fields[0])
    if log10 > 0:
        lines.fail(f"a probability above 1 (log10 {fields[0]})")
    backoff = _number(lines, fields[-1]) if len(fields) == order + 2 else 0.0
    # <UNK> is how some LibriSpeech models spell it; KenLM takes both too.
    words = tuple(UNKNOWN if word == "<UNK>" else word for word in fields[1 : order + 1])
    return words, Entry(log10, backoff)


def _number(lines: _Lines, field: str) -> float:
    try:
        value = float(field)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        lines.fail(f"{field!r} is not a number")
    return value


class _Lines:
    """Lines of a file, counted, so that a fault can be named."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self.path, self.file, self.number = path, file, 0

    def next_filled(self, awaited: str = "\\end\\") -> str:
        for line in self.file:
            self.number += 1
            if stripped := line.strip(" \t\r\n"):
                return stripped
        return self.fail(f"the file ends without {awaited}")

    def fail(self, happened: str, expected: str = "") -> NoReturn:
        raise _damaged(self.path, f"line {self.number:,}: {happened}", expected)


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def _damaged(path: Path, happened: str, expected: str = "") -> UsageError:
    return UsageError(
        f"{path} is no usable language model: {happened}",
        expected=expected or "an ARPA text file, plain or .gz, as KenLM and SRILM write it",
        remedy="Fetch or make the file again.",
    )
