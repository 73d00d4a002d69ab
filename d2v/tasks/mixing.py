"""Mixup and CutMix: each sample is mixed with another one, and so are their targets.

Letters: B batch, C classes; H, W height and width of the grid that a sample is.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from d2v.errors import UsageError
from d2v.settings import Settings
from d2v.types import Batch


class MixSettings(Settings):
    """What is mixed, and how strongly; off by default (published for pictures: reference 3.1)."""

    mixup_alpha: float = Field(0.0, ge=0)
    """Mixup's share is drawn from Beta(alpha, alpha); 0 for no mixup (published: 0.8)."""
    cutmix_alpha: float = Field(0.0, ge=0)
    """CutMix's share is drawn from Beta(alpha, alpha); 0 for no CutMix (published: 1.0)."""
    prob: float = Field(1.0, ge=0, le=1)
    """Probability that a micro-batch is mixed at all."""
    switch_prob: float = Field(0.5, ge=0, le=1)
    """Where both are on, probability that a mixed micro-batch gets CutMix and not mixup."""


class Box(NamedTuple):
    """A part of a grid: rows top..bottom, columns left..right, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int


def mix(batch: Batch, target: Tensor, settings: MixSettings) -> tuple[Batch, Tensor]:
    """Mix sample i with sample B - 1 - i: one draw for the whole micro-batch, as in timm.

    All draws hang on one number of torch's own CPU generator, which the engine seeds with (seed,
    step, micro-batch, rank) before every forward pass, as it does for dropout. Nothing waits for a
    GPU. In a batch of odd size the middle sample meets itself and stays as it is.

    Args:
        batch: inputs (B, ..., H, W), uint8 or float.
        target: (B, C) float.
        settings: off: batch and target are returned untouched, and nothing is drawn.

    Returns:
        The batch with float32 inputs on the same scale, and the target mixed by the same share.

    Raises:
        UsageError: the inputs are no grids of equal size, and mixing is on.
    """
    if not (settings.mixup_alpha or settings.cutmix_alpha):
        return batch, target
    _check_grids(batch)
    seed = torch.randint(2**63 - 1, (), generator=torch.default_generator, device="cpu").item()
    draws = np.random.default_rng(int(seed))
    if draws.random() >= settings.prob:
        return batch, target
    height, width = batch.inputs.shape[-2:]
    chosen = draws.random() < settings.switch_prob
    if settings.cutmix_alpha and (chosen or not settings.mixup_alpha):
        share = draws.beta(settings.cutmix_alpha, settings.cutmix_alpha)
        centre = int(draws.integers(height)), int(draws.integers(width))
        box = cut_box(height, width, share, centre)
        inputs, share = _cut(batch.inputs, box)
    else:
        share = draws.beta(settings.mixup_alpha, settings.mixup_alpha)
        inputs = _blend(batch.inputs.float(), share)
    return replace(batch, inputs=inputs), _blend(target, share)


def cut_box(height: int, width: int, share: float, centre: tuple[int, int]) -> Box:
    """Where CutMix pastes: 1 - share of the grid around a centre, clipped at the borders.

    Args:
        height: of the grid.
        width: of the grid.
        share: what is to be left of a sample, 0..1.
        centre: row and column within the grid.
    """
    ratio = math.sqrt(1 - share)
    rows, columns = int(height * ratio), int(width * ratio)
    return Box(
        top=max(0, centre[0] - rows // 2),
        bottom=min(height, centre[0] + (rows + 1) // 2),
        left=max(0, centre[1] - columns // 2),
        right=min(width, centre[1] + (columns + 1) // 2),
    )


def _cut(inputs: Tensor, box: Box) -> tuple[Tensor, float]:
    """The other sample's pixels in the box; the share that is really left of the own ones."""
    mixed = inputs.to(torch.float32, copy=True)
    rows, columns = slice(box.top, box.bottom), slice(box.left, box.right)
    mixed[..., rows, columns] = inputs.flip(0)[..., rows, columns].float()
    covered = (box.bottom - box.top) * (box.right - box.left)
    return mixed, 1 - covered / (inputs.shape[-2] * inputs.shape[-1])


def _blend(values: Tensor, share: float) -> Tensor:
    return values * share + values.flip(0) * (1 - share)


def _check_grids(batch: Batch) -> None:
    inputs = batch.inputs
    is_scale = inputs.dtype == torch.uint8 or inputs.is_floating_point()
    if inputs.ndim < 4 or not is_scale or batch.padding is not None:
        padded = "" if batch.padding is None else ", padded,"
        raise UsageError(
            f"finetune.task.mix is on, and inputs of shape {tuple(inputs.shape)}{padded} of "
            f"{str(inputs.dtype).removeprefix('torch.')} cannot be mixed",
            expected="samples that are grids of one size: (channels, height, width)",
            remedy="Set finetune.task.mix.mixup_alpha and finetune.task.mix.cutmix_alpha to 0.",
        )
