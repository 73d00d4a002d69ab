"""What the student must predict: the mean of the teacher's normalised top blocks.

Letters: B batch, T tokens, D width, K blocks. Source: reference section 1.2.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from d2v.core.schedules import TauSettings
from d2v.settings import Settings

TargetFeature = Literal["self_attention", "ffn", "ffn_residual", "end_of_block"]
TargetNorm = Literal["layer", "instance", "batch", "none"]
Total = Callable[[Tensor], Tensor]
"""Sums a tensor over all processes of a run."""

_EPS = 1e-5


class TargetSettings(Settings):
    """The knobs of target, loss and teacher. Defaults: the published ViT-B (reference 2.1)."""

    top_k: int = Field(6, ge=1)
    """Number of top blocks averaged into the target, 1..depth."""
    target_feature: TargetFeature = "end_of_block"
    """Which tensor of a block is the target."""
    target_norm: TargetNorm = "layer"
    """Normalisation of each block's feature before averaging."""
    mean_norm: TargetNorm = "layer"
    """Normalisation after averaging."""
    beta: float = Field(2.0, ge=0)
    """Smooth L1 turns from squared to absolute error here; 0 is squared error throughout."""
    channel_reduction: Literal["mean", "inv_sqrt_dim", "sum"] = "mean"
    """Loss over channels: mean (official ViT), sum / sqrt(D) (fairseq), or sum."""
    teacher_averages: Literal["all", "after_features", "encoder"] = "all"
    """all: frontend and encoder are averaged; after_features: positions and encoder are, and the
    student's features enter; encoder: the teacher uses the student's frontend."""
    tau: TauSettings = TauSettings()
    """The teacher's decay."""


def average_top_k(
    features: Sequence[Tensor],
    *,
    layer_norm: TargetNorm,
    mean_norm: TargetNorm,
    padding: Tensor | None = None,
    total: Total | None = None,
) -> Tensor:
    """Mean over blocks of the normalised features, normalised again.

    Args:
        features: K tensors (B, T, D), any float dtype; computed on in float32 (float64 stays).
        layer_norm: normalisation of each block's feature.
        mean_norm: normalisation of the mean.
        padding: (B, T) bool, True where there is no data; left out of all statistics.
        total: for the batch norm, sums a tensor over all processes; None for one process.

    Returns:
        (B, T, D) float32 (float64 for float64 features); padded places hold no meaning.
    """
    summed = normalise(features[0], layer_norm, padding, total)
    for feature in features[1:]:
        summed = summed + normalise(feature, layer_norm, padding, total)
    return normalise(summed / len(features), mean_norm, padding, total)


def normalise(
    x: Tensor, norm: TargetNorm, padding: Tensor | None = None, total: Total | None = None
) -> Tensor:
    """Parameter-free normalisation with biased variance and eps 1e-5.

    layer: each token over its channels. instance: each sample and channel over its tokens.
    batch: each channel over all tokens of the batch, over all processes where `total` is given.

    Args:
        x: (B, T, D) float.
        norm: which axes share statistics.
        padding: (B, T) bool, True where there is no data.
        total: sums a tensor over all processes, for the batch norm; None for one process.

    Returns:
        (B, T, D), float32 or wider.
    """
    x = x if x.dtype == torch.float64 else x.float()
    if norm == "none":
        return x
    if norm == "layer":
        return F.layer_norm(x, x.shape[-1:], eps=_EPS)
    axes = (1,) if norm == "instance" else (0, 1)
    whole = total if norm == "batch" and total is not None else _unchanged
    if padding is None and whole is _unchanged:
        variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    else:
        keep = x.new_ones(*x.shape[:2], 1)  # (B, T, 1)
        if padding is not None:
            keep = keep.masked_fill(padding.unsqueeze(-1), 0)
        count = whole(keep.sum(axes, keepdim=True)).clamp_min(1)
        mean = whole((x * keep).sum(axes, keepdim=True)) / count
        variance = whole(((x - mean).square() * keep).sum(axes, keepdim=True)) / count
    return (x - mean) * torch.rsqrt(variance + _EPS)


def regression_loss(prediction: Tensor, target: Tensor, *, beta: float) -> Tensor:
    """Elementwise loss: squared error where beta is 0, else smooth L1 with that threshold.

    PyTorch's own smooth L1 becomes L1 at beta 0; data2vec's beta 0 is L2 (reference 1.3, P17).
    """
    if beta == 0:
        return F.mse_loss(prediction, target, reduction="none")
    return F.smooth_l1_loss(prediction, target, beta=beta, reduction="none")


def _unchanged(x: Tensor) -> Tensor:
    return x
