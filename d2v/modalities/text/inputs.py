"""Texts that a trained model is applied to: a line each, or a row each of a table."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

from d2v.errors import BadSampleError, UsageError
from d2v.modalities.base import SourceSettings
from d2v.modalities.inputs import Named, named_inputs
from d2v.modalities.tables import is_table
from d2v.modalities.text.documents import TextFile, line_items, streamed
from d2v.modalities.text.items import text_item, whole
from d2v.modalities.text.source import FORMATS, TEXTS, file_items
from d2v.samples import SourceItem


def read_inputs(inputs: Sequence[Path | bytes], source: SourceSettings) -> Iterator[SourceItem]:
    """One item a text, or a pair where the model was trained on pairs.

    Each line of a file or of standard input that is not blank is a text, or a pair with a tab
    between the two. Tables and JSON lines have theirs in the columns that the training data had;
    a label among them is not read.

    Args:
        inputs: files, folders, and the bytes of standard input.
        source: how the training data were read.

    Raises:
        UsageError: an input is not there, or a folder holds no text.
    """
    unlabelled = {
        name: SourceSettings.model_fields[name].default for name in ("label_column", "split_column")
    }
    source = source.model_copy(update={**unlabelled, "documents": "file"})
    named = named_inputs(inputs, TEXTS, lambda name: name.lower().endswith(FORMATS))
    return map(_unlabelled, chain.from_iterable(_items(one, source) for one in named))


def _items(named: Named, source: SourceSettings) -> Iterator[SourceItem]:
    name, given = named
    file = TextFile(path=Path(name), name=name)
    from_line = partial(_line_item, name, source.pair_column is not None)
    if isinstance(given, bytes):
        yield from line_items(file, from_line, io.BytesIO(given))
    elif given.is_file() and (is_table(given) or _is_json(given)):
        try:
            yield from file_items(file, source)
        except UsageError as error:  # of this file; the others can be read all the same
            yield file.problem(error.happened)
    elif given.is_file():
        yield from streamed(file, partial(line_items, file, from_line))
    else:  # a pipe, say, and reading it would wait for ever
        yield file.problem("not a regular file")


def _is_json(path: Path) -> bool:
    return path.name.lower().removesuffix(".gz").endswith(".jsonl")


def _line_item(name: str, is_pair: bool, line: str, number: int) -> SourceItem:
    line = line.rstrip("\r\n")
    texts = line.split("\t") if is_pair else [line]
    if is_pair and len(texts) != 2:
        raise BadSampleError(
            f"{len(texts) - 1} tabs: the model was trained on pairs, two texts with a tab between"
        )
    return text_item(f"{name}:{number}", texts, label=None, split=None)


def _unlabelled(item: SourceItem) -> SourceItem:
    """One sample, as a labelled text gives, whose label is not known."""
    return whole(replace(item, label=None, split=None))
