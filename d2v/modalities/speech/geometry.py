"""How many tokens a recording gives."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Which samples a token is made of: token t reads [t * stride, t * stride + receptive_field).

    Only tokens whose samples are all there count, so that zeros behind a recording never enter one.

    Args:
        receptive_field: in samples.
        stride: between tokens, in samples.
    """

    receptive_field: int
    stride: int

    def num_tokens(self, num_samples: int) -> int:
        """Tokens of a recording; 0 where it is shorter than the receptive field."""
        return max(0, (num_samples - self.receptive_field) // self.stride + 1)

    def padding(self, lengths: Sequence[int]) -> Tensor | None:
        """Where a batch holds no data. Lengths in samples -> (B, T) bool, None for nowhere."""
        counts = [self.num_tokens(length) for length in lengths]
        if min(counts) == max(counts):
            return None
        return torch.arange(max(counts)) >= torch.tensor(counts).unsqueeze(1)

    def real_tokens(self, inputs: Tensor, padding: Tensor | None) -> Tensor:
        """Tokens of each recording. (B, S), (B, T) bool -> (B,) int64, without host traffic."""
        if padding is not None:
            return (~padding).sum(1)
        return torch.full(inputs.shape[:1], self.num_tokens(inputs.shape[1]), device=inputs.device)

    def samples_read(self, num_tokens: Tensor) -> Tensor:
        """Where the last of so many tokens stops reading, in samples."""
        return (num_tokens - 1) * self.stride + self.receptive_field


def stacked_geometry(layers: Sequence[tuple[int, int]]) -> Geometry:
    """Of convolutions without padding on top of each other: (kernel, stride) from the bottom.

    Flooring layer by layer, as the reference does (section 2.2), gives the same count.
    """
    receptive_field, stride = 1, 1
    for kernel, step in layers:
        receptive_field += (kernel - 1) * stride
        stride *= step
    return Geometry(receptive_field=receptive_field, stride=stride)
