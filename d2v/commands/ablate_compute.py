"""Score against compute: what more operations, or more time, bought in an ablation."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from d2v.commands.ablate_cells import BASE, VARIANTS, Cell, Sweep, deciding
from d2v.commands.ablate_plots import are_numbers
from d2v.commands.ablate_summary import Results, Summary, varies

COMPUTE = "score-against-compute.png"
_LENGTH = "pretrain.steps"
_BASELINES = ("probe.baselines", "probe.supervised")
"""Measured with the base alone."""
_SEPARATORS = " ,_/:(-"
"""Between a variant's name and its length."""
Curve = tuple[str, list[tuple[str, Summary]]]
"""Name, and points with what is written beside them, by rising compute."""


def plot_compute(results: Results, folder: Path) -> Path | None:
    """Draw `score-against-compute.png`; None where all cells take the same, or none is done.

    Args:
        results: as far as they are.
        folder: exists.
    """
    if not results.compute_varies:
        (folder / COMPUTE).unlink(missing_ok=True)
        return None
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(results.sweep.name)
    left, right = figure.subplots(1, 2, sharey=True)
    curves = curves_of(results)
    _draw(left, results, curves, _tera, "pre-training, teacher and student, TFLOP")
    seconds = "pre-training, seconds of wall clock"
    _draw(right, results, curves, lambda one: one.train_seconds, seconds)
    left.set_ylabel(results.score_label)
    left.legend(fontsize=8, title="mean, and a dash a seed", title_fontsize=8)
    figure.savefig(folder / COMPUTE, dpi=110)
    return folder / COMPUTE


def curves_of(results: Results) -> list[Curve]:
    """What belongs together: an axis' values; else cells that differ in their length alone."""
    cells = results.cells.values()
    if results.sweep.settings.mode == "one_at_a_time":
        named = [(axis, results.places(axis)) for axis in results.sweep.axes]
    else:
        alike: dict[str, list[tuple[str, Summary]]] = {}
        for one in cells:
            alike.setdefault(_but_for_length(one.cell, results.sweep), []).append(
                (_name(one.cell, results.sweep), one)
            )
        named = [_named(points, results.sweep.name) for points in alike.values()]
    known = [(name, [place for place in line if place[1].flops]) for name, line in named]
    if results.sweep.settings.mode == "one_at_a_time":  # others would be one place on the chart
        known = [(name, line) for name, line in known if varies([one.flops for _, one in line])]
    return [(name, sorted(line, key=lambda place: place[1].flops or 0)) for name, line in known]


def _draw(
    axes: Any,
    results: Results,
    curves: list[Curve],
    place: Callable[[Summary], float | None],
    label: str,
) -> None:
    for number, (name, line) in enumerate(curves):
        found = [(place(one), text, one) for text, one in line]
        points = [(x, text, one) for x, text, one in found if x is not None and one.scores]
        colour, means = f"C{number % 10}", [one.mean.mean for _, _, one in points]
        joined = results.sweep.settings.mode != "one_at_a_time" or are_numbers([t for t, _ in line])
        axes.plot([x for x, _, _ in points], means, color=colour, marker="o", label=name,
                  linestyle="-" if joined else "none")  # fmt: skip
        for x, text, one in points:
            seeds = list(one.scores.values())
            axes.plot([x] * len(seeds), seeds, "_", color=colour, markersize=9)
            axes.annotate(text, (x, one.mean.mean), xytext=(5, -11), fontsize=8,
                          textcoords="offset points", color=colour)  # fmt: skip
    if results.untrained_mean is not None:
        axes.axhline(results.untrained_mean, color="grey", linestyle=":", label="untrained encoder")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(label)
    axes.margins(x=0.12)  # room for what is written beside the points
    axes.grid(alpha=0.3)


def _tera(one: Summary) -> float | None:
    return None if one.flops is None else one.flops / 1e12


def _but_for_length(cell: Cell, sweep: Sweep) -> str:
    """What decides a cell's score beside how long it was trained."""
    decided = deciding(cell.settings, ("prepare", *sweep.stages))
    return repr([(k, v) for k, v in decided.items() if k != _LENGTH and k not in _BASELINES])


def _name(cell: Cell, sweep: Sweep) -> str:
    if sweep.settings.mode == "list":
        return re.sub(rf"[{_SEPARATORS}]+{re.escape(_length(cell))}$", "", cell.values[VARIANTS])
    return ", ".join(f"{axis} {value}" for axis, value in cell.values.items() if axis != _LENGTH)


def _named(points: list[tuple[str, Summary]], otherwise: str) -> Curve:
    """The words that its cells' names begin with; beside the points are their lengths."""
    names = [name for name, one in points if one.cell.id != BASE] or [points[0][0]]
    common = os.path.commonprefix([name.split() for name in names])
    name = " ".join(common).rstrip(_SEPARATORS) or names[0] or otherwise
    return name, [(_length(one.cell), one) for _, one in points]


def _length(cell: Cell) -> str:
    pretrain = cell.settings.pretrain
    return "" if pretrain is None else str(pretrain.steps).removesuffix(" steps")
