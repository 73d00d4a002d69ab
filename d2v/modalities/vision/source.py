"""Where pictures come from: folders, tables, or the scans that ship with scikit-learn."""

from __future__ import annotations

import csv
import heapq
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

from d2v.errors import UsageError
from d2v.modalities.base import SourceSettings
from d2v.modalities.vision.builtin import BUILTINS
from d2v.modalities.vision.store import SUFFIXES
from d2v.types import SourceItem

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}
"""What people call their splits."""
TABLES = {".csv": ",", ".tsv": "\t"}
ENTRIES_IN_MEMORY = 200_000
"""Names of one folder that are sorted in memory."""
LAYOUTS = "class folders, train/ and val/ above class folders, a flat folder, a .csv or a .tsv"


def read_source(settings: SourceSettings) -> Iterator[SourceItem]:
    """Every file of a source, in an order that depends on names alone.

    Files that are no pictures are listed too: they are turned away later, with a reason.
    A folder's label is that of the first folder below the source (or below train/, val/, test/).

    Raises:
        UsageError: there is nothing there to learn from.
    """
    source = settings.source
    if not source:
        raise UsageError(
            "No source is set",
            expected=f"a path: {LAYOUTS}; or {', '.join(BUILTINS)}",
            remedy="Set data.source=PATH.",
        )
    if source.startswith("builtin:"):
        if source not in BUILTINS:
            raise UsageError(f"There is no {source}", expected=", ".join(BUILTINS))
        return BUILTINS[source]()
    path = Path(source).expanduser()
    if not path.exists():
        raise UsageError(
            f"The source {source} does not exist",
            expected=f"a path on this machine: {LAYOUTS}",
            remedy="Set data.source=PATH; a relative path starts where d2v is called.",
        )
    if path.is_dir():
        return _folder_items(path)
    if path.suffix.lower() in TABLES:
        return _table_items(path, settings)
    raise UsageError(
        f"The source {path} is a single file",
        expected=f"one of: {LAYOUTS}",
        remedy="Name the folder around it; unpack it first if it is an archive.",
    )


def _folder_items(root: Path) -> Iterator[SourceItem]:
    with_pictures = _picture_folders(root)
    if not with_pictures and not any(map(_is_picture, _entries(root))):
        raise _no_picture(root)
    is_split = _is_split(root, with_pictures)
    labels = {name: _picture_folders(root / name) for name in with_pictures if is_split}
    for name in _files(root, _sorted_entries):
        top, *rest = name.split("/")
        if top in labels and rest:
            split, label = SPLIT_NAMES[top], rest[0] if rest[0] in labels[top] else None
        else:
            split, label = None, top if top in with_pictures and not is_split else None
        yield SourceItem(name=name, path=root / name, label=label, split=split)


def _is_split(root: Path, folders: set[str]) -> bool:
    """Whether the folders with pictures are train, val and test rather than classes."""
    splits = folders & SPLIT_NAMES.keys()
    if "train" in splits and len(splits) > 1 and splits != folders:
        raise UsageError(
            f"{root} holds splits ({', '.join(sorted(splits))}) and other folders with pictures "
            f"({', '.join(sorted(folders - splits)[:5])})",
            expected="either train/, val/ and test/, or one folder a class",
            remedy="Move the other folders away, or list the pictures in a .csv.",
        )
    return "train" in splits and splits == folders


def _picture_folders(root: Path) -> set[str]:
    """Names of the folders that have a picture somewhere below."""
    names = [name[:-1] for name in _entries(root) if name.endswith("/")]
    return {name for name in names if any(map(_is_picture, _files(root / name, _entries)))}


def _entries(folder: Path) -> Iterator[str]:
    """Names in a folder as they come, hidden ones left out; those of folders end in a slash."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    yield entry.name + "/" if _is_folder(entry) else entry.name
    except OSError as error:
        raise UsageError(
            f"The folder {folder} cannot be read: {error.strerror}",
            remedy="Check its permissions.",
        ) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself; listed as a file, rejected when it is read
        return False


def _sorted_entries(folder: Path) -> Iterator[str]:
    """The same, sorted; through files on disk where there are too many for memory."""
    names = _entries(folder)
    run = sorted(islice(names, ENTRIES_IN_MEMORY))
    if len(run) < ENTRIES_IN_MEMORY:
        yield from run
        return
    with ExitStack() as files:
        runs = []
        while run:
            file = files.enter_context(tempfile.TemporaryFile("w+", encoding="ascii"))
            file.writelines(json.dumps(name) + "\n" for name in run)  # names may hold newlines
            file.seek(0)
            runs.append(map(json.loads, file))
            run = sorted(islice(names, ENTRIES_IN_MEMORY))
        yield from heapq.merge(*runs)


def _files(root: Path, listing: Callable[[Path], Iterator[str]]) -> Iterator[str]:
    """Paths of all files below a folder, relative to it, with forward slashes."""
    stack = [(listing(root), "", _identity(root))]
    while stack:
        entries, prefix, _ = stack[-1]
        name = next(entries, None)
        if name is None:
            stack.pop()
        elif not name.endswith("/"):
            yield prefix + name
        else:
            folder = root / (prefix + name)
            identity = _identity(folder)
            # A link to a folder above would be walked for ever.
            if all(identity != above for _, _, above in stack):
                stack.append((listing(folder), prefix + name, identity))


def _identity(folder: Path) -> tuple[int, int]:
    stat = folder.stat()
    return stat.st_dev, stat.st_ino


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _no_picture(root: Path) -> UsageError:
    suffixes = Counter(
        os.path.splitext(name)[1].lower() or "(none)" for name in _files(root, _entries)
    )
    if not suffixes:
        return UsageError(f"The source {root} is empty", expected=f"pictures in {LAYOUTS}")
    found = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(5))
    return UsageError(
        f"The source {root} has {suffixes.total()} files and no picture among them ({found})",
        expected=f"files ending in {' '.join(sorted(SUFFIXES))}",
    )


def _table_items(path: Path, settings: SourceSettings) -> Iterator[SourceItem]:
    """The rows of a table in their own order."""
    is_empty = True
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, delimiter=TABLES[path.suffix.lower()])
            _check_columns(path, list(rows.fieldnames or ()), settings)
            for row in rows:
                is_empty = False
                yield _row_item(path, rows.line_num, row, settings)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"The table {path} cannot be read: {error}",
            expected="UTF-8 text with one row a picture and the columns' names on top",
        ) from error
    if is_empty:
        raise UsageError(f"The table {path} has no rows", expected="one row a picture")


def _check_columns(path: Path, columns: list[str], settings: SourceSettings) -> None:
    wanted = {"path_column": settings.path_column}
    for field in ("label_column", "split_column"):
        # The usual names may be missing; one that somebody chose may not.
        if getattr(settings, field) != SourceSettings.model_fields[field].default:
            wanted[field] = getattr(settings, field)
    for field, column in wanted.items():
        if column not in columns:
            separator = "tabs" if path.suffix.lower() == ".tsv" else "commas"
            raise UsageError(
                f"The table {path} has no column {column!r}; its columns are: {', '.join(columns)}",
                expected=f"a column named by data.{field}",
                remedy=f"Separate the columns by {separator}."
                if len(columns) == 1 and re.search("[;\t,|]", columns[0])
                else f"Set data.{field}=NAME.",
            )


def _row_item(
    path: Path, line: int, row: dict[str, str | None], settings: SourceSettings
) -> SourceItem:
    name = row[settings.path_column]
    if not name:
        raise UsageError(
            f"{path}, line {line}: the column {settings.path_column!r} is empty",
            expected="the path of a picture in every row",
        )
    split = row.get(settings.split_column) or None
    if split is not None and split.lower() not in SPLIT_NAMES:
        raise UsageError(
            f"{path}, line {line}: the split is {split!r}",
            expected=f"one of {', '.join(SPLIT_NAMES)}",
        )
    return SourceItem(
        name=Path(name).as_posix(),
        path=path.parent / Path(name).expanduser(),
        label=row.get(settings.label_column) or None,
        split=None if split is None else SPLIT_NAMES[split.lower()],
    )
