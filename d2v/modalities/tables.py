"""Rows of .csv and .tsv files that list samples."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from d2v.errors import UsageError
from d2v.modalities.base import SourceSettings
from d2v.modalities.listing import SPLIT_NAMES, suffix_of

SEPARATORS = {".csv": ",", ".tsv": "\t"}
"""How a table's name ends -> what stands between its fields."""
MAX_FIELD = 1 << 28
"""Characters of one field; csv's own limit is 131,072, which a long text exceeds."""
PLAIN_MARKS = "Where a quotation mark is a character like any other, set data.quoting=false."
"""What to do about a table in which they open no field."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table.

    Args:
        table: the file.
        line: number of its last line in the file, from 1.
        values: column -> field; what a short row lacks is None.
    """

    table: Path
    line: int
    values: Mapping[str, str | None]

    def get(self, column: str) -> str | None:
        """A field; None where it is empty or the table has no such column."""
        return self.values.get(column) or None

    def need(self, column: str, what: str) -> str:
        """A field that must not be empty. Raises UsageError, which says `what` belongs there."""
        field = self.get(column)
        if field is None:
            raise UsageError(
                f"{self.table}, line {self.line}: the column {column!r} is empty",
                expected=f"{what} in every row",
            )
        return field

    def split(self, column: str) -> str | None:
        """train, val or test from a column that may say it in other words. Raises UsageError."""
        field = self.get(column)
        if field is None:
            return None
        if field.lower() not in SPLIT_NAMES:
            raise UsageError(
                f"{self.table}, line {self.line}: the split is {field!r}",
                expected=f"one of {', '.join(SPLIT_NAMES)}",
            )
        return SPLIT_NAMES[field.lower()]


def is_table(path: Path) -> bool:
    """Whether a file is called like a table."""
    return suffix_of(path.name) in SEPARATORS


def read_rows(
    path: Path,
    settings: SourceSettings,
    *,
    noun: str,
    required: tuple[str, ...],
    optional: tuple[str, ...],
) -> Iterator[Row]:
    """The rows of a table in their own order; empty lines are passed over.

    Args:
        path: of the table; its suffix tells the separator.
        settings: which columns there are called what; header and quoting.
        noun: what a row describes, for error messages.
        required: settings that name columns which must be there.
        optional: settings that name columns which may be missing under their usual name.

    Raises:
        UsageError: not readable as such a table, a column is missing, or there is no row.
    """
    if not is_table(path):
        raise UsageError(
            f"{path} is no table", expected=f"a file ending in {' or '.join(SEPARATORS)}"
        )
    columns: list[str] = []
    is_empty = True
    csv.field_size_limit(MAX_FIELD)  # csv keeps it for the whole process, always this figure
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for line, fields in _records(path, file, settings):
                if not columns:
                    columns = fields if settings.header else [str(n) for n in range(len(fields))]
                    _check_columns(path, columns, settings, required, optional)
                    if settings.header:
                        continue
                is_empty = False
                yield _row(path, line, columns, fields, settings)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"The table {path} cannot be read: {error}",
            expected=f"UTF-8 text with one row a {noun}"
            + (" and the columns' names on top" if settings.header else ""),
        ) from error
    if not columns:
        _check_columns(path, columns, settings, required, optional)
    if is_empty:
        raise UsageError(f"The table {path} has no rows", expected=f"one row a {noun}")


def _records(
    path: Path, file: Iterable[str], settings: SourceSettings
) -> Iterator[tuple[int, list[str]]]:
    """Last line and fields of every record that is not empty.

    Raises:
        UsageError: a quoted field does not end where one can: a mark that was meant as a character
            would make one record of many, unnoticed.
    """
    suffix = suffix_of(path.name)
    rows = csv.reader(
        file,
        delimiter=SEPARATORS[suffix],
        quoting=csv.QUOTE_MINIMAL if settings.quoting else csv.QUOTE_NONE,
        strict=True,
    )
    while True:
        first = rows.line_num + 1
        try:
            fields = next(rows, None)
        except csv.Error as error:
            problem = _problem(str(error), first, rows.line_num)
            raise _badly_quoted(path, first, problem, settings) from error
        if fields is None:
            return
        if rows.line_num > first and suffix == ".tsv":
            problem = f"a quoted field runs on to line {rows.line_num}"
            raise _badly_quoted(path, first, problem, settings)
        if fields:
            yield rows.line_num, fields


def _problem(error: str, first: int, last: int) -> str:
    """What csv has against a record, in words that name no control characters."""
    if "field limit" in error:
        return f"a field of more than {MAX_FIELD:,} characters"
    if "end of data" in error:
        return "a quoted field never ends"
    return "text follows the closing mark of a quoted field" + (
        f", in line {last}" if last > first else ""
    )


def _badly_quoted(path: Path, line: int, problem: str, settings: SourceSettings) -> UsageError:
    return UsageError(
        f"{path}, line {line}: {problem}",
        expected="a quoted field that ends in a quotation mark, those within it doubled"
        + (", in the line in which it begins" if suffix_of(path.name) == ".tsv" else "")
        if settings.quoting
        else "shorter fields",
        remedy=PLAIN_MARKS if settings.quoting else "",
    )


def _row(
    path: Path, line: int, columns: list[str], fields: list[str], settings: SourceSettings
) -> Row:
    if len(fields) > len(columns):  # a separator within a text would cut the text unnoticed
        raise UsageError(
            f"{path}, line {line}: {len(fields)} fields, but there are {len(columns)} columns",
            expected="as many fields as columns",
            remedy=f"Put fields that hold the separator in quotation marks. {PLAIN_MARKS}"
            if settings.quoting
            else "Take the separator out of fields, or quote them and set data.quoting=true.",
        )
    missing = [None] * (len(columns) - len(fields))
    return Row(table=path, line=line, values=dict(zip(columns, [*fields, *missing], strict=True)))


def _check_columns(
    path: Path,
    columns: list[str],
    settings: SourceSettings,
    required: tuple[str, ...],
    optional: tuple[str, ...],
) -> None:
    wanted = {field: getattr(settings, field) for field in required}
    for field in optional:
        # The usual names may be missing; one that somebody chose may not.
        column = getattr(settings, field)
        if column is not None and column != SourceSettings.model_fields[field].default:
            wanted[field] = column
    for field, column in wanted.items():
        if column not in columns:
            separator = "tabs" if suffix_of(path.name) == ".tsv" else "commas"
            raise UsageError(
                f"The table {path} has no column {column!r}; its columns are: {', '.join(columns)}",
                expected=f"a column named by data.{field}",
                remedy=f"Separate the columns by {separator}."
                if len(columns) == 1 and re.search("[;\t,|]", columns[0])
                else f"Set data.{field}=NAME.",
            )
