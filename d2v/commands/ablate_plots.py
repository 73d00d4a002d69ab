"""One chart an axis: values in order, numbers joined, mean with interval, the base marked."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from d2v.ablation import PublishedSettings
from d2v.commands.ablate_cells import BASE
from d2v.commands.ablate_summary import Results, Summary

_LONG = 14
"""Characters from which labels are slanted."""
_LEGEND = 8
"""Lines at most that are named."""
Line = tuple[str, list[tuple[str, Summary]]]
"""Name, and places in order."""


def plot_axes(results: Results, folder: Path) -> list[Path]:
    """Draw every axis as `<axis>.png`; returns the files.

    Args:
        results: as far as they are.
        folder: made where it is missing.
    """
    folder.mkdir(exist_ok=True)
    paths = []
    for axis in results.sweep.axes:
        path = folder / f"{re.sub('[^A-Za-z0-9_.-]+', '-', axis)}.png"
        published = results.sweep.settings.published.get(axis)
        figure = Figure(figsize=(6.4 * (2 if published else 1), 4.4), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(f"{results.sweep.name}: {axis}")
        axes = figure.add_subplot(1, 2 if published else 1, 1)
        _draw(axes, axis, results)
        if published is not None:
            _draw_published(figure.add_subplot(1, 2, 2), axis, published)
        figure.savefig(path, dpi=110)
        paths.append(path)
    return paths


def lines_of(results: Results, axis: str) -> list[Line]:
    """What is joined by a line: the axis' values, in a grid once for each setting of the others."""
    if results.sweep.settings.mode != "grid":
        return [("", results.places(axis))]
    others = [other for other in results.sweep.axes if other != axis]
    order = [label for label, _ in results.sweep.axes[axis]]
    lines: dict[str, list[tuple[str, Summary]]] = {}
    for one in results.cells.values():
        values = one.cell.values
        if values[axis] in order and all(_listed(results, o, values[o]) for o in others):
            name = ", ".join(f"{other} {values[other]}" for other in others)
            lines.setdefault(name, []).append((values[axis], one))
    return [(name, sorted(line, key=lambda p: order.index(p[0]))) for name, line in lines.items()]


def _listed(results: Results, axis: str, value: str) -> bool:
    return value in (label for label, _ in results.sweep.axes[axis])


def _draw(axes: Any, axis: str, results: Results) -> None:
    lines = lines_of(results, axis)
    labels = list(dict.fromkeys(label for _, line in lines for label, _ in line))
    for number, (name, line) in enumerate(lines):
        _draw_line(axes, labels, line, f"C{number % 10}", name if number < _LEGEND else "")
    if results.untrained_mean is not None:
        axes.axhline(results.untrained_mean, color="grey", linestyle=":", label="untrained encoder")
    _mark_lost(axes, labels, lines)
    _name_places(axes, labels)
    axes.set_xlabel(axis)
    axes.set_ylabel(results.score_label)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=8)


def _draw_line(
    axes: Any, labels: Sequence[str], line: Sequence[tuple[str, Summary]], colour: str, name: str
) -> None:
    known = [(labels.index(label), one) for label, one in line if one.scores]
    places = [place for place, _ in known]
    means = [one.mean.mean for _, one in known]
    halves = [0.0 if math.isnan(one.mean.half_width) else one.mean.half_width for _, one in known]
    label = name or "mean, 95 % interval"
    style = "-" if are_numbers(labels) else "none"
    axes.errorbar(places, means, yerr=halves, color=colour, marker="o", capsize=4, label=label,
                  linestyle=style)  # fmt: skip
    for place, one in known:
        seeds = list(one.scores.values())
        axes.plot([place] * len(seeds), seeds, ".", color=colour, alpha=0.4, markersize=5)
        if one.cell.id == BASE:
            axes.plot(place, one.mean.mean, marker="*", color="black", markersize=13, zorder=5,
                      linestyle="none", label="base")  # fmt: skip


def _mark_lost(axes: Any, labels: Sequence[str], lines: Sequence[Line]) -> None:
    """What collapsed or failed stands at the foot, with how many seeds did."""
    for status, colour in (("collapsed", "tab:red"), ("failed", "tab:purple")):
        lost = [(label, one) for _, line in lines for label, one in line if one.count(status)]
        for number, (label, one) in enumerate(lost):
            place = labels.index(label)
            # In shares of the height: it must not stretch the scale of the scores.
            axes.plot(place, 0.04, marker="x", color=colour, markersize=10, markeredgewidth=2.5,
                      linestyle="none", transform=axes.get_xaxis_transform(), clip_on=False,
                      label=status if number == 0 else None)  # fmt: skip
            axes.annotate(f"{one.count(status)} of {len(one.outcomes)}", (place, 0.04),
                          xycoords=axes.get_xaxis_transform(), xytext=(8, -3),
                          textcoords="offset points", fontsize=8, color=colour)  # fmt: skip


def _draw_published(axes: Any, axis: str, published: PublishedSettings) -> None:
    labels = list(published.values)
    axes.plot(range(len(labels)), list(published.values.values()), color="tab:orange", marker="s",
              linestyle="-" if are_numbers(labels) else "none",
              label=f"published: {published.source}")  # fmt: skip
    _name_places(axes, labels)
    axes.set_xlabel(axis)
    axes.set_ylabel(published.figure)
    axes.legend(fontsize=8)


def are_numbers(labels: Sequence[str]) -> bool:
    """Whether something lies between two values, so that a line may join them."""
    try:
        return all(math.isfinite(float(label)) for label in labels)
    except ValueError:
        return False


def _name_places(axes: Any, labels: Sequence[str]) -> None:
    slanted = any(len(label) > _LONG for label in labels)
    axes.set_xticks(range(len(labels)), labels, rotation=20 if slanted else 0,
                    ha="right" if slanted else "center", fontsize=8)  # fmt: skip
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.grid(alpha=0.3)
