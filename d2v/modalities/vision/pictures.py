"""Pictures for a person's eye."""

from pathlib import Path

import torch
from torch import Tensor
from torchvision.utils import make_grid, save_image

from d2v.types import Batch, Mask

_SHOWN = 16
_MIN_SIDE = 96
"""Smaller pictures are enlarged to about this side, in pixels."""


def draw_masks(batch: Batch, mask: Mask, side: int, path: Path) -> None:
    """Pairs of a picture and what the student sees of it, eight pairs a row, as a PNG.

    Args:
        batch: inputs (B, C, S, S) uint8.
        mask: predict (B, side * side).
        side: patches along one side.
        path: of the PNG.
    """
    pictures = _as_rgb(batch.inputs[:_SHOWN])  # (N, 3, S, S) float in 0..1
    patch = pictures.shape[-1] // side
    hidden = mask.predict[:_SHOWN].view(-1, 1, side, side)
    hidden = hidden.repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    grey = torch.tensor([0.55, 0.6, 0.75]).view(1, 3, 1, 1)
    seen = torch.where(hidden, grey, pictures)
    pairs = torch.stack([pictures, seen], dim=1).flatten(0, 1)  # (2 N, 3, S, S)
    factor = max(1, _MIN_SIDE // pairs.shape[-1])
    pairs = pairs.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    save_image(make_grid(pairs, nrow=8, padding=4, pad_value=1.0), path)


def _as_rgb(images: Tensor) -> Tensor:
    images = images.float() / 255
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
