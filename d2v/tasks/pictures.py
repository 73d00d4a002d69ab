"""Pictures of what a task got wrong."""

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from torch import Tensor

from d2v.core.scores import accuracy, confusion

_MOST_COUNTED = 20
"""Classes up to which every cell holds its count."""
_MOST_NAMED = 60
"""Classes up to which each has its name on both sides."""
_LONGEST_NAME = 24
_LARGEST_INCHES = 9.0
_TICKS = (0.0, 0.01, 0.05, 0.2, 0.4, 0.6, 0.8, 1.0)
_DARK = 0.25
"""Share of a row whose colour is halfway: letters are light from there."""


def draw_confusion(
    predicted: Sequence[int], truth: Sequence[int], classes: Sequence[str], path: Path
) -> None:
    """A row for each true class, a column for each predicted one, as a PNG.

    Colour is the share of the row, so that rare classes show as well as common ones; up to 20
    classes have their counts in the cells, and up to 60 their names at the sides.

    Args:
        predicted: a class id a sample.
        truth: a class id a sample.
        classes: names by id.
        path: of the PNG, in a folder that exists.
    """
    said, true = (torch.tensor(list(ids), dtype=torch.int64) for ids in (predicted, truth))
    counts = confusion(said, true, len(classes))  # (C, C)
    shares = counts.double() / counts.sum(1, keepdim=True).clamp_min(1)
    names = _readable(classes)
    side = min(_LARGEST_INCHES, max(2.2, len(names) * _inches_per_class(len(names))))
    margin = 1.2 + 0.07 * max(map(len, names), default=0)
    figure = Figure(figsize=(side + margin + 0.8, side + margin), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    # By the root: a class lost in a few percent is what one looks for, and would be invisible.
    image = axes.imshow(shares.numpy(), cmap="Blues", norm=PowerNorm(0.5, vmin=0.0, vmax=1.0))
    bar = figure.colorbar(image, ax=axes, shrink=0.8, ticks=_TICKS, format="%g")
    bar.set_label("share of the true class", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    score = f", {100 * accuracy(said, true):.1f} % right" if len(true) else ""
    axes.set_title(f"{len(true)} samples{score}", fontsize=10)
    _name_classes(axes, names)
    if len(names) <= _MOST_COUNTED:
        _write_counts(axes, counts, shares)
    figure.savefig(path, dpi=110, format="png", bbox_inches="tight")


def _inches_per_class(num_classes: int) -> float:
    return 0.45 if num_classes <= _MOST_COUNTED else 0.17


def _name_classes(axes: Axes, names: Sequence[str]) -> None:
    """Names at both sides; numbers here and there where there are too many to read."""
    if len(names) > _MOST_NAMED:
        axes.set_xlabel("predicted class, by its number", fontsize=9)
        axes.set_ylabel("true class, by its number", fontsize=9)
        axes.tick_params(labelsize=8)
        return
    axes.set_xlabel("predicted class", fontsize=9)
    axes.set_ylabel("true class", fontsize=9)
    size = 8 if len(names) <= _MOST_COUNTED else 7
    upright = max(map(len, names), default=0) > 3
    # A name may hold a dollar sign, which would begin a formula.
    axes.set_xticks(range(len(names)), labels=names, fontsize=size, parse_math=False,
                    rotation=90 if upright else 0)  # fmt: skip
    axes.set_yticks(range(len(names)), labels=names, fontsize=size, parse_math=False)


def _readable(classes: Sequence[str]) -> list[str]:
    """Names on one line, cut to length; the class's number where the font lacks its letters."""
    known = get_font(findfont(FontProperties())).get_charmap()
    names = [" ".join(name.split()) for name in classes]
    return [
        f"#{number}" if not name or any(ord(letter) not in known for letter in name)
        else name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
        for number, name in enumerate(names)
    ]  # fmt: skip


def _write_counts(axes: Axes, counts: Tensor, shares: Tensor) -> None:
    """The count of each cell that is not empty, light on dark cells."""
    for row, column in counts.nonzero().tolist():
        colour = "white" if shares[row, column] > _DARK else "black"
        axes.text(column, row, str(int(counts[row, column])), ha="center", va="center",
                  color=colour, fontsize=8)  # fmt: skip
