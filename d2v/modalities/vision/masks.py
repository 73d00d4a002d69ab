"""Which patches the model must predict."""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Generator

from d2v.core.masking import block_mask, exact_blocks, num_painted, random_mask
from d2v.settings import Settings
from d2v.types import Mask


class MaskSettings(Settings):
    """Masking (reference section 2.1; defaults: the published ViT-B)."""

    kind: Literal["block", "random", "inverse_block"] = "block"
    """block: BEiT's rectangles; random: single patches; inverse_block: squares stay visible, and
    their number is exact (data2vec 2.0, reference section 4.3)."""
    ratio: float = Field(0.6122, gt=0, lt=1)
    """Share of the patches to mask; 0.6122 of 196 is the published 120."""
    min_block: int = Field(16, ge=1)
    """Smallest rectangle that is drawn, in patches."""
    max_block: int | None = Field(None, ge=1)
    """Largest rectangle that is drawn, in patches; null for the whole grid."""
    aspect_min: float = Field(0.3, gt=0, le=1)
    """Smallest height / width of a rectangle; the largest is its inverse."""
    size: int = Field(3, ge=1)
    """Side of a square that stays visible, in patches (inverse_block)."""
    adjust: float = Field(0.07, ge=0, lt=1)
    """Share of the patches that squares are drawn for beyond 1 - ratio, since they overlap
    (inverse_block)."""

    @model_validator(mode="after")
    def _check(self) -> "MaskSettings":
        if self.max_block is not None and self.max_block < self.min_block:
            raise ValueError(f"max_block {self.max_block} is below min_block {self.min_block}")
        return self

    def num_masked(self, num_patches: int) -> int:
        """Patches to mask, at least one, at most all but one."""
        if self.kind == "inverse_block":
            return num_patches - num_painted(num_patches, 1 - self.ratio)
        return min(max(1, round(self.ratio * num_patches)), max(1, num_patches - 1))


def patch_masks(side: int, settings: MaskSettings, generators: Sequence[Generator]) -> Mask:
    """One mask a sample over a grid of `side` x `side` patches: predict (B, side * side) bool."""
    count = settings.num_masked(side * side)
    if settings.kind == "random":
        rows = [random_mask(side * side, num_masked=count, generator=g) for g in generators]
    elif settings.kind == "inverse_block":
        how = {"ratio": settings.ratio, "adjust": settings.adjust}
        rows = [
            exact_blocks(
                (side, side), size=settings.size, inverse=True, generator=generator, **how
            ).flatten()
            for generator in generators
        ]
    else:
        rows = [
            block_mask(
                side,
                side,
                num_masked=count,
                min_block=settings.min_block,
                max_block=settings.max_block or side * side,
                aspect_min=settings.aspect_min,
                generator=generator,
            ).flatten()
            for generator in generators
        ]
    return Mask.of(torch.stack(rows))
