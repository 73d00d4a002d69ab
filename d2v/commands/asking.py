"""What a fine-tuned model says of raw inputs: one row an input, in their order.

The way from an input to the model is that of preparing and training: encode, decode, collate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor

from d2v.data.encoding import encode_item
from d2v.errors import BadSampleError
from d2v.modalities import Modality
from d2v.model_folder import LoadedModel
from d2v.tasks import Answer
from d2v.types import SourceItem

Row = dict[str, Any]
"""What is said of an input, as JSON: `input`, and then either `error` or the task's own names."""


@dataclass(frozen=True, kw_only=True)
class Asker:
    """A model and how it is asked.

    Args:
        loaded: the model; its weights are on `device`.
        device: where it computes.
        precision: in which it computes.
        batch_size: samples at once, at most.
    """

    loaded: LoadedModel
    device: torch.device
    precision: Literal["float32", "bfloat16"]
    batch_size: int

    def rows(self, items: Iterable[SourceItem]) -> Iterator[Row]:
        """One row an item, or one a segment where a long one has several with a label each."""
        read = (_read(self.loaded.modality, item) for item in items)
        for group in _groups(read, self.batch_size):
            answers = self._answers(group)
            for one in group:
                own = [next(answers) for _ in one.examples]
                yield from self._rows_of(one, own)

    def _answers(self, group: Sequence[_Input]) -> Iterator[Answer]:
        """The answers to all samples of some inputs, one after the other."""
        unit = self.loaded.modality.length_unit
        limit = None if unit.at_once is None else unit.at_once * unit.size
        examples = [example for one in group for example in one.examples]
        lengths = [length for one in group for length in one.lengths]
        for part in batches(lengths, self.batch_size, limit):
            batch = self.loaded.modality.collate(examples[part])
            half = self.precision == "bfloat16"
            with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
                outputs = self.loaded.model.predict(batch.to(self.device))
            for sample, output in enumerate(outputs.rows(), start=part.start):
                yield Answer(sample=sample, output=output)

    def _rows_of(self, one: _Input, answers: Sequence[Answer]) -> list[Row]:
        if any(bool(answer.output.isnan().any()) for answer in answers):
            return [{"input": one.name, "error": "the model's answer is no number (NaN)"}]
        if one.reason:
            return [{"input": one.name, "error": one.reason}]
        modality = self.loaded.modality
        said = [self.loaded.task.describe(answer, modality.seconds_per_token) for answer in answers]
        if len(said) == 1:
            return [{"input": one.name, **said[0]}]
        edges = [length / modality.length_unit.size for length in accumulate(one.lengths)]
        spans = list(zip([0.0, *edges], edges, strict=False))
        if all("transcript" in part for part in said):
            return [{"input": one.name, **joined(said, [start for start, _ in spans])}]
        return [
            {"input": one.name, "start": round(start, 3), "end": round(end, 3), **part}
            for (start, end), part in zip(spans, said, strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class _Input:
    """One input as the model reads it, or why it cannot be read."""

    name: str
    examples: list[Tensor]
    lengths: list[int]
    reason: str = ""


def joined(said: Sequence[Row], starts: Sequence[float]) -> Row:
    """One transcript of the transcripts of segments.

    Args:
        said: `transcript` and `words` of each, with times from its own beginning.
        starts: where each begins, in seconds.
    """
    words = [
        {
            **word,
            "start": round(word["start"] + start, 3),
            "end": round(word["end"] + start, 3),
        }
        for part, start in zip(said, starts, strict=True)
        for word in part["words"]
    ]
    transcript = " ".join(part["transcript"] for part in said if part["transcript"])
    return {"transcript": transcript, "words": words}


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


def _read(modality: Modality, item: SourceItem) -> _Input:
    encoded = encode_item(modality.encode, item)
    if encoded.samples is None:
        return _Input(name=item.name, examples=[], lengths=[], reason=encoded.reason)
    try:
        examples = [modality.decode(sample.members, None) for sample in encoded.samples]
    except BadSampleError as error:
        return _Input(name=item.name, examples=[], lengths=[], reason=str(error))
    lengths = [sample.length for sample in encoded.samples]
    return _Input(name=item.name, examples=examples, lengths=lengths)


def _groups(inputs: Iterable[_Input], batch_size: int) -> Iterator[list[_Input]]:
    """As many inputs as give a whole batch; what cannot be read counts too, so that it is told."""
    group: list[_Input] = []
    count = 0
    for one in inputs:
        group.append(one)
        count += max(1, len(one.examples))
        if count >= batch_size:
            yield group
            group, count = [], 0
    if group:
        yield group
