"""Features learned from the waveform: a stack of convolutions (reference section 2.2).

Letters: B batch, S samples, T tokens or frames, C channels.
"""

from itertools import pairwise
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from d2v.modalities.speech.convolve import convolve
from d2v.modalities.speech.geometry import Geometry, stacked_geometry
from d2v.modalities.speech.positions import PositionSettings
from d2v.settings import Settings

_EPS = 1e-5


class ConvolutionSettings(Settings):
    """The feature encoder of data2vec's speech models (reference section 2.2)."""

    kind: Literal["convolution"] = "convolution"
    """Tokens from convolutions over the waveform."""
    normalise: bool = True
    """Whether every recording is brought to mean 0 and variance 1 before it is cropped."""
    layers: tuple[tuple[int, int, int], ...] = Field(
        (
            (512, 10, 5),
            (512, 3, 2),
            (512, 3, 2),
            (512, 3, 2),
            (512, 3, 2),
            (512, 2, 2),
            (512, 2, 2),
        ),
        min_length=1,
    )
    """Channels, kernel and stride of each convolution, from the waveform up."""
    bias: bool = False
    """Whether the convolutions add a learned bias; the published ones do not."""
    gradient_scale: float = Field(1.0, ge=0)
    """What the gradient that reaches the convolutions is multiplied by; 0 freezes them.

    Any other factor changes next to nothing under AdamW, which divides a gradient by its own size:
    to slow the convolutions down, set pretrain.optimizer.frontend_scale instead."""
    positions: PositionSettings = PositionSettings()

    @field_validator("layers")
    @classmethod
    def _check(cls, layers: tuple[tuple[int, int, int], ...]) -> tuple[tuple[int, int, int], ...]:
        for number, (channels, kernel, stride) in enumerate(layers, start=1):
            if channels < 1 or stride < 1 or kernel < stride:
                raise ValueError(
                    f"layer {number} is {[channels, kernel, stride]}: expected channels, kernel "
                    "and stride of at least 1, the kernel no shorter than the stride"
                )
        return layers

    @property
    def geometry(self) -> Geometry:
        """320 samples a token and 400 to see, as published."""
        return stacked_geometry([(kernel, stride) for _, kernel, stride in self.layers])

    @property
    def width(self) -> int:
        """Channels of a feature."""
        return self.layers[-1][0]

    def flops(self, num_samples: int) -> float:
        """Multiply-adds times two, up to the last convolution."""
        total, length, before = 0.0, num_samples, 1
        for channels, kernel, stride in self.layers:
            length = max(0, (length - kernel) // stride + 1)
            total += 2.0 * length * kernel * before * channels
            before = channels
        return total

    def kept_values(self, num_samples: int) -> float:
        """Numbers kept for the backward pass: what norm, GELU and the next convolution read."""
        if self.gradient_scale == 0:
            return 0.0
        total, length = 0.0, num_samples
        for channels, kernel, stride in self.layers:
            length = max(0, (length - kernel) // stride + 1)
            total += 3.0 * length * channels
        return total


class Convolutions(nn.Module):
    """Convolution, layer norm over channels and GELU, several times; a norm on top."""

    def __init__(self, settings: ConvolutionSettings, norm_eps: float = _EPS) -> None:
        """`norm_eps` is that of the norm on top; the norms between keep PyTorch's."""
        super().__init__()
        widths = [1, *(channels for channels, _, _ in settings.layers)]
        self.weights = nn.ParameterList(
            torch.empty(after, before, kernel)
            for (before, after), (_, kernel, _) in zip(
                pairwise(widths), settings.layers, strict=True
            )
        )
        self.biases = nn.ParameterList(torch.empty(n) for n in widths[1:] if settings.bias)
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=_EPS) for width in widths[1:])
        self.norm = nn.LayerNorm(settings.width, eps=norm_eps)
        if settings.gradient_scale == 0:  # several processes would wait for a gradient
            self.weights.requires_grad_(False)
            self.biases.requires_grad_(False)
            self.norms.requires_grad_(False)
        self.settings = settings

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, S) -> (B, T, C), where only whole receptive fields give a token."""
        scale = self.settings.gradient_scale
        with torch.set_grad_enabled(torch.is_grad_enabled() and scale > 0):
            x = inputs.to(self.norm.weight.dtype).unsqueeze(2)  # (B, S, 1)
            biases = list(self.biases) or [None] * len(self.weights)
            for weight, bias, norm, (_, _, stride) in zip(
                self.weights, biases, self.norms, self.settings.layers, strict=True
            ):
                x = F.gelu(norm(convolve(x, weight, bias, stride=stride)))
        if scale not in (0, 1) and torch.is_grad_enabled():
            scaled: Tensor = _ScaledGradient.apply(x, scale)
            x = scaled
        normed: Tensor = self.norm(x)
        return normed

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Kaiming normal for the convolutions; every norm starts without effect."""
        for weight in self.weights:
            nn.init.kaiming_normal_(weight, generator=generator)
        for bias in self.biases:
            nn.init.zeros_(bias)
        for norm in (*self.norms, self.norm):
            nn.init.ones_(norm.get_parameter("weight"))
            nn.init.zeros_(norm.get_parameter("bias"))


class _ScaledGradient(torch.autograd.Function):
    """The same values; a gradient that is multiplied on its way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.scale, None
