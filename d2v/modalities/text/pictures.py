"""Pictures for a person's eye."""

from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from d2v.types import Batch, Mask

_SHOWN = 16
_INCHES_PER_TOKEN = 0.06
STATES = {
    "visible": "#dfe3e8",
    "<mask>": "#3b5b92",
    "random token": "#d9822b",
    "kept, but predicted": "#5aa469",
    "no data": "#ffffff",
    "left out, but predicted": "#8a6fae",
}
"""What the student reads at a place -> its colour."""


def draw_masks(batch: Batch, mask: Mask, mask_id: int, path: Path) -> None:
    """A row a sample, a cell a token, coloured by what the student reads there, as a PNG.

    Args:
        batch: inputs (B, T) int64 ids.
        mask: with replacement (B, T); without one the student reads what is visible alone.
        mask_id: of `<mask>`.
        path: of the PNG.
    """
    states = token_states(batch, mask, mask_id)[:_SHOWN]
    num_rows, num_tokens = states.shape
    size = (max(6.0, _INCHES_PER_TOKEN * num_tokens), 1.7 + 0.3 * num_rows)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.pcolormesh(
        states.numpy(), cmap=ListedColormap(list(STATES.values())), vmin=-0.5,
        vmax=len(STATES) - 0.5, edgecolors="white", linewidth=0.3,
    )  # fmt: skip
    axes.invert_yaxis()
    axes.set_yticks([])
    axes.set_xlabel("position, in tokens")
    axes.set_ylabel("samples")
    shown = set(states.flatten().tolist())
    legend = [
        Patch(facecolor=colour, edgecolor="grey", label=name)
        for number, (name, colour) in enumerate(STATES.items())
        if number in shown
    ]
    axes.legend(handles=legend, ncols=3, loc="lower left", bbox_to_anchor=(0, 1),
                frameon=False, fontsize="small")  # fmt: skip
    FigureCanvasAgg(figure)
    figure.savefig(path, format="png")


def token_states(batch: Batch, mask: Mask, mask_id: int) -> Tensor:
    """(B, T) int64: the number of each place's state among `STATES`.

    A random token that happens to be the one that was there counts as kept.
    """
    seen = torch.full_like(batch.inputs, 5)
    if mask.replacement is not None:
        seen = torch.where(mask.replacement == batch.inputs, 3, 2)
        seen = torch.where(mask.replacement == mask_id, 1, seen)
    states = torch.where(mask.predict, seen, 0)
    return states if batch.padding is None else states.masked_fill(batch.padding, 4)
