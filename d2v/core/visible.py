"""Only what is visible: tokens gathered for the student, and their places filled again.

Letters: B batch, M masks a sample, N = M B views (those of one sample side by side), T tokens,
V visible tokens of a view, P prefix tokens, D width, H heads, L blocks.
"""

import torch
from torch import Tensor

from d2v.types import Mask, Tokens


def keep_visible(tokens: Tokens, mask: Mask) -> Tokens:
    """The tokens that a view shows, with the attention bias between them.

    Attention among them is attention among all with the masked keys left out, at a fraction of the
    work (reference section 4.1).

    Args:
        tokens: of the whole input, one row a sample (B) or a view (N).
        mask: of N views, with `visible`.

    Returns:
        values (N, P + V, D); padding (N, P + V) where views show different numbers; bias
        (N, H, P + V, P + V), or one for each block, (L, N, H, P + V, P + V).
    """
    assert mask.visible is not None
    num_views, num_rows = len(mask.visible), len(tokens.values)
    places = mask.visible + tokens.num_prefix
    prefix = torch.arange(tokens.num_prefix, device=places.device).expand(num_views, -1)
    places = torch.cat([prefix, places], dim=1)  # (N, P + V)
    row = torch.arange(num_views, device=places.device) // (num_views // num_rows)
    flat = (row.unsqueeze(1) * tokens.values.shape[1] + places).flatten()
    values = tokens.values.flatten(0, 1).index_select(0, flat).view(*places.shape, -1)
    padding = mask.visible_padding
    if padding is not None:
        padding = torch.cat([torch.zeros_like(prefix, dtype=torch.bool), padding], dim=1)
    return Tokens(
        values=values,
        padding=padding,
        attention_bias=_bias_between(tokens.attention_bias, places, row),
        num_prefix=tokens.num_prefix,
    )


def fill_masked(x: Tensor, mask: Mask, *, noise_std: float) -> Tensor:
    """Visible tokens in their places, noise at all others.

    The noise comes from the generator that dropout uses, which the loop seeds for every update.

    Args:
        x: (N, V, D), without prefix tokens.
        mask: of N views, with `visible`.
        noise_std: deviation of the noise (reference section 4.6).

    Returns:
        (N, T, D).
    """
    assert mask.visible is not None
    num_views, num_tokens = mask.predict.shape
    places = mask.visible
    if mask.visible_padding is not None:  # what is no token goes into a place that is cut off
        places = places.masked_fill(mask.visible_padding, num_tokens)
    shape = (num_views, num_tokens + 1, x.shape[2])
    full = torch.randn(shape, dtype=x.dtype, device=x.device) * noise_std
    return full.scatter(1, places.unsqueeze(-1).expand_as(x), x)[:, :num_tokens]


def _bias_between(bias: Tensor | None, places: Tensor, row: Tensor) -> Tensor | None:
    """(..., 1 or B or N, H, T, T) to (..., N, H, P + V, P + V)."""
    if bias is None:
        return None
    per_row = bias.movedim(-4, 0)  # (1 or B or N, ..., H, T, T)
    if len(per_row) == 1:
        between = per_row[0][..., places.unsqueeze(2), places.unsqueeze(1)]  # (..., H, N, V, V)
        return between.movedim(-3, -4)
    of_view = per_row[row]  # (N, ..., H, T, T)
    views = torch.arange(len(row), device=row.device)[:, None, None]
    between = of_view.movedim(0, -3)[..., views, places.unsqueeze(2), places.unsqueeze(1)]
    return between.movedim(-3, -4)
