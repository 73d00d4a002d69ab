"""What a fine-tuned model says of raw inputs: one row an input, in their order.

The way from an input to the model is that of preparing and training: encode, decode, collate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from d2v.commands.raw_inputs import Input, batches, groups, length_limit, read_input
from d2v.model_folder import LoadedModel
from d2v.samples import SourceItem
from d2v.tasks import Answer

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
        read = (read_input(self.loaded.modality, item) for item in items)
        for group in groups(read, lambda one: one.lengths, self.batch_size):
            answers = self._answers(group)
            for one in group:
                own = [next(answers) for _ in one.examples]
                yield from self._rows_of(one, own)

    def _answers(self, group: Sequence[Input]) -> Iterator[Answer]:
        """The answers to all samples of some inputs, one after the other."""
        limit = length_limit(self.loaded.modality.length_unit)
        examples = [example for one in group for example in one.examples]
        lengths = [length for one in group for length in one.lengths]
        for part in batches(lengths, self.batch_size, limit):
            batch = self.loaded.modality.collate(examples[part])
            half = self.precision == "bfloat16"
            with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
                outputs = self.loaded.model.predict(batch.to(self.device))
            for sample, output in enumerate(outputs.rows(), start=part.start):
                yield Answer(sample=sample, output=output)

    def _rows_of(self, one: Input, answers: Sequence[Answer]) -> list[Row]:
        if any(bool(answer.output.isnan().any()) for answer in answers):
            return [{"input": one.name, "error": "the model's answer is no number (NaN)"}]
        if one.reason:
            return [{"input": one.name, "error": one.reason}]
        modality = self.loaded.modality
        said = [self.loaded.task.describe(answer, modality.seconds_per_token) for answer in answers]
        if len(said) == 1:
            return [{"input": one.name, **said[0]}]
        spans = one.spans(modality.length_unit)
        if all("transcript" in part for part in said):
            return [{"input": one.name, **joined(said, [start for start, _ in spans])}]
        return [
            {"input": one.name, "start": round(start, 3), "end": round(end, 3), **part}
            for (start, end), part in zip(spans, said, strict=True)
        ]


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
