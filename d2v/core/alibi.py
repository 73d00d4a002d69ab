"""Attention that falls with distance (Press et al. 2022), with a learned scale.

Letters: T tokens, H heads.
"""

import math

import torch
from torch import Tensor, nn


def alibi_slopes(num_heads: int) -> Tensor:
    """How fast each head's attention falls: (H,) float32.

    For a power of two, 2^(-8 k / H) for k = 1..H; for other numbers those of the next smaller power
    of two, and then every other one of twice that power (reference section 4.4).
    """
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * k / power) for k in range(1, power + 1)]
    slopes += [2 ** (-4 * k / power) for k in range(1, 2 * power + 1, 2)][: num_heads - power]
    return torch.tensor(slopes)


class Alibi(nn.Module):
    """A bias -slope |i - j| on attention, times a scale that each head learns."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(num_heads))
        self.register_buffer("slopes", alibi_slopes(num_heads), persistent=False)

    def forward(self, num_tokens: int) -> Tensor:
        """(1, H, T, T) float. A scale below 0 counts as 0 (reference section 4.4)."""
        places = torch.arange(num_tokens, device=self.scale.device)
        distance = (places.unsqueeze(1) - places).abs()
        slopes = self.get_buffer("slopes") * self.scale.clamp_min(0)
        return (-slopes[:, None, None] * distance).unsqueeze(0)

    @torch.no_grad()
    def initialise(self) -> None:
        """Every scale at 1."""
        nn.init.ones_(self.scale)
