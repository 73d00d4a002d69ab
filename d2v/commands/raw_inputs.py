"""Raw inputs on their way to a model, as preparing and training go it: encode, decode, collate."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

from torch import Tensor

from d2v.data.encoding import Encoded, encode_item
from d2v.errors import BadSampleError
from d2v.modalities import LengthUnit, Modality
from d2v.samples import SourceItem

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Input:
    """One input as a model reads it, or why it cannot be read.

    Args:
        name: as a person named it.
        examples: one a sample; none where there is a reason.
        lengths: of the samples, as they would be stored.
        reason: why it cannot be used; empty where it can.
    """

    name: str
    examples: list[Tensor]
    lengths: list[int]
    reason: str = ""

    def spans(self, unit: LengthUnit) -> list[tuple[float, float]]:
        """From where to where each sample reaches, one behind the other, in the unit."""
        edges = [length / unit.size for length in accumulate(self.lengths)]
        return list(zip([0.0, *edges], edges, strict=False))


def read_input(modality: Modality, item: SourceItem) -> Input:
    """Encode and decode one item."""
    return decoded(modality, item.name, encode_item(modality.encode, item))


def decoded(modality: Modality, name: str, encoded: Encoded) -> Input:
    """An item that was encoded, in this process or in another one."""
    if encoded.samples is None:
        return Input(name=name, examples=[], lengths=[], reason=encoded.reason)
    try:
        examples = [modality.decode(sample.members, None) for sample in encoded.samples]
    except BadSampleError as error:
        return Input(name=name, examples=[], lengths=[], reason=str(error))
    return Input(name=name, examples=examples, lengths=[one.length for one in encoded.samples])


def groups(
    things: Iterable[T],
    lengths: Callable[[T], Sequence[int]],
    batch_size: int,
    limit: float | None = None,
) -> Iterator[list[T]]:
    """As many things as give a whole batch. Where one group ends depends on nothing before it.

    Args:
        things: inputs, say.
        lengths: of a thing's samples; one without any counts as a sample, so that it is told.
        batch_size: samples that make a group.
        limit: total length that makes one, too; None for none.
    """
    group: list[T] = []
    count, total = 0, 0
    for thing in things:
        own = lengths(thing)
        group.append(thing)
        count, total = count + max(1, len(own)), total + sum(own)
        if count >= batch_size or (limit is not None and total >= limit):
            yield group
            group, count, total = [], 0, 0
    if group:
        yield group


def batches(lengths: Sequence[int], batch_size: int, limit: float | None) -> Iterator[slice]:
    """Samples in their order to batches.

    Args:
        lengths: of the samples.
        batch_size: samples of a batch, at most.
        limit: of a batch's total length, padding included; a longer sample comes alone. None for
            no limit.
    """
    start = longest = 0
    for place, length in enumerate(lengths):
        longest, count = max(longest, length), place - start + 1
        too_long = limit is not None and count * longest > limit
        if count > 1 and (count > batch_size or too_long):
            yield slice(start, place)
            start, longest = place, length
    if len(lengths) > 0:
        yield slice(start, len(lengths))


def length_limit(unit: LengthUnit) -> float | None:
    """Total length, as stored, of samples that a model reads at once; None for any."""
    return None if unit.at_once is None else unit.at_once * unit.size


def described(item: SourceItem) -> bytes:
    """Bytes that would be others if an input were another one, or had changed."""
    told: list[object] = [item.name, item.part, item.offset, item.num_bytes, item.problem]
    told += sorted(item.details.items())
    if item.content is not None:
        told.append(hashlib.sha256(item.content).hexdigest())
    elif item.path is not None:
        with suppress(OSError):  # what cannot be read is told of later
            state = os.stat(item.path)
            told += [state.st_size, state.st_mtime_ns]
    return (repr(told) + "\n").encode("utf-8", "backslashreplace")
