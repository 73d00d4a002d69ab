"""Convolution over time with channels last.

Letters: B batch, T time steps, C channels.
"""

from torch import Tensor
from torch.nn import functional as F


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> Tensor:
    """A convolution over time.

    Computed as a picture of height 1 whose channels lie innermost: that needs no transposed copies,
    neither itself nor in the layer norm behind it. Of a whole training step on one CPU core, Conv1d
    between transposes taken as 1: 0.65 in bfloat16; 0.8 to 0.9 in float32, and once 1.2 in batches
    of recordings over two seconds, where oneDNN's gradient of the first wide weight can be slow.

    Args:
        x: (B, T, C).
        weight: (C', C / groups, kernel).
        bias: (C',).
        stride: between places of the kernel, in time steps.
        padding: zeros before and behind, in time steps.
        groups: output channels of a group see that group's inputs.

    Returns:
        (B, T', C').
    """
    picture = x.transpose(1, 2).unsqueeze(2)  # (B, C, 1, T)
    y = F.conv2d(picture, weight.unsqueeze(2), bias, (1, stride), (0, padding), groups=groups)
    return y.squeeze(2).transpose(1, 2)
