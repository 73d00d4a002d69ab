"""Where pictures come from: folders, tables, or the scans that ship with scikit-learn."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from d2v.modalities.base import SourceSettings
from d2v.modalities.listing import Kind, folder_items, refuse_single_file, source_path, split_files
from d2v.modalities.tables import is_table, read_rows
from d2v.modalities.vision.builtin import BUILTINS
from d2v.modalities.vision.store import SUFFIXES
from d2v.samples import SourceItem

PICTURES = Kind(
    noun="picture",
    suffixes=SUFFIXES,
    layouts="class folders, train/ and val/ above class folders, a flat folder, a .csv or a .tsv",
)
READS = (
    "source",
    "files",
    "path_column",
    "label_kind",
    "label_column",
    "split_column",
    "header",
    "quoting",
)
"""The settings of a source that mean something here."""


def read_source(settings: SourceSettings) -> Iterator[SourceItem]:
    """Every file of a source, in an order that depends on names alone.

    Files that are no pictures are listed too: they are turned away later, with a reason.

    Raises:
        UsageError: there is nothing there to learn from, or a setting means nothing here.
    """
    settings.refuse_unread(READS, PICTURES.noun)
    if settings.source in BUILTINS:
        return BUILTINS[settings.source]()
    path = source_path(settings.source, PICTURES, BUILTINS)
    if settings.files:
        tables = split_files(path, settings)
        return chain.from_iterable(_table_items(table, settings, split) for split, table in tables)
    if path.is_dir():
        return folder_items(path, PICTURES)
    if is_table(path):
        return _table_items(path, settings)
    raise refuse_single_file(path, PICTURES)


def _table_items(
    path: Path, settings: SourceSettings, split: str | None = None
) -> Iterator[SourceItem]:
    """The rows of a table in their own order; `split`: of all of them, where it is known."""
    rows = read_rows(
        path,
        settings,
        noun="picture",
        required=("path_column",),
        optional=("label_column", "split_column"),
    )
    for row in rows:
        name = row.need(settings.path_column, "the path of a picture")
        yield SourceItem(
            name=Path(name).as_posix(),
            path=path.parent / Path(name).expanduser(),
            label=row.get(settings.label_column),
            split=split or row.split(settings.split_column),
        )
