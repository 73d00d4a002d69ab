"""Which stretches of a recording the model must predict, and which channels it goes without.

Letters: B batch, T tokens, D width.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from d2v.core.masking import exact_blocks, num_painted, span_mask, trim_to_same_count
from d2v.settings import Settings
from d2v.types import Mask


class MaskSettings(Settings):
    """Masking (reference section 2.2; defaults: the published base model)."""

    kind: Literal["spans", "blocks"] = "spans"
    """spans: begin anywhere, and their number is drawn; blocks: the masked tokens are an exact
    number (data2vec 2.0, reference section 4.3)."""
    ratio: float = Field(0.65, gt=0, le=1)
    """Tokens in spans over all tokens, as if spans never overlapped; 0.65 masks about 49 %. Of
    blocks: the exact share, rounded down."""
    adjust: float = Field(0.05, ge=0, lt=1)
    """Share of the tokens that blocks are drawn for beyond `ratio`, since they overlap."""
    length: int = Field(10, ge=1)
    """Of a span, in tokens of 20 ms."""
    min_spans: int = Field(1, ge=1)
    """Spans of a recording at least."""
    same_count: bool = True
    """Whether all recordings of a micro-batch get as many masked tokens as the one with the
    fewest, as published. Masks then depend on how batches are cut over devices. It costs coverage:
    49 % become about 45 % in a batch of 8, and a short recording among long ones drags all down
    (reference P19)."""
    channel_ratio: float = Field(0.0, ge=0, le=1)
    """Channels of the projected features in spans over all of them, as if spans never overlapped:
    they are set to zero over the whole recording. Published for fine-tuning (reference section
    3.2): 0.1 to 0.5, which hides 8 to 33 % of 768; pre-training: none."""
    channel_length: int = Field(64, ge=1)
    """Of such a span, in channels."""

    def num_masked(self, num_tokens: int) -> int:
        """About how many tokens are masked, before any are taken out for the same count."""
        if self.kind == "blocks":
            return num_painted(num_tokens, self.ratio)
        places = max(1, num_tokens - self.length)  # where a span may begin
        spans = max(self.min_spans, self.ratio * num_tokens / self.length)
        visible = 0.0
        for token in range(num_tokens):
            covering = min(token + 1, places) - max(0, token + 1 - self.length)
            chances = ((places - n - spans) / (places - n) for n in range(covering))
            visible += math.prod(max(0.0, chance) for chance in chances)
        return min(max(1, round(num_tokens - visible)), max(1, num_tokens - 1))


def span_masks(
    counts: Sequence[int], settings: MaskSettings, generators: Sequence[Generator]
) -> Mask:
    """One mask a recording.

    Args:
        counts: tokens of each recording, without padding.
        settings: how much, in what stretches.
        generators: one a recording, the only source of its randomness.

    Returns:
        predict (B, T) bool for T the largest count, never True behind a recording's end; seeds of
        spans of channels where they are asked for.
    """
    rows = [
        _row(count, settings, generator)
        for count, generator in zip(counts, generators, strict=True)
    ]
    if settings.same_count and settings.kind == "spans":
        trim_to_same_count(rows, generators)
    predict = torch.zeros(len(rows), max(counts), dtype=torch.bool)
    for line, row in zip(predict, rows, strict=True):
        line[: len(row)] = row
    return replace(Mask.of(predict), channel_seeds=_channel_seeds(settings, generators))


def _row(count: int, settings: MaskSettings, generator: Generator) -> Tensor:
    """(T,) bool of one recording."""
    if settings.kind == "blocks":
        how = {"ratio": settings.ratio, "adjust": settings.adjust}
        size = settings.length
        return exact_blocks((count,), size=size, inverse=False, generator=generator, **how)
    return span_mask(
        count,
        ratio=settings.ratio,
        length=settings.length,
        min_spans=settings.min_spans,
        generator=generator,
    )


def channel_masks(num_channels: int, settings: MaskSettings, seeds: Sequence[int]) -> Tensor:
    """Which channels each recording goes without.

    Args:
        num_channels: D.
        settings: how much, in what stretches.
        seeds: one a recording.

    Returns:
        (B, D) bool on the CPU, True where a channel is hidden; rows may have none.

    Source: reference section 3.2: spans as over time, at least 0 of them.
    """
    generators = [Generator().manual_seed(seed) for seed in seeds]
    rows = [
        span_mask(
            num_channels,
            ratio=settings.channel_ratio,
            length=settings.channel_length,
            min_spans=0,
            generator=generator,
        )
        for generator in generators
    ]
    if settings.same_count:
        trim_to_same_count(rows, generators)
    return torch.stack(rows)


def _channel_seeds(
    settings: MaskSettings, generators: Sequence[Generator]
) -> tuple[int, ...] | None:
    if settings.channel_ratio == 0:
        return None
    return tuple(int(torch.randint(2**63 - 1, (), generator=one)) for one in generators)
