"""Where texts come from: plain files, JSON lines, tables, folders of these, or CPython itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path

from d2v.errors import BadSampleError, UsageError
from d2v.modalities.base import SourceSettings
from d2v.modalities.listing import (
    SPLIT_NAMES,
    Kind,
    are_splits,
    entries,
    files,
    folders_with,
    none_found,
    source_path,
    split_files,
)
from d2v.modalities.tables import Row, is_table, read_rows
from d2v.modalities.text.builtin import BUILTINS
from d2v.modalities.text.documents import TextFile, json_documents, plain_documents
from d2v.modalities.text.items import text_item, whole
from d2v.samples import SourceItem

FORMATS = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".tsv", ".csv")
TEXTS = Kind(
    noun="text",
    suffixes=frozenset((".txt", ".jsonl", ".tsv", ".csv", ".gz")),
    layouts="a .txt, .jsonl, .tsv or .csv (the first two also as .gz), a folder of these, or a "
    "folder with train/ and val/ or train.tsv and dev.tsv",
)
READS = (
    "source",
    "files",
    "label_kind",
    "label_column",
    "split_column",
    "text_column",
    "pair_column",
    "whole_texts",
    "documents",
    "header",
    "quoting",
)
"""The settings of a source that mean something here."""


def read_source(settings: SourceSettings) -> Iterator[SourceItem]:
    """Every text of a source, in an order that depends on names alone.

    A plain file is one document or, with `documents: blank_line`, several. A row of a table and
    a JSON line is one document, or one sample where it has a label or a second text. With
    `whole_texts` all is. Folders and files named train, val, test (or dev, valid, ...) tell the
    splits, never labels.

    Raises:
        UsageError: there is nothing there to learn from, or a setting means nothing here.
    """
    settings.refuse_unread(READS, TEXTS.noun)
    items = _items(settings)
    return map(whole, items) if settings.whole_texts else items


def _items(settings: SourceSettings) -> Iterator[SourceItem]:
    if settings.source in BUILTINS:
        return BUILTINS[settings.source]()
    path = source_path(settings.source, TEXTS, BUILTINS)
    if settings.files is not None:
        if not path.is_dir():
            raise UsageError(
                f"The source {path} is a file, and data.files names files below a folder",
                remedy="Set data.source to the folder around them.",
            )
        named = split_files(path, settings)
        return chain.from_iterable(
            file_items(TextFile(path=file, name=_name(file, path), split=split), settings)
            for split, file in named
        )
    if path.is_dir():
        return _folder_items(path, settings)
    return file_items(TextFile(path=path, name=path.name), settings)


def _name(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_posix()


def _folder_items(root: Path, settings: SourceSettings) -> Iterator[SourceItem]:
    """Every file below a folder; those beside splits are listed with that as their problem."""
    folders = folders_with(root, TEXTS)
    if not folders and not any(map(TEXTS.has, entries(root))):
        raise none_found(root, TEXTS)
    if are_splits(root, folders, TEXTS):
        splits = {name: SPLIT_NAMES[name] for name in folders}
    else:
        splits = _split_names(root)
    for name in files(root):
        top = name.split("/")[0]
        file = TextFile(path=root / name, name=name, split=splits.get(top))
        if splits and top not in splits:
            yield file.problem(f"beside the splits ({', '.join(sorted(splits))}), in none of them")
        elif not name.lower().endswith(FORMATS):
            yield file.problem("not a supported kind of text")
        else:
            yield from file_items(file, settings)


def _split_names(root: Path) -> dict[str, str]:
    """File -> split, where files of one format are named train and val or test; else nothing."""
    found: dict[str, dict[str, str]] = {}
    for name in entries(root):
        stem, dot, ending = name.lower().partition(".")
        if stem in SPLIT_NAMES and dot + ending in FORMATS:
            found.setdefault(ending, {})[name] = SPLIT_NAMES[stem]
    sets = [names for names in found.values() if "train" in names.values() and len(names) > 1]
    if len(sets) > 1:
        raise UsageError(
            f"{root} holds {' and '.join(sorted(chain.from_iterable(sets)))}",
            expected="the splits in files of one format",
            remedy="Say which file is which: data.files={train: NAME, test: NAME}.",
        )
    return sets[0] if sets else {}


def file_items(file: TextFile, settings: SourceSettings) -> Iterator[SourceItem]:
    """The texts of one file; what is neither JSON lines nor a table is plain text."""
    if not file.path.is_file():  # a link to nowhere; or a pipe, and reading it would wait for ever
        yield file.problem("not a regular file")
    elif is_table(file.path):
        yield from _table_items(file, settings)
    elif file.path.name.lower().removesuffix(".gz").endswith(".jsonl"):
        yield from json_documents(file, partial(_json_item, file, settings))
    else:
        yield from plain_documents(file, blank_lines=settings.documents == "blank_line")


def _table_items(file: TextFile, settings: SourceSettings) -> Iterator[SourceItem]:
    optional = ("pair_column", "label_column", "split_column")
    rows = read_rows(file.path, settings, required=("text_column",), optional=optional, noun="text")
    try:
        for row in rows:
            try:
                yield _row_item(file, row, settings)
            except BadSampleError as error:
                yield file.problem(str(error), f":{row.line}")
    except UsageError as error:
        if isinstance(error.__cause__, UnicodeDecodeError):
            raise _not_utf8(file.path) from error
        raise


def _row_item(file: TextFile, row: Row, settings: SourceSettings) -> SourceItem:
    return text_item(
        f"{file.name}:{row.line}",
        [row.get(column) or "" for column in _columns(settings)],
        label=row.get(settings.label_column),
        split=file.split or row.split(settings.split_column),
    )


def _columns(settings: SourceSettings) -> list[str]:
    return [settings.text_column, *([settings.pair_column] if settings.pair_column else [])]


def _not_utf8(path: Path) -> UsageError:
    """The decoder counts from its last portion; a person wants to know where in the file."""
    offset = 0
    with path.open("rb") as stream:
        for line in stream:
            try:
                line.decode()
            except UnicodeDecodeError as error:
                place = f"0x{line[error.start]:02x} at byte {offset + error.start:,}"
                break
            offset += len(line)
        else:
            place = "its end"
    return UsageError(
        f"The table {path} is not UTF-8: {place}",
        expected="UTF-8 from beginning to end",
        remedy="Convert it, with iconv for example; nothing is guessed here.",
    )


def _json_item(file: TextFile, settings: SourceSettings, value: object, line: int) -> SourceItem:
    if not isinstance(value, dict):
        raise BadSampleError("not a JSON object")
    if line == 1:
        _check_fields(file.path, value, settings)
    texts = []
    for column in _columns(settings):
        text = value.get(column)
        if not isinstance(text, str):
            raise BadSampleError(f"the field {column!r} is missing or no text")
        texts.append(text)
    split = _scalar(value, settings.split_column)
    if split is not None and split.lower() not in SPLIT_NAMES:
        raise BadSampleError(f"the split is none of {', '.join(SPLIT_NAMES)}")
    return text_item(
        f"{file.name}:{line}",
        texts,
        label=_scalar(value, settings.label_column),
        split=file.split or (None if split is None else SPLIT_NAMES[split.lower()]),
    )


def _scalar(value: dict[str, object], field: str) -> str | None:
    """A field as text: as it is, or as JSON writes a number or a truth value."""
    found = value.get(field)
    if isinstance(found, dict | list):
        raise BadSampleError(f"the field {field!r} is no text, number or truth value")
    return found or None if isinstance(found, str | None) else json.dumps(found)


def _check_fields(path: Path, value: dict[str, object], settings: SourceSettings) -> None:
    """Wrong names in the first line are the recipe's fault, in a later one the line's."""
    for setting in ("text_column", "pair_column", "label_column", "split_column"):
        field = getattr(settings, setting)
        is_chosen = field != SourceSettings.model_fields[setting].default
        if (is_chosen or setting == "text_column") and field is not None and field not in value:
            raise UsageError(
                f"{path}, line 1, has no field {field!r}; its fields are: {', '.join(value)}",
                expected=f"a field named by data.{setting}",
                remedy=f"Set data.{setting}=NAME.",
            )
