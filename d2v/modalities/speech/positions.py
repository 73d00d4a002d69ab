"""Where a token stands, told by convolutions over its neighbours (reference section 2.2).

Letters: B batch, T tokens, D width.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from d2v.errors import UsageError
from d2v.modalities.speech.convolve import convolve
from d2v.settings import Settings

_EPS = 1e-5


class PositionSettings(Settings):
    """Five layers that together see 95 tokens around each, as published."""

    num_layers: int = Field(5, ge=1)
    """Convolutions on top of each other."""
    kernel: int = Field(19, ge=1)
    """Tokens that one of them sees; of an even number one more stands before than behind."""
    groups: int = Field(16, ge=1)
    """Channels mix within so many groups; divides the encoder's width."""
    alibi: bool = False
    """Whether attention also falls with distance, by a learned scale a head (data2vec 2.0,
    reference section 4.4)."""
    zero_padding: Literal["every", "first"] = "every"
    """Before which layers padding is set to zero. every: what a recording gives does not depend on
    the others in its batch; first: as the published models were trained."""

    def flops(self, num_tokens: int, dim: int) -> float:
        """Multiply-adds times two."""
        return 2.0 * num_tokens * self.num_layers * self.kernel * dim * dim / self.groups

    def kept_values(self, num_tokens: int, dim: int) -> float:
        """Numbers kept for the backward pass: what norm, GELU and the next convolution read."""
        return 3.0 * self.num_layers * num_tokens * dim


class ConvolutionalPositions(nn.Module):
    """Grouped convolution, layer norm without parameters and GELU, several times."""

    def __init__(self, settings: PositionSettings, dim: int) -> None:
        super().__init__()
        if dim % settings.groups:
            raise UsageError(
                f"encoder.dim is {dim} and modality.frontend.positions.groups {settings.groups}",
                expected="encoder.dim divisible by the groups",
                remedy="Change one of the two.",
            )
        shape = (dim, dim // settings.groups, settings.kernel)
        self.weights = nn.ParameterList(torch.empty(shape) for _ in range(settings.num_layers))
        self.biases = nn.ParameterList(torch.empty(dim) for _ in range(settings.num_layers))
        self.settings = settings

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """What to add to the tokens.

        The reference zeroes padding once, before the first layer; norm and GELU make something of
        it that the next layers let in. Unless told so, every layer here sees zeros, as behind the
        end of a batch.

        Args:
            x: (B, T, D), zero where there is padding.
            padding: (B, T) bool, True where there is no data; None for nowhere.

        Returns:
            (B, T, D), zero where there is padding if every layer sees zeros there.
        """
        how = {"padding": self.settings.kernel // 2, "groups": self.settings.groups}
        padding = None if self.settings.zero_padding == "first" else padding
        for weight, bias in zip(self.weights, self.biases, strict=True):
            x = convolve(x, weight, bias, **how)[:, : x.shape[1]]  # an even kernel gives one more
            x = F.gelu(F.layer_norm(x, x.shape[-1:], eps=_EPS))
            if padding is not None:
                x = x.masked_fill(padding.unsqueeze(-1), 0)
        return x

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """PyTorch's own start of a convolution: uniform within 1 / sqrt(inputs of a channel)."""
        for weight, bias in zip(self.weights, self.biases, strict=True):
            bound = 1 / math.sqrt(weight[0].numel())
            nn.init.uniform_(weight, -bound, bound, generator=generator)
            nn.init.uniform_(bias, -bound, bound, generator=generator)
