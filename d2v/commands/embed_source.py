"""What is embedded: raw inputs or prepared shards, in a fixed order, from any place on.

Both come as pieces: a few samples and what the encoder made of them. Where one piece ends depends
on nothing before it, so that a run that goes on behind a piece cuts the rest as it would have.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from d2v.commands.embed_model import Embedder
from d2v.commands.raw_inputs import Input, batches, decoded, described, groups, length_limit
from d2v.data.encoding import encoders
from d2v.data.loader import read_batches
from d2v.data.shards import Shards
from d2v.errors import BadSampleError, UsageError
from d2v.samples import SourceItem
from d2v.types import Batch

Row = dict[str, Any]
"""What is known of a sample, as JSON: `input`, and `split`, `start`, `end` (seconds), `label`."""
Floats = NDArray[np.float32]
Embed = Callable[[Batch], Sequence[Tensor]]
"""Batch -> the features of each sample, float32 of any shape."""

_WORKERS_FROM = 2000
"""Fewer inputs are read sooner than processes have started."""
_GROUP_LENGTHS = 4
"""Samples of a piece are sorted by length; together they are so many times what a model reads at
once, so that there is something to sort."""


@dataclass(kw_only=True)
class Piece:
    """Some samples.

    Args:
        rows: the usable ones.
        features: of each row.
        errors: the others: `input`, `error`, and `split` where there is one.
        consumed: inputs that this piece and all before it dealt with.
    """

    rows: list[Row] = field(default_factory=list)
    features: list[Floats] = field(default_factory=list)
    errors: list[Row] = field(default_factory=list)
    consumed: int = 0

    def add(self, row: Row, features: Floats) -> None:
        """One sample; features that are no numbers make an error of it."""
        if np.isfinite(features).all():
            self.rows.append(row)
            self.features.append(features)
        else:
            self.errors.append({**row, "error": "the features are no numbers (NaN)"})


class Source(ABC):
    """Inputs in their order."""

    total: int
    """How many there are."""
    identity: dict[str, Any]
    """Names them and their content, as JSON."""
    workers: int
    """Processes that read ahead."""

    @abstractmethod
    def pieces(self, embed: Embed, start: int) -> Generator[Piece, None, None]:
        """Everything behind the first `start` inputs, which must be where a piece ended."""


class RawInputs(Source):
    """Files, folders and standard input."""

    def __init__(
        self, embedder: Embedder, inputs: Sequence[Path | bytes], batch_size: int, workers: int
    ) -> None:
        """List them; nothing is read yet.

        Raises:
            UsageError: one is not there, or there is nothing in them.
        """
        self._embedder, self._inputs, self._batch_size = embedder, inputs, batch_size
        listed, sha256 = 0, hashlib.sha256()
        for item in self._items():
            listed += 1
            sha256.update(described(item))
        if listed == 0:
            raise UsageError(
                "There is nothing in the inputs", expected="at least one file, or a line of text"
            )
        self.total, self.workers = listed, workers if listed >= _WORKERS_FROM else 0
        self.identity = {"inputs": listed, "inputs_sha256": sha256.hexdigest()}

    def pieces(self, embed: Embed, start: int) -> Generator[Piece, None, None]:
        """Several processes encode ahead where `workers` says so."""
        modality = self._embedder.modality
        limit = length_limit(modality.length_unit)
        whole = None if limit is None else _GROUP_LENGTHS * limit
        items = enumerate(islice(self._items(), start, None))
        with encoders(modality.encode, self.workers) as work:
            read = (decoded(modality, item.name, encoded) for _, item, encoded in work(items))
            for group in groups(read, lambda one: one.lengths, self._batch_size, whole):
                start += len(group)
                yield self._piece(group, embed, limit, start)

    def _piece(
        self, group: Sequence[Input], embed: Embed, limit: float | None, consumed: int
    ) -> Piece:
        modality, piece = self._embedder.modality, Piece(consumed=consumed)
        examples = [example for one in group for example in one.examples]
        lengths = [length for one in group for length in one.lengths]
        features: list[Floats | None] = [None] * len(examples)
        for places in _batches(lengths, self._batch_size, limit):
            batch = modality.collate([examples[place] for place in places])
            for place, found in zip(places, embed(batch), strict=True):
                features[place] = _array(found)
        left = iter(features)
        for one in group:
            if one.reason:
                piece.errors.append({"input": one.name, "error": one.reason})
            for span in one.spans(modality.length_unit):
                row: Row = {"input": one.name}
                if len(one.examples) > 1:
                    row |= _span(*span)
                own = next(left)
                assert own is not None, "a sample was in no batch"
                piece.add(row, own)
        return piece

    def _items(self) -> Iterator[SourceItem]:
        return self._embedder.modality.read_inputs(self._inputs, self._embedder.source)


class PreparedSplits(Source):
    """Splits of prepared shards, one after the other, all samples in stored order."""

    def __init__(
        self, embedder: Embedder, splits: Mapping[str, Shards], batch_size: int, workers: int
    ) -> None:
        self._embedder, self._splits = embedder, splits
        self._batch_size, self.total = batch_size, sum(map(len, splits.values()))
        self.workers = workers if self.total >= _WORKERS_FROM else 0
        self.identity = {"shards": {name: one.fingerprint for name, one in splits.items()}}

    def pieces(self, embed: Embed, start: int) -> Generator[Piece, None, None]:
        """Several processes read ahead where `workers` says so."""
        before = 0
        for name, shards in self._splits.items():
            if start < before + len(shards):
                for piece in self._of_split(name, shards, embed, max(0, start - before)):
                    piece.consumed += before
                    yield piece
            before += len(shards)
            shards.close()

    def _of_split(
        self, name: str, shards: Shards, embed: Embed, start: int
    ) -> Generator[Piece, None, None]:
        limit = length_limit(self._embedder.modality.length_unit)
        whole = None if limit is None else _GROUP_LENGTHS * limit
        lengths = shards.lengths.tolist()
        grouped = list(
            groups(range(start, len(shards)), lambda i: lengths[i : i + 1], self._batch_size, whole)
        )
        wanted = [
            [[group[place] for place in places] for places in
             _batches([lengths[i] for i in group], self._batch_size, limit)]
            for group in grouped
        ]  # fmt: skip
        read = read_batches(
            shards, self._embedder.modality, [one for group in wanted for one in group],
            num_workers=self.workers,
        )  # fmt: skip
        for group, parts in zip(grouped, wanted, strict=True):
            found: dict[int, Floats] = {}
            for batch in islice(read, len(parts)):
                if batch is not None:
                    assert batch.samples is not None
                    arrays = map(_array, embed(batch))
                    found |= dict(zip(batch.samples.tolist(), arrays, strict=True))
            yield self._piece(name, shards, group, found)

    def _piece(
        self, split: str, shards: Shards, group: Sequence[int], found: Mapping[int, Floats]
    ) -> Piece:
        piece = Piece(consumed=group[-1] + 1)
        for number in group:
            row: Row = {"input": shards.source(number), "split": split}
            if number not in found:
                piece.errors.append({**row, "error": self._reason(shards, number)})
                continue
            row |= self._segment(shards, number)
            label = int(shards.labels[number])
            if label >= 0:
                row["label"] = shards.classes[label]
            piece.add(row, found[number])
        return piece

    def _reason(self, shards: Shards, number: int) -> str:
        """Why a sample was missing from its batch."""
        try:
            self._embedder.modality.decode(shards.read(number), None)
        except BadSampleError as error:
            return str(error)
        return "it could not be read before, and can be now"

    def _segment(self, shards: Shards, number: int) -> Row:
        """Where a sample lies in its input, where it is one of several in time."""
        modality = self._embedder.modality
        item, _, place = shards.key(number).partition("-")
        if not place or modality.seconds_per_token is None:
            return {}
        first = number - int(place)
        if first < 0 or shards.key(first).partition("-")[0] != item:
            return {}
        size = modality.length_unit.size
        start = int(shards.lengths[first:number].sum())
        return _span(start / size, (start + int(shards.lengths[number])) / size)


def _batches(lengths: Sequence[int], batch_size: int, limit: float | None) -> Iterator[list[int]]:
    """Places of the samples of each batch, the longest first, so that little is padding."""
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    for part in batches([lengths[place] for place in order], batch_size, limit):
        yield order[part]


def _array(features: Tensor) -> Floats:
    return np.ascontiguousarray(features.cpu().numpy(), dtype=np.float32)


def _span(start: float, end: float) -> Row:
    return {"start": round(start, 3), "end": round(end, 3)}
