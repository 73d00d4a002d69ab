"""Pictures without CLS in classes that always have one: it stands there, and no patch sees it.

The vector is zero, and of the relative table the entry "any token to CLS" lies so far below every
logit that the softmax over float32 gives CLS a weight of exactly 0, in half precision too. Patches
then come out as without it; what comes out at its own place means nothing.
Letters: T patches, D width, R relative distances between patches, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Size, Tensor

from d2v.exchange.links import Link

_UNSEEN = -1e30
"""Added to a logit; finite in float32 and bfloat16, so that nothing becomes NaN."""
CLS_ROWS = 3
"""Rows that a relative table ends in: CLS to token, token to CLS, CLS to CLS."""


@dataclass(frozen=True)
class AfterCls(Link):
    """Positions of patches, (T, D); theirs (1, T + 1, D) begin with that of CLS, zero."""

    ours: str
    theirs: tuple[str, ...]

    def to_ours(self, theirs: Sequence[Tensor], shape: Size) -> Tensor:
        """Without that of CLS."""
        (tensor,) = theirs
        return tensor[0, 1:]

    def to_theirs(self, ours: Tensor) -> list[Tensor]:
        """With it."""
        return [with_cls_position(ours)]


@dataclass(frozen=True)
class TableWithCls(Link):
    """A relative table, (R, H); theirs (R + 3, H) ends in what hides CLS."""

    ours: str
    theirs: tuple[str, ...]

    def to_ours(self, theirs: Sequence[Tensor], shape: Size) -> Tensor:
        """Without those rows."""
        (tensor,) = theirs
        return tensor[:-CLS_ROWS]

    def to_theirs(self, ours: Tensor) -> list[Tensor]:
        """With them."""
        rows = ours.new_zeros(CLS_ROWS, ours.shape[1])
        rows[1] = _UNSEEN
        return [torch.cat([ours, rows])]


def with_cls_position(positions: Tensor) -> Tensor:
    """(T, D) -> (1, T + 1, D), that of CLS zero."""
    return torch.cat([torch.zeros_like(positions[:1]), positions]).unsqueeze(0)


def blank_table(grid_side: int, num_heads: int) -> Tensor:
    """A relative table that does nothing but hide CLS: (R + 3, H).

    Args:
        grid_side: patches along one side.
        num_heads: of the attention.
    """
    nothing = torch.zeros((2 * grid_side - 1) ** 2, num_heads)
    return TableWithCls("", ("",)).to_theirs(nothing)[0]
