"""Frozen features: one vector for each sample out of an encoder. The input is never masked.

Letters: B batch, T tokens, D width, F width of the feature.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from d2v.core.encoder import Encoder
from d2v.errors import UsageError
from d2v.types import Batch, Frontend, Tokens

Pool = Literal["mean", "cls", "mean_cls", "tokens"]


@torch.no_grad()
def pooled_features(
    frontend: Frontend, encoder: Encoder, batch: Batch, *, pool: Pool, block: int | None
) -> Tensor:
    """One float32 vector for each sample.

    Args:
        frontend: in eval mode.
        encoder: in eval mode.
        batch: B samples.
        pool: mean over the tokens that hold data; cls: the first token, prefix or data; both side
            by side; or all data tokens side by side (only where every sample has the same number).
        block: 1..depth; None is the encoder's output. Inner blocks are layer-normalised without
            parameters, as the final norm does for the output.

    Returns:
        (B, F).

    Raises:
        UsageError: all tokens are asked for, and samples differ in length.
    """
    tokens = _tokens(frontend, batch)
    if pool == "tokens" and tokens.padding is not None:
        raise UsageError(
            "probe.pool is tokens, and samples differ in length",
            expected="as many tokens in every sample, or a pool that does not depend on it",
            remedy="Set probe.pool=mean.",
        )
    x = _output(encoder, tokens, block)
    first = tokens.num_prefix
    data = x[:, first:].float()  # (B, T, D)
    if pool == "tokens":
        return data.flatten(1)
    if pool == "cls":
        return x[:, 0].float()
    mean = mean_over_tokens(data, None if tokens.padding is None else tokens.padding[:, first:])
    return mean if pool == "mean" else torch.cat([mean, x[:, 0].float()], dim=1)


@torch.no_grad()
def token_features(
    frontend: Frontend, encoder: Encoder, batch: Batch, *, block: int | None
) -> tuple[Tensor, Tensor | None]:
    """One float32 vector for each token that holds data; prefix tokens are left out.

    Args:
        frontend: in eval mode.
        encoder: in eval mode.
        batch: B samples.
        block: as in `pooled_features`.

    Returns:
        (B, T, D), and padding (B, T), True where there is no data; None where nothing is padded.
    """
    tokens = _tokens(frontend, batch)
    first = tokens.num_prefix
    data = _output(encoder, tokens, block)[:, first:].float()
    return data, None if tokens.padding is None else tokens.padding[:, first:]


def mean_over_tokens(x: Tensor, padding: Tensor | None) -> Tensor:
    """(B, T, D) -> (B, D), over the tokens that hold data; padding (B, T) is True elsewhere."""
    if padding is None:
        return x.mean(1)
    keep = (~padding).unsqueeze(-1).to(x.dtype)
    return (x * keep).sum(1) / keep.sum(1).clamp_min(1)


def _tokens(frontend: Frontend, batch: Batch) -> Tokens:
    return frontend(frontend.features(batch), None, batch.padding)  # type: ignore[no-any-return]  # a module's call is untyped


def _output(encoder: Encoder, tokens: Tokens, block: int | None) -> Tensor:
    """(B, T, D) of a block, 1..depth; None is the encoder's output."""
    depth = len(encoder.blocks)
    if block is None or block == depth:
        last: Tensor = encoder(tokens).last
        return last
    x = encoder(tokens, "end_of_block", depth - block + 1).features[0]
    return F.layer_norm(x, x.shape[-1:])
