"""Which tokens the model must predict, and what the student reads in their place."""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor

from d2v.core.masking import num_painted, random_mask, token_spans
from d2v.modalities.text.tokenizer import TokenizerSettings
from d2v.settings import Settings
from d2v.types import Batch, Mask


class MaskSettings(Settings):
    """Masking (reference section 2.3; defaults: the released configuration).

    The paper's text has ratio 0.15, span 1, random_rate 0.1 and keep_rate 0.1.
    """

    kind: Literal["spans", "random"] = "spans"
    """spans: as many as the draw gives; random: single tokens, an exact number of them (data2vec
    2.0, reference section 4.3)."""
    ratio: float = Field(0.35, gt=0, lt=1)
    """random: the share to mask, where what stays visible is rounded down. spans: starts times
    `span`, over the tokens; spans overlap, so that fewer are masked: 30.7 % at the default."""
    span: int = Field(4, ge=1)
    """Tokens that a start masks, its own included."""
    random_rate: float = Field(0.0, ge=0, le=1)
    """Share of the masked places where the student reads a random token."""
    keep_rate: float = Field(0.0, ge=0, le=1)
    """Share of the masked places where the student reads the token that is there."""

    @model_validator(mode="after")
    def _check(self) -> "MaskSettings":
        if self.random_rate + self.keep_rate > 1:
            raise ValueError(
                f"random_rate {self.random_rate} and keep_rate {self.keep_rate} are more than all"
            )
        return self

    def num_masked(self, num_tokens: int) -> int:
        """Masked tokens to expect of so many, overlaps counted once."""
        if self.kind == "random":
            return num_tokens - num_painted(num_tokens, 1 - self.ratio)
        covered = 1 - (1 - self.ratio / self.span) ** self.span
        return min(max(1, round(covered * num_tokens)), max(1, num_tokens - 1))


def token_masks(
    batch: Batch,
    settings: MaskSettings,
    tokenizer: TokenizerSettings,
    generators: Sequence[Generator],
) -> Mask:
    """One mask a sample: predict (B, T) bool, replacement (B, T) int64, never on padding.

    Every chosen place is predicted, those that show a random token or their own as well: the
    released code leaves these out of the loss, which the paper does not (reference P23).
    """
    replacement = batch.inputs.clone()
    predict = torch.zeros(replacement.shape, dtype=torch.bool)
    for row, generator in enumerate(generators):
        padded = 0 if batch.padding is None else int(batch.padding[row].sum())
        length = replacement.shape[1] - padded
        hidden = _hidden(length, settings, generator)
        predict[row, :length] = hidden
        seen = replacement[row, :length]
        seen[hidden] = _read_instead(seen[hidden], settings, tokenizer, generator)
    return Mask.of(predict, replacement)


def _hidden(length: int, settings: MaskSettings, generator: Generator) -> Tensor:
    """(T,) bool of one sample."""
    if settings.kind == "random":
        return random_mask(length, num_masked=settings.num_masked(length), generator=generator)
    return token_spans(length, ratio=settings.ratio, length=settings.span, generator=generator)


def _read_instead(
    ids: Tensor, settings: MaskSettings, tokenizer: TokenizerSettings, generator: Generator
) -> Tensor:
    """What the student reads at M masked places: `<mask>`, a random token, or what is there.

    One uniform number a place decides; a random token is uniform over all but the special ones.
    """
    masked = torch.full_like(ids, tokenizer.mask)
    if settings.random_rate + settings.keep_rate == 0:
        return masked
    chance = torch.rand(len(ids), generator=generator)
    special = sorted(tokenizer.special_ids)
    random = torch.randint(tokenizer.size - len(special), ids.shape, generator=generator)
    for token in special:  # in rising order: each step makes room for one special id
        random += random >= token
    masked = torch.where(chance < settings.keep_rate + settings.random_rate, random, masked)
    return torch.where(chance < settings.keep_rate, ids, masked)
