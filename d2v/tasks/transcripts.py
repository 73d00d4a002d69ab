"""Transcripts as CTC learns them: the vocabulary, label lines, and what a label line takes.

A label line is the characters of a transcript with `|` in place of each space and at the end
(reference section 3.2). As ids: a symbol's place in the vocabulary; a character that is not in it
counts from the vocabulary's size on, so that the transcript can be read back as it was.
Letters: B batch, L labels, V symbols.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from d2v.errors import BadSampleError, UsageError
from d2v.tasks.decoding.base import BLANK, BOUNDARY, SPECIAL

FILE = "vocabulary.json"
"""Written beside the splits where their samples have transcripts."""
UNKNOWN = "<unk>"
_END = -1
"""Behind the end of a label line in a batch."""


def vocabulary_of(folder: Path) -> tuple[str, ...]:
    """The symbols that models of these data write, the blank first.

    Args:
        folder: of the set, with the splits in it.

    Raises:
        UsageError: there is no vocabulary, or one that is damaged.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_bytes())
        symbols = content["symbols"]
        checked = check_symbols(symbols) or _other_roles(content)
    except FileNotFoundError as error:
        raise UsageError(
            f"There is no {FILE} in {folder}: its samples have no transcripts",
            expected="data with transcripts, prepared with d2v prepare",
            remedy="Name the column with them (data.transcript_column), or choose another "
            "finetune.task.",
        ) from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        checked = f"it cannot be read ({type(error).__name__}: {error})"
    if checked:
        raise UsageError(
            f"{path} is no usable vocabulary: {checked}",
            expected="the file as d2v prepare wrote it",
            remedy="Run d2v prepare with --fresh.",
        )
    return tuple(symbols)


def check_symbols(symbols: Any) -> str | None:
    """What is wrong with a list of symbols; None where nothing is."""
    if not isinstance(symbols, list | tuple) or not all(isinstance(one, str) for one in symbols):
        return "its symbols are not a list of texts"
    if twice := [one for place, one in enumerate(symbols) if one in symbols[:place]]:
        return f"{twice[0]!r} stands in it twice"
    if symbols[:1] != type(symbols)([BLANK]):
        return f"its first symbol is not the blank {BLANK}"
    if missing := [one for one in (BOUNDARY, UNKNOWN) if one not in symbols]:
        return f"it lacks {missing[0]}"
    letters = [one for one in symbols if one not in (BLANK, BOUNDARY, *SPECIAL)]
    if long := [one for one in letters if len(one) != 1]:
        return f"{long[0]!r} is not one character"
    return None if letters else "it has no letters: the training transcripts are empty"


def _other_roles(content: Mapping[str, Any]) -> str | None:
    roles = content.get("blank"), content.get("word_boundary")
    return None if roles == (BLANK, BOUNDARY) else f"blank and word boundary are {roles}"


def transcript_of(details: bytes | None) -> str | None:
    """The normalised transcript in a sample's details (JSON); None where it has none.

    Raises:
        BadSampleError: nothing is left of it once normalised, or the details are damaged.
    """
    if details is None:
        return None
    try:
        found = json.loads(details).get("transcript")
    except (ValueError, AttributeError) as error:
        raise BadSampleError(f"its details are no JSON object: {error}") from error
    if found is None:
        return None
    text = " ".join(str(found).split())
    if not text:
        raise BadSampleError("nothing is left of its transcript once normalised")
    return text


def as_ids(text: str, symbols: Sequence[str]) -> list[int]:
    """A transcript's label line; strange characters count from V on."""
    ids = {symbol: number for number, symbol in enumerate(symbols)}
    line = text.replace(" ", BOUNDARY) + BOUNDARY
    return [ids.get(character, len(symbols) + ord(character)) for character in line]


def as_text(ids: Sequence[int], symbols: Sequence[str]) -> str:
    """The inverse of `as_ids`."""
    count = len(symbols)
    line = "".join(symbols[one] if one < count else chr(one - count) for one in ids)
    return line.removesuffix(BOUNDARY).replace(BOUNDARY, " ")


def strange_characters(text: str, symbols: Sequence[str]) -> list[str]:
    """Characters that no model of this vocabulary can write, sorted, each once."""
    return sorted(set(text.replace(" ", BOUNDARY)) - set(symbols))


def frames_needed(ids: Sequence[int]) -> int:
    """Frames that a label line takes at least: one a label, a blank between equal ones."""
    return len(ids) + sum(one == following for one, following in pairwise(ids))


def side_by_side(lines: Sequence[list[int] | None]) -> Tensor:
    """Label lines as (B, L) int64, -1 behind their ends; None gives an empty row."""
    rows = [torch.tensor(line or [], dtype=torch.int64) for line in lines]
    return pad_sequence(rows, batch_first=True, padding_value=_END)


def apart(targets: Tensor) -> list[list[int] | None]:
    """The inverse of `side_by_side`."""
    return [[one for one in row if one != _END] or None for row in targets.tolist()]
