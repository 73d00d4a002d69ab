"""Masks: shape, rate and generator in, bool out. A mask is True where the model must predict."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_TRIES = 10
_ROUNDING = 1e-9
"""196 (1 - 0.75) must not become 48 where the product ends a little below 49."""


def block_mask(
    height: int,
    width: int,
    *,
    num_masked: int,
    min_block: int,
    max_block: int,
    aspect_min: float,
    generator: torch.Generator,
) -> Tensor:
    """Rectangles of random area and shape until about `num_masked` cells are covered.

    Args:
        height: rows of the grid, in tokens.
        width: columns of the grid, in tokens.
        num_masked: cells to cover; never more, sometimes a few less.
        min_block: smallest area that is drawn, in tokens.
        max_block: largest area that is drawn, in tokens.
        aspect_min: smallest height / width; the largest is its inverse.
        generator: CPU generator, the only source of randomness.

    Returns:
        (height, width) bool on the CPU, at least one cell True.

    Source: BEiT's block-wise masking as data2vec uses it, reference section 2.1 (the reversed
    interval of pitfall P30 included, since the published masks were drawn that way).
    """
    log_aspect = math.log(1 / aspect_min)
    masked = torch.zeros(height, width, dtype=torch.bool)
    grid = masked.numpy()  # shares memory: scalar work is several times faster on the numpy view
    count = 0
    while count < num_masked:
        budget = min(num_masked - count, max_block)
        for u_area, u_aspect, u_top, u_left in torch.rand(_TRIES, 4, generator=generator).tolist():
            area = min_block + (budget - min_block) * u_area
            aspect = math.exp(log_aspect * (2 * u_aspect - 1))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h >= height or w >= width or h < 1 or w < 1:
                continue
            top, left = int(u_top * (height - h + 1)), int(u_left * (width - w + 1))
            block = grid[top : top + h, left : left + w]
            new = h * w - int(block.sum())
            if 0 < new <= budget:
                block[:] = True
                count += new
                break
        else:
            break
    if count == 0:  # a tiny grid can refuse every rectangle; a sample must predict something
        cell = int(torch.randint(height * width, (), generator=generator))
        masked.view(-1)[cell] = True
    return masked


def exact_blocks(
    shape: Sequence[int],
    *,
    ratio: float,
    adjust: float,
    size: int,
    inverse: bool,
    generator: torch.Generator,
) -> Tensor:
    """Blocks of one size at random places, brought to an exact count by single tokens.

    Args:
        shape: of the grid, (T,) or (rows, columns).
        ratio: share of the tokens to mask.
        adjust: added to the share that blocks are drawn for, since they overlap.
        size: of a block along each axis, in tokens.
        inverse: whether the blocks are what stays visible.
        generator: CPU generator, the only source of randomness.

    Returns:
        bool of that shape on the CPU: floor(T ratio) True, with `inverse` T - floor(T (1 - ratio));
        at least one True and one False.

    Source: reference section 4.3, images and audio, steps 1 to 5; of few tokens at least one block
    is drawn, where the reference would scatter single tokens under the name of blocks.
    """
    num_tokens = math.prod(shape)
    share = 1 - ratio if inverse else ratio
    count = num_painted(num_tokens, share)
    num_blocks = max(1, int(num_tokens * (share + adjust) / size ** len(shape) + _ROUNDING))
    painted = torch.zeros(num_tokens, dtype=torch.bool)
    flat = painted.numpy()  # shares memory; so small an array is several times faster in numpy
    grid = flat.reshape(*shape)
    draws = torch.rand(num_blocks, len(shape), generator=generator).numpy()
    firsts = (draws * np.asarray(shape, np.float32)).astype(np.int64) - size // 2
    ends = np.asarray(shape)[:, None, None] - 1
    spans = np.clip(firsts.T[:, :, None] + np.arange(size), 0, ends)  # (axes, blocks, size)
    grid[spans[0] if len(shape) == 1 else (spans[0][:, :, None], spans[1][:, None])] = True
    excess = int(np.count_nonzero(flat)) - count
    places = np.flatnonzero(flat if excess > 0 else ~flat)
    order = torch.randperm(len(places), generator=generator)[: abs(excess)]
    flat[places[order.numpy()]] = excess < 0
    return (painted ^ inverse).view(*shape)


def num_painted(num_tokens: int, share: float) -> int:
    """Exactly so many tokens of a share: rounded down, at least one and at most all but one."""
    return min(max(1, int(num_tokens * share + _ROUNDING)), max(1, num_tokens - 1))


def random_mask(num_tokens: int, *, num_masked: int, generator: torch.Generator) -> Tensor:
    """Exactly `num_masked` of `num_tokens` positions, uniformly. Returns (num_tokens,) bool."""
    masked = torch.zeros(num_tokens, dtype=torch.bool)
    masked[torch.randperm(num_tokens, generator=generator)[:num_masked]] = True
    return masked


def token_spans(
    num_tokens: int, *, ratio: float, length: int, generator: torch.Generator
) -> Tensor:
    """Spans that begin anywhere, are cut at the end, and may overlap.

    Args:
        num_tokens: T, without padding.
        ratio: starts times `length` over `num_tokens`; the fraction of a start is a chance of one.
        length: of a span, in tokens.
        generator: CPU generator, the only source of randomness.

    Returns:
        (T,) bool on the CPU, at least one True and, of two tokens or more, at least one False.

    Source: reference section 2.3, steps 1 to 3. These may mask nothing, or all; here one token is
    masked, or left visible, so that every sample has something to predict, and to predict from.
    """
    spare = float(torch.rand((), generator=generator))
    num_starts = min(num_tokens, int(ratio * num_tokens / length + spare))
    order = torch.randperm(num_tokens, generator=generator)
    masked = torch.zeros(num_tokens, dtype=torch.bool)
    if num_starts == 0:
        masked[order[0]] = True
        return masked
    places = (order[:num_starts].unsqueeze(1) + torch.arange(length)).flatten()
    masked[places[places < num_tokens]] = True
    if num_tokens > 1 and bool(masked.all()):
        masked[torch.randint(num_tokens, (), generator=generator)] = False
    return masked


def span_mask(
    num_tokens: int, *, ratio: float, length: int, min_spans: int, generator: torch.Generator
) -> Tensor:
    """Spans of one length that begin at distinct places and may overlap.

    Args:
        num_tokens: T, without padding.
        ratio: spans times `length` over `num_tokens`; what overlaps, masks less than that. The
            fraction of a span is a chance of one.
        length: of a span, in tokens.
        min_spans: spans at least; 0 allows a mask without any.
        generator: CPU generator, the only source of randomness.

    Returns:
        (T,) bool on the CPU, at least one True (where `min_spans` is) and, of two tokens or more,
        at least one False.

    Source: reference section 2.2, span masking, steps 1 to 4: the last place where a span would fit
    is never drawn, and a short sample draws places behind its end, which are dropped. The reference
    fails where all is masked and can mask nothing; here one random token is left visible, or
    masked, so that every sample has something to predict, and to predict from.
    """
    spare = float(torch.rand((), generator=generator))
    num_spans = max(min_spans, int(ratio * num_tokens / length + spare))
    num_places = num_tokens - length if num_tokens - length > num_spans else num_spans + 1
    starts = torch.randperm(num_places, generator=generator)[:num_spans]
    places = (starts.unsqueeze(1) + torch.arange(length)).flatten()
    masked = torch.zeros(num_tokens, dtype=torch.bool)
    masked[places[places < num_tokens]] = True
    count = int(masked.sum())
    nothing_wrongly = count == 0 and min_spans > 0
    if nothing_wrongly or (count == num_tokens and num_tokens > 1):
        masked[torch.randint(num_tokens, (), generator=generator)] = nothing_wrongly
    return masked


def trim_to_same_count(masks: Sequence[Tensor], generators: Sequence[torch.Generator]) -> None:
    """Take random tokens out of all masks but the smallest, until all have as many (in place).

    Args:
        masks: (T,) bool each, of any lengths.
        generators: one a mask; decides which of its tokens become visible.

    Source: reference section 2.2, span masking, step 5.
    """
    counts = [int(mask.sum()) for mask in masks]
    for mask, count, generator in zip(masks, counts, generators, strict=True):
        order = torch.randperm(count, generator=generator)
        mask[mask.nonzero().squeeze(1)[order[min(counts) :]]] = False
