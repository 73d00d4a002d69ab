"""What one text is on its way from a source to the shards: bytes of UTF-8 in a source item."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import cast

from d2v.errors import BadSampleError
from d2v.samples import SourceItem

PAIR = "pair"
"""Detail of an item whose bytes are a JSON list of two texts."""
CONTINUED = "continued"
"""Detail of the second and later parts of a document that was cut."""


WHOLE = "whole"
"""Detail of an item that is one sample, though it has neither a label nor a second text."""


def text_item(name: str, texts: list[str], *, label: str | None, split: str | None) -> SourceItem:
    """A row of a table or a JSON line.

    Args:
        name: for reports.
        texts: one, or two for a pair.
        label: or None.
        split: or None.

    Raises:
        BadSampleError: empty, or not expressible in UTF-8.
    """
    if not all(text.strip() for text in texts):
        raise BadSampleError("empty: no text" if len(texts) == 1 else "empty: a text of the pair")
    content = texts[0] if len(texts) == 1 else json.dumps(texts, ensure_ascii=False)
    try:
        data = content.encode()
    except UnicodeEncodeError:
        raise BadSampleError("half a surrogate pair, which is no character") from None
    details = {PAIR: "yes"} if len(texts) == 2 else {}
    return SourceItem(name=name, content=data, label=label, split=split, details=details)


def read_texts(item: SourceItem) -> list[str]:
    """The texts of an item: one, or two of a pair.

    Raises:
        BadSampleError: not UTF-8; says which byte, and where in its file it stands.
        OSError: it cannot be read.
    """
    text = decoded(item.read(), item.offset)
    return cast("list[str]", json.loads(text)) if PAIR in item.details else [text]


def is_document(item: SourceItem) -> bool:
    """Whether it is cut into blocks; what is labelled, a pair or marked whole is one sample."""
    return item.label is None and not {PAIR, WHOLE} & item.details.keys()


def whole(item: SourceItem) -> SourceItem:
    """The item as one sample."""
    return replace(item, details={**item.details, WHOLE: "yes"})


def decoded(data: bytes, offset: int) -> str:
    """Text from UTF-8, without the byte-order mark where a file begins with one.

    Args:
        data: UTF-8.
        offset: of the data in its file (where it is compressed: in what it unpacks to).

    Raises:
        BadSampleError: not UTF-8.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        byte, place = data[error.start], offset + error.start
        raise BadSampleError(f"not UTF-8: 0x{byte:02x} at byte {place:,} of the file") from None
    return text.removeprefix("\ufeff") if offset == 0 else text
