"""Labels that are numbers: they make no classes and are stored with the samples themselves."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from d2v.samples import SourceItem, StoredSample
from d2v.types import NUMBER

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
"""What a table may say; Python alone would also take `1_000` and `nan`."""
_SHOWN = 40
"""Characters of a label that a reason repeats."""


def numbered(items: Callable[[], Iterable[SourceItem]]) -> Iterator[SourceItem]:
    """The items of a source whose labels are numbers.

    A label goes into the detail `number`, as Python writes the value, so that neither classes nor
    the drawing of splits see it. What is no finite number becomes the item's problem.

    Args:
        items: makes the source's items.
    """
    for item in items():
        if item.label is None or item.problem is not None:
            yield replace(item, label=None)
            continue
        label = item.label.strip()
        value = float(label) if _NUMBER.fullmatch(label) else math.nan
        if math.isfinite(value):
            yield replace(item, label=None, details={**item.details, NUMBER: repr(value)})
        else:
            reason = f"its label {item.label[:_SHOWN]!r} is not a finite number"
            yield replace(item, label=None, problem=reason)


def encode_numbered(
    encode: Callable[[SourceItem], list[StoredSample]], item: SourceItem
) -> list[StoredSample]:
    """The samples of an item, its number beside their content where it has one.

    Args:
        encode: the modality's; it gets the number as a label, since what has one may be stored
            otherwise than what has none.
        item: from `numbered`, or any other.
    """
    number = item.details.get(NUMBER)
    if number is None:
        return encode(item)
    samples = encode(replace(item, label=number))
    assert all(NUMBER not in sample.members for sample in samples), "that is the number's place"
    member = {NUMBER: number.encode("ascii")}
    return [replace(sample, members={**sample.members, **member}) for sample in samples]
