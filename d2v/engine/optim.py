"""AdamW: which parameter gets which weight decay and which share of the learning rate."""

import re
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from d2v.core.schedules import Horizon, LearningRateSettings, learning_rate_scale, weight_decay
from d2v.settings import Settings

_BLOCK = re.compile(r"encoder\.blocks\.(\d+)\.")
_NEVER_DECAYED = ("cls_token", "mask_token", "positions")
_SHARED_BY_BLOCKS = "relative_position_bias_table"


Beta = Annotated[float, Field(ge=0, lt=1)]
"""Decay of an average, below 1."""


class OptimizerSettings(Settings):
    """AdamW (decoupled decay) and its schedules. Defaults: published ViT-B, reference 2.1."""

    learning_rate: float = Field(2e-3, gt=0)
    """Peak learning rate for the global batch."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay of the gradient's and the squared gradient's averages."""
    eps: float = Field(1e-8, gt=0)
    """Added to the denominator after bias correction."""
    weight_decay: float = Field(0.05, ge=0)
    """Decoupled decay of what `decayed` says."""
    decayed: Literal["matrices", "all"] = "matrices"
    """matrices: not norms, biases, layer scales, CLS, mask vector and positions (official vision);
    all: every parameter (fairseq; reference P2)."""
    weight_decay_end: float | None = Field(None, ge=0)
    """Decay at the end of the run (cosine in between); null keeps it constant."""
    clip_norm: float | None = Field(3.0, gt=0)
    """Largest norm of the whole gradient; null for no clipping."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Factor on the learning rate from each block to the one below; 1 for none."""
    frontend_scale: float = Field(1.0, gt=0)
    """Factor on the frontend's learning rate, beside `layer_decay`. AdamW divides by the size of
    the gradient, so that to scale the frontend's gradient instead would change next to nothing."""
    schedule: LearningRateSettings = LearningRateSettings()
    """How the learning rate moves."""


def parameter_groups(model: nn.Module, settings: OptimizerSettings) -> list[dict[str, object]]:
    """Groups for AdamW, one for each pair of decay and learning-rate share.

    Unless `decayed` is all, parameters of one dimension or less (norms, biases, layer scales, CLS,
    mask vector) and learned positions have no decay. With `layer_decay` d, block i of L (0-based)
    learns at d ** (L - i), the frontend at d ** (L + 1), all above the blocks at 1, and so does the
    relative table, which every block reads (reference section 3.1, layer-wise decay).

    Args:
        model: its trainable parameters are grouped; blocks are named `encoder.blocks.N.`.
        settings: decay and layer decay.

    Returns:
        Groups with `params`, `names`, `decayed` and `lr_scale`.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    blocks = [int(found.group(1)) for name, _ in named if (found := _BLOCK.search(name))]
    depth = max(blocks, default=-1) + 1
    groups: dict[tuple[float, float], dict[str, object]] = {}
    for name, parameter in named:
        is_matrix = parameter.ndim > 1 and name.rsplit(".", 1)[-1] not in _NEVER_DECAYED
        decayed = is_matrix or settings.decayed == "all"
        scale = settings.layer_decay ** (depth + 1 - _layer(name, depth))
        if name.startswith("frontend."):
            scale *= settings.frontend_scale
        group = groups.setdefault(
            (float(decayed), scale),
            {"params": [], "names": [], "decayed": decayed, "lr_scale": scale},
        )
        group["params"].append(parameter)  # type: ignore[attr-defined]  # a list, see above
        group["names"].append(name)  # type: ignore[attr-defined]  # a list, see above
    return list(groups.values())


def _layer(name: str, depth: int) -> int:
    found = _BLOCK.search(name)
    if found:
        return int(found.group(1)) + 1
    if name.startswith("frontend.") and not name.endswith(_SHARED_BY_BLOCKS):
        return 0
    return depth + 1


def build_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """Fused AdamW over the groups; learning rate and decay are set before every update."""
    return torch.optim.AdamW(
        parameter_groups(model, settings),
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def apply_schedules(
    optimizer: torch.optim.Optimizer, settings: OptimizerSettings, step: int, horizon: Horizon
) -> dict[str, float]:
    """Set learning rate and weight decay for update `step` (0-based); returns both."""
    rate = settings.learning_rate * learning_rate_scale(step, settings.schedule, horizon)
    end = settings.weight_decay if settings.weight_decay_end is None else settings.weight_decay_end
    decay = weight_decay(
        step, start=settings.weight_decay, end=end, total_steps=horizon.total_steps
    )
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
        group["weight_decay"] = decay if group["decayed"] else 0.0
    return {"learning_rate": rate, "weight_decay": decay}
