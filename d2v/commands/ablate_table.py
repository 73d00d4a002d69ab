"""The table of an ablation: on the terminal, and in summary.md."""

from __future__ import annotations

import math
from collections.abc import Iterator

from d2v.commands.ablate_cells import BASE
from d2v.commands.ablate_summary import Results, Summary
from d2v.commands.ablate_words import cell_name, words
from d2v.core.intervals import MeanInterval
from d2v.report import Report

_COLUMNS = ["setting", "value", "seeds", "mean +- deviation", "95 % interval", "minus base", ""]
_COMPUTE = ["TFLOP", "seconds"]
"""Of pre-training; shown where the cells take unlike amounts."""


def ablate_report(results: Results, headline: str, remarks: list[str]) -> Report:
    """One row a value of each axis; the words below it.

    Args:
        results: as far as they are.
        headline: first line.
        remarks: lines before the words.
    """
    rows = list(_rows(results))
    return Report(
        headline=headline, columns=_columns(results), rows=rows,
        remarks=[*remarks, *words(results)],
    )  # fmt: skip


def as_markdown(results: Results, remarks: list[str]) -> str:
    """summary.md."""
    sweep = results.sweep
    better = "higher" if sweep.score.higher_is_better else "lower"
    lines = [
        f"# Ablation of {sweep.name}",
        "",
        f"Score: {sweep.score.figure} on {results.scored_on} (`{sweep.score.name}`, {better} is "
        f"better); seeds {', '.join(map(str, sweep.settings.seeds))}; each cell: "
        f"{', '.join(sweep.stages)}.",
        "",
        "| " + " | ".join(name or "verdict" for name in _columns(results)) + " |",
        "|" + " --- |" * len(_columns(results)),
    ]
    lines += ["| " + " | ".join(_escaped(cell) for cell in row) + " |" for row in _rows(results)]
    paragraphs = [*remarks, *words(results)]
    return "\n".join([*lines, "", "\n\n".join(paragraphs), ""])


def _columns(results: Results) -> list[str]:
    return [*_COLUMNS[:3], *_COMPUTE * results.compute_varies, *_COLUMNS[3:]]


def _rows(results: Results) -> Iterator[list[str]]:
    if results.sweep.settings.mode == "grid":
        for one in results.cells.values():
            yield ["grid", cell_name(one, results), *_figures(one, results)]
        return
    for axis in results.sweep.axes:
        for label, one in results.places(axis):
            yield [axis, label, *_figures(one, results)]


def _figures(one: Summary, results: Results) -> list[str]:
    compute = [
        "-" if one.flops is None else f"{one.flops / 1e12:.3g}",
        "-" if one.train_seconds is None else f"{one.train_seconds:,.0f}",
    ]
    return [
        f"{len(one.scores)}/{len(one.outcomes)}",
        *compute * results.compute_varies,
        _spread(one.mean),
        _interval(one.mean),
        "-" if one.cell.id == BASE else _difference(one.difference),
        _verdict(one),
    ]


def _verdict(one: Summary) -> str:
    told = [
        f"{one.count(status)} {status}"
        for status in ("collapsed", "failed", "stopped", "running", "waiting")
        if one.count(status)
    ]
    if one.cell.id == BASE:
        told.insert(0, "base")
    elif one.differs is not None:
        told.insert(0, "excludes 0" if one.differs else "covers 0")
    return ", ".join(told)


def _spread(found: MeanInterval) -> str:
    if math.isnan(found.mean):
        return "-"
    return f"{found.mean:.3f}" + ("" if math.isnan(found.std) else f" +- {found.std:.3f}")


def _interval(found: MeanInterval) -> str:
    if math.isnan(found.half_width):
        return "-"
    return f"[{found.mean - found.half_width:.3f}, {found.mean + found.half_width:.3f}]"


def _difference(found: MeanInterval) -> str:
    if math.isnan(found.mean):
        return "-"
    interval = _interval(found)
    return f"{found.mean:+.3f}" + ("" if interval == "-" else f" {interval}")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
