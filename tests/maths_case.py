"""Ragged random tensors and tiny models, float64, for the tests of the mathematics."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from d2v.core.encoder import Encoder, EncoderSettings
from d2v.types import Batch, Frontend, Mask, Tokens


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(seed: int, *shape: int) -> Tensor:
    """Standard normal float64."""
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def tail_padding(lengths: list[int], num_tokens: int) -> Tensor:
    """(B, T) bool, True behind each sample's length."""
    return torch.arange(num_tokens) >= torch.tensor(lengths).unsqueeze(1)


@torch.no_grad()
def shaken(module: nn.Module, seed: int = 0) -> None:
    """Every parameter moved at random, so that no bias is 0 and no scale is 1."""
    generator = seeded(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.add_(0.3 * noise.to(parameter.dtype))


def tiny_settings(**changes: Any) -> EncoderSettings:
    """Width 12, 3 blocks, 2 heads, nothing random."""
    plain = {"attention_dropout": 0.0, "drop_path": 0.0, "layer_scale": 0.5}
    return EncoderSettings(**{"dim": 12, "depth": 3, "num_heads": 2, **plain, **changes})


def tiny_encoder(seed: int = 0, **changes: Any) -> Encoder:
    """A float64 encoder with arbitrary weights."""
    torch.manual_seed(seed)  # timm draws from the global generator when it builds its parts
    encoder = Encoder(tiny_settings(**changes)).double()
    shaken(encoder, seed)
    return encoder


class Given(Frontend):
    """Hands the encoder prepared tokens, the first of them CLS."""

    def __init__(self, tokens: Tokens) -> None:
        super().__init__()
        self.tokens = tokens

    def features(self, batch: Batch) -> Tensor:
        return batch.inputs

    def forward(self, features: Tensor, mask: Mask | None, padding: Tensor | None) -> Tokens:
        assert mask is None, "features are never masked"
        return self.tokens

    def calibrate(self, batches: Iterable[Batch]) -> None:
        raise AssertionError

    def initialise(self, generator: torch.Generator) -> None:
        raise AssertionError
