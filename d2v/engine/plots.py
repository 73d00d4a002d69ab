"""Curves of a training as PNG."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_PANELS = (
    ("Loss", ("loss",)),
    ("Standard deviation", ("target_std", "prediction_std")),
    ("Spread across samples", ("target_spread", "prediction_spread", "frontend_spread")),
    ("Effective rank", ("target_rank", "prediction_rank")),
    ("Learning rate", ("learning_rate",)),
    ("Held-out kNN accuracy", ("knn",)),
    ("Held-out score", ("accuracy", "macro_f1", "matthews", "f1", "pearson", "spearman")),
    ("Held-out error rate", ("wer", "cer")),
)


def plot_curves(rows: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Draw loss, spreads, ranks, schedule and kNN score over the steps.

    Args:
        rows: logged steps with `step` and figures; panels without data are left out.
        path: of the PNG.
        title: above all panels.
    """
    panels = [
        (name, [key for key in keys if any(row.get(key) is not None for row in rows)])
        for name, keys in _PANELS
    ]
    panels = [(name, keys) for name, keys in panels if keys]
    if not panels:
        return
    num_columns = min(3, len(panels))
    num_rows = math.ceil(len(panels) / num_columns)
    figure = Figure(figsize=(4.2 * num_columns, 2.8 * num_rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for number, (name, keys) in enumerate(panels, start=1):
        axes = figure.add_subplot(num_rows, num_columns, number)
        for key in keys:
            points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
            marker = "o" if len(points) < 30 else None
            axes.plot(*zip(*points, strict=True), label=key, marker=marker, markersize=3)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        if len(keys) > 1:
            axes.legend(fontsize=7)
        if name == "Loss":
            axes.set_yscale("log")
    figure.savefig(path, dpi=110)
