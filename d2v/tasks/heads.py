"""One vector for each sample out of the encoder's tokens, and what is read from it.

Letters: B batch, T tokens, D width, O outputs.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from d2v.core.encoder import EncoderSettings, initialise_linear, initialise_normal
from d2v.core.features import mean_over_tokens
from d2v.settings import Settings


class HeadSettings(Settings):
    """From tokens to outputs."""

    pool: Literal["mean", "first"] = "mean"
    """mean: over the tokens that hold data, without CLS; first: the CLS token, or the first one."""
    norm: bool = False
    """A fresh layer norm of the pooled vector, in place of the encoder's final norm (pictures;
    reference section 3.1)."""
    hidden: bool = False
    """A layer of the encoder's width with tanh before the last (text; reference section 3.3)."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Before each linear layer."""
    weight_scale: float = Field(1.0, gt=0)
    """Factor on the last layer's first weights (pictures: 0.001)."""


class PooledHead(nn.Module):
    """Pool, then norm, hidden layer and a linear layer, as set."""

    def __init__(self, settings: HeadSettings, encoder: EncoderSettings, num_outputs: int) -> None:
        super().__init__()
        dim = encoder.dim
        self.settings, self.encoder = settings, encoder
        self.norm = nn.LayerNorm(dim, eps=encoder.norm_eps) if settings.norm else nn.Identity()
        self.hidden = nn.Linear(dim, dim) if settings.hidden else None
        self.dropout = nn.Dropout(settings.dropout)
        self.last = nn.Linear(dim, num_outputs)

    def forward(self, x: Tensor, padding: Tensor | None, num_prefix: int) -> Tensor:
        """(B, T, D) -> (B, O) float32.

        Args:
            x: tokens, prefix first.
            padding: (B, T) bool, True where there is no data; None for nowhere.
            num_prefix: tokens before the data.
        """
        if self.settings.pool == "first":
            pooled = x[:, 0]
        else:
            data = None if padding is None else padding[:, num_prefix:]
            pooled = mean_over_tokens(x[:, num_prefix:], data)
        pooled = self.dropout(self.norm(pooled))
        if self.hidden is not None:
            pooled = self.dropout(torch.tanh(self.hidden(pooled)))
        outputs: Tensor = self.last(pooled)
        return outputs.float()

    @torch.no_grad()
    def initialise(self, generator: Generator) -> None:
        """As the encoder's weights; the last layer scaled."""
        hidden = [] if self.hidden is None else [self.hidden]
        initialise_linear(hidden, self.encoder, generator)
        initialise_normal(self.last.weight, self.encoder, generator)
        self.last.weight.mul_(self.settings.weight_scale)
        nn.init.zeros_(self.last.bias)
