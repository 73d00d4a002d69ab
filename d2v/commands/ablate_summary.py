"""What the cells of an ablation came to over their seeds, in figures."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from d2v.commands.ablate_cells import BASE, Cell, Sweep
from d2v.commands.ablate_state import Job, Outcome
from d2v.core.intervals import MeanInterval, excludes_zero, mean_interval, paired_interval

Outcomes = Mapping[tuple[str, int], Outcome]
"""By cell's id and seed."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One cell over its seeds.

    Args:
        cell: which.
        scores: seed -> score, of those that have one.
        outcomes: seed -> where it stands.
        mean: over the seeds.
        difference: to the base over the seeds that both have; NaN where there are none.
    """

    cell: Cell
    scores: dict[int, float]
    outcomes: dict[int, Outcome]
    mean: MeanInterval
    difference: MeanInterval

    def count(self, status: str) -> int:
        """Seeds with this status."""
        return sum(outcome.status == status for outcome in self.outcomes.values())

    @property
    def flops(self) -> float | None:
        """Mean of a pre-training's operations; None before one has ended."""
        return _mean([found.flops for found in self.outcomes.values()])

    @property
    def train_seconds(self) -> float | None:
        """Mean wall clock of a pre-training's updates; None before one has ended."""
        return _mean([found.train_seconds for found in self.outcomes.values()])

    @property
    def differs(self) -> bool | None:
        """Whether the interval of the difference excludes zero; None where there is none."""
        return None if self.cell.id == BASE else excludes_zero(self.difference)


@dataclass(frozen=True, kw_only=True)
class Results:
    """An ablation as far as it is.

    Args:
        sweep: what is compared.
        cells: id -> its summary, the base first.
        untrained: seed -> score of the untrained encoder.
        scored_on: `test` or `val`.
    """

    sweep: Sweep
    cells: dict[str, Summary]
    untrained: dict[int, float]
    scored_on: str = "test"

    @property
    def compute_varies(self) -> bool:
        """Whether some cells took more operations than others."""
        return varies([one.flops for one in self.cells.values()])

    @property
    def score_label(self) -> str:
        """Of the charts' upright axis."""
        better = "" if self.sweep.score.higher_is_better else " (lower is better)"
        return f"{self.sweep.score.figure} on {self.scored_on}{better}"

    @property
    def untrained_mean(self) -> float | None:
        """Of the untrained encoder over the seeds; None where it was not scored."""
        return _mean(list(self.untrained.values()))

    @property
    def base(self) -> Summary:
        """What the others are compared with."""
        return self.cells[BASE]

    def places(self, axis: str) -> list[tuple[str, Summary]]:
        """An axis' values in order, the base among them; not for a grid."""
        listed = [(label, self.cells[cell]) for label, cell in self.sweep.axes[axis]]
        if BASE in (summary.cell.id for _, summary in listed):
            return listed
        listed.insert(0, (self.base.cell.values[axis], self.base))
        try:
            return sorted(listed, key=lambda place: float(place[0]))
        except ValueError:
            return listed


def varies(flops: Sequence[float | None]) -> bool:
    """Whether amounts differ by more than a hair."""
    known = [amount for amount in flops if amount]
    return bool(known) and max(known) > 1.02 * min(known)


def results_of(sweep: Sweep, jobs: Sequence[Job], outcomes: Outcomes) -> Results:
    """Sum up what is there; `jobs` say where the base's own figures lie."""
    scores: dict[str, dict[int, float]] = {cell.id: {} for cell in sweep.cells}
    for (cell_id, seed), found in outcomes.items():
        if found.score is not None and math.isfinite(found.score):
            scores[cell_id][seed] = found.score
    untrained: dict[int, float] = {}
    on = "test"
    for job in jobs:
        if job.cell.id == BASE and outcomes[BASE, job.seed].status == "done":
            baseline = sweep.score.baseline(job.folder)
            untrained |= {} if baseline is None else {job.seed: baseline}
            on = sweep.score.scored_on(job.folder)
    cells = {
        cell.id: Summary(
            cell=cell,
            scores=scores[cell.id],
            outcomes={seed: outcomes[cell.id, seed] for seed in sweep.settings.seeds},
            mean=mean_interval(list(scores[cell.id].values())),
            difference=paired_interval(scores[cell.id], scores[BASE]),
        )
        for cell in sweep.cells
    }
    return Results(sweep=sweep, cells=cells, untrained=untrained, scored_on=on)


def as_csv(results: Results) -> str:
    """One row a cell and seed: every varied setting, score, loss, spread, compute, status."""
    sweep, text = results.sweep, io.StringIO()
    axes = list(results.base.cell.values)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["cell", "seed", *axes, sweep.score.name, "loss", "target_spread", "flops",
         "train_seconds", "seconds", "status", "reason"]
    )  # fmt: skip
    for cell, summary in results.cells.items():
        for seed, found in summary.outcomes.items():
            values = [summary.cell.values[axis] for axis in axes]
            figures = [_cell(x) for x in (found.score, found.loss, found.spread, found.flops)]
            times = [f"{x:.3f}" if x else "" for x in (found.train_seconds, found.seconds)]
            row = [cell, seed, *values, *figures, *times, found.status, found.reason]
            writer.writerow(row)
    return text.getvalue()


def as_json(results: Results) -> dict[str, Any]:
    """Everything that the tables and charts show."""
    sweep = results.sweep
    return {
        "score": sweep.score.name,
        "higher_is_better": sweep.score.higher_is_better,
        "scored_on": results.scored_on,
        "mode": sweep.settings.mode,
        "seeds": list(sweep.settings.seeds),
        "stages": list(sweep.stages),
        "axes": {
            axis: [{"value": label, "cell": cell} for label, cell in values if cell]
            for axis, values in sweep.axes.items()
        },
        "untrained": _interval(mean_interval(list(results.untrained.values()))),
        "cells": [_summary(summary) for summary in results.cells.values()],
    }


def _summary(summary: Summary) -> dict[str, Any]:
    return {
        "id": summary.cell.id,
        "values": summary.cell.values,
        "scores": {str(seed): score for seed, score in summary.scores.items()},
        **_interval(summary.mean),
        "difference_to_base": None
        if summary.cell.id == BASE
        else {**_interval(summary.difference), "excludes_zero": summary.differs},
        "flops": summary.flops,
        "train_seconds": {str(s): found.train_seconds for s, found in summary.outcomes.items()},
        "seconds": {str(seed): found.seconds for seed, found in summary.outcomes.items()},
        "status": {str(seed): found.status for seed, found in summary.outcomes.items()},
        "reasons": {
            str(seed): found.reason for seed, found in summary.outcomes.items() if found.reason
        },
    }


def _interval(found: MeanInterval) -> dict[str, Any]:
    mean, std, half = found
    known = not math.isnan(half)
    return {
        "mean": None if math.isnan(mean) else mean,
        "std": None if math.isnan(std) else std,
        "interval": [mean - half, mean + half] if known else None,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _cell(value: float | None) -> str:
    return "" if value is None else repr(value)
