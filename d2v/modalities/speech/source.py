"""Where recordings come from: LibriSpeech's layout, tables, folders, or a synthesiser's voices."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from d2v.errors import UsageError
from d2v.modalities.base import SourceSettings
from d2v.modalities.listing import (
    Kind,
    folder_items,
    refuse_single_file,
    source_path,
    split_files,
)
from d2v.modalities.speech.builtin import BUILTINS
from d2v.modalities.speech.librispeech import is_librispeech, librispeech_items
from d2v.modalities.speech.recording import SUFFIXES
from d2v.modalities.tables import Row, is_table, read_rows
from d2v.samples import SourceItem

RECORDINGS = Kind(
    noun="recording",
    suffixes=SUFFIXES,
    layouts="LibriSpeech's layout (recordings and *.trans.txt), class folders, train/ and val/ "
    "above class folders, a flat folder, a .csv or a .tsv",
)
COLUMNS = (
    "label_column",
    "split_column",
    "speaker_column",
    "transcript_column",
    "start_column",
    "end_column",
)
"""Settings that name columns which a table may do without."""
READS = (
    *("source", "files", "path_column", "label_from", "label_kind", *COLUMNS),
    *("header", "quoting"),
)
"""The settings of a source that mean something here."""


def read_source(settings: SourceSettings) -> Iterator[SourceItem]:
    """Every file of a source, or every row of a table, in an order that depends on names alone.

    `details` may hold "transcript" (empty where others have one), "speaker", and "start" and "end"
    of a stretch, in seconds. Files that are no recordings are listed too: they are turned away
    later, with a reason. What one speaker says is a group.

    Raises:
        UsageError: there is nothing there to learn from, a setting means nothing here, or speakers
            are to be labels and nobody is named.
    """
    settings.refuse_unread(READS, RECORDINGS.noun)
    if settings.label_from == "source":
        return _items(settings)
    # Read once more, as far as the first speaker: refused before anything is stored.
    if not any(item.group for item in _items(settings)):
        raise UsageError(
            f"Labels are to be speakers, and {settings.source} names none",
            expected=f"a table with a column {settings.speaker_column!r}, or LibriSpeech's layout",
            remedy="Set data.speaker_column=NAME, or leave data.label_from out.",
        )
    return map(_labelled_by_speaker, _items(settings))


def _labelled_by_speaker(item: SourceItem) -> SourceItem:
    """Without a label where the speaker is not known."""
    return replace(item, label=item.group, group=None)


def _items(settings: SourceSettings) -> Iterator[SourceItem]:
    if settings.source in BUILTINS:
        return BUILTINS[settings.source]()
    path = source_path(settings.source, RECORDINGS, BUILTINS)
    if settings.files:
        tables = split_files(path, settings)
        return chain.from_iterable(_table_items(table, settings, split) for split, table in tables)
    if path.is_dir():
        if is_librispeech(path):
            return librispeech_items(path, RECORDINGS)
        return folder_items(path, RECORDINGS)
    if is_table(path):
        return _table_items(path, settings)
    raise refuse_single_file(path, RECORDINGS)


def _table_items(
    path: Path, settings: SourceSettings, split: str | None = None
) -> Iterator[SourceItem]:
    """The rows of a table in their own order; `split`: of all of them, where it is known."""
    rows = read_rows(
        path,
        settings,
        noun="recording",
        required=("path_column",),
        optional=COLUMNS,
    )
    for row in rows:
        yield _row_item(row, settings, split)


def _row_item(row: Row, settings: SourceSettings, split: str | None) -> SourceItem:
    name = row.need(settings.path_column, "the path of a recording")
    start, end = row.get(settings.start_column), row.get(settings.end_column)
    part = "" if start is None and end is None else f"{start or 0}-{end or ''}"
    speaker = row.get(settings.speaker_column)
    told = {"speaker": speaker, "start": start, "end": end}
    details = {key: value for key, value in told.items() if value is not None}
    if settings.transcript_column in row.values:
        details["transcript"] = row.get(settings.transcript_column) or ""
    return SourceItem(
        name=Path(name).as_posix() + (f" {part} s" if part else ""),
        path=row.table.parent / Path(name).expanduser(),
        part=part,
        label=row.get(settings.label_column),
        split=split or row.split(settings.split_column),
        group=speaker,
        details=details,
        problem=_problem(start, end),
    )


def _problem(start: str | None, end: str | None) -> str | None:
    """Why a row's stretch of time makes no sense."""
    try:
        first, last = float(start or 0), float("inf" if end is None else end)
    except ValueError:
        return "its start or end is not a number of seconds"
    if math.isnan(last) or not 0 <= first < last or (end is not None and math.isinf(last)):
        return "its start and end are no stretch of time"
    return None
