"""The decoder of data2vec 2.0: a few convolutions that fill in what the encoder did not see.

Letters: N views, T tokens, D width of the encoder, W width of the decoder.
"""

import math

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from d2v.core.visible import fill_masked
from d2v.settings import Settings
from d2v.types import Mask

_EPS = 1e-5


class DecoderSettings(Settings):
    """Its shape (reference section 4.6; defaults: the published image base)."""

    layers: int = Field(6, ge=1)
    """Convolutions on top of each other."""
    width: int | None = Field(None, ge=1)
    """Channels W of each; null for the encoder's width."""
    kernel: int = Field(3, ge=1)
    """Tokens that one sees, along each axis; odd."""
    groups: int = Field(16, ge=1)
    """Channels mix within so many groups; divides `width` and the encoder's."""
    residual: bool = True
    """Whether each adds to what it was given, where the widths are the same."""
    projection_layers: int = Field(1, ge=1, le=2)
    """1: linear, W to D; 2: W to 2 W, GELU, 2 W to D."""
    projection_std: float | None = Field(None, gt=0)
    """Deviation with which the projection's weights start, biases at 0 (published for text); null
    for PyTorch's own start of linear layers."""
    input_dropout: float = Field(0.0, ge=0, lt=1)
    """On the encoder's output."""
    noise_std: float = Field(0.01, ge=0)
    """Deviation of the noise that stands at masked places."""

    @field_validator("kernel")
    @classmethod
    def _has_a_middle(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError("must be odd, so that a token stands in the middle")
        return kernel

    def check(self, dim: int) -> None:
        """Raises ValueError where the groups do not divide both widths; `dim`: the encoder's."""
        wide = self.width or dim
        if wide % self.groups or dim % self.groups:
            raise ValueError(
                f"objective.decoder.groups {self.groups} does not divide both encoder.dim {dim} "
                f"and objective.decoder.width {wide}"
            )


class Decoder(nn.Module):
    """From visible tokens to predictions for all."""

    def __init__(self, settings: DecoderSettings, dim: int, grid: tuple[int, int] | None) -> None:
        """`grid`: rows and columns of the tokens; None where they lie in a line.

        Raises:
            ValueError: groups and widths do not fit.
        """
        super().__init__()
        settings.check(dim)
        wide = settings.width or dim
        half = settings.kernel // 2
        kernel, padding = (1, settings.kernel), (0, half)
        if grid is not None:
            kernel, padding = (settings.kernel, settings.kernel), (half, half)
        widths = [dim, *[wide] * (settings.layers - 1)]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, wide, kernel, padding=padding, groups=settings.groups)
            for before in widths
        )
        hidden = [wide, *[2 * wide] * (settings.projection_layers - 1), dim]
        self.projections = nn.ModuleList(
            nn.Linear(before, after) for before, after in zip(hidden, hidden[1:], strict=False)
        )
        self.dropout = nn.Dropout(settings.input_dropout)
        self.settings, self.grid, self.width = settings, grid, wide

    def forward(self, x: Tensor, mask: Mask, padding: Tensor | None) -> Tensor:
        """Predictions for every token.

        Args:
            x: (N, V, D) visible tokens, without prefix.
            mask: of the N views, with `visible`.
            padding: (N, T) bool, True where there is no data; None for nowhere.

        Returns:
            (N, T, D); what stands at visible places and padding holds no meaning.
        """
        x = fill_masked(self.dropout(x), mask, noise_std=self.settings.noise_std)
        empty = None if padding is None else padding.unsqueeze(-1)
        for convolution in self.convolutions:
            if empty is not None:
                x = x.masked_fill(empty, 0)
            y = self._convolved(convolution, x)
            y = F.gelu(F.layer_norm(y, y.shape[-1:], eps=_EPS))
            x = x + y if self.settings.residual and x.shape == y.shape else y
        *first, last = self.projections
        for projection in first:
            x = F.gelu(projection(x))
        predicted: Tensor = last(x)
        return predicted

    def _convolved(self, convolution: nn.Module, x: Tensor) -> Tensor:
        """(N, T, C) to (N, T, W) over the grid, or the line, with channels innermost."""
        num_tokens = x.shape[1]
        height, width = self.grid or (1, num_tokens)
        channels_first = x.unflatten(1, (height, width)).permute(0, 3, 1, 2)
        y: Tensor = convolution(channels_first)
        return y.permute(0, 2, 3, 1).flatten(1, 2)

    def flops(self, num_tokens: int, dim: int) -> float:
        """Multiply-adds times two, one view."""
        s = self.settings
        reach = s.kernel if self.grid is None else s.kernel**2
        convolved = reach * self.width * (dim + (s.layers - 1) * self.width) / s.groups
        projected = sum(p.weight.numel() for p in self.projections if isinstance(p, nn.Linear))
        return 2.0 * num_tokens * (convolved + projected)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """PyTorch's own start of convolutions, and of linear layers without `projection_std`.

        Source: reference section 4.2.
        """
        for module in (*self.convolutions, *self.projections):
            weight, bias = module.get_parameter("weight"), module.get_parameter("bias")
            bound = 1 / math.sqrt(weight[0].numel())
            nn.init.uniform_(weight, -bound, bound, generator=generator)
            nn.init.uniform_(bias, -bound, bound, generator=generator)
        if (std := self.settings.projection_std) is not None:
            for projection in self.projections:
                nn.init.normal_(projection.get_parameter("weight"), std=std, generator=generator)
                nn.init.zeros_(projection.get_parameter("bias"))
