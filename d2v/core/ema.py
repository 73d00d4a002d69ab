"""The moving average that makes the teacher."""

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def ema_update(teacher: Sequence[Tensor], student: Sequence[Tensor], *, tau: float) -> None:
    """Teacher <- tau * teacher + (1 - tau) * student, in place, one fused call for all tensors.

    Args:
        teacher: float32 tensors, changed.
        student: float32 tensors of the same shapes, read.
        tau: decay, 0..1; at 1 the teacher stands still.

    Source: reference section 1.1.
    """
    if tau < 1:
        torch._foreach_lerp_(list(teacher), list(student), 1 - tau)
