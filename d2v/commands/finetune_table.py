"""The scores of a fine-tuning as a table for a person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from d2v.commands.task_data import TaskData
from d2v.recipe import FinetuneSettings
from d2v.report import Report

_SHOWN = 3
"""Figures of the reported split in the table; result.json has all."""
INIT = {"pretrained": "pre-trained", "scratch": "from scratch"}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What one way to begin and one subset of the labels came to, at the chosen learning rate.

    Args:
        init: where the encoder's weights came from; a baseline's name.
        subset: name of the labels.
        learning_rate: the one with the best mean score on val; None where nothing was trained.
        seeds: of the trials; none for a baseline.
        num_train: labelled training samples.
        val: the best score on val of each seed.
        scores: reading -> split -> `figures`, `std`, `interval`, `samples` over the seeds.
    """

    init: str
    subset: str
    learning_rate: float | None
    seeds: list[int]
    num_train: int
    val: list[float]
    scores: dict[str, dict[str, dict[str, Any]]]

    def as_json(self) -> dict[str, Any]:
        """For result.json."""
        return asdict(self)


def finetune_report(
    cells: list[Cell], data: TaskData, settings: FinetuneSettings, seconds: float
) -> Report:
    """One row for each way to begin, subset of labels and way to read the outputs.

    Args:
        cells: what was measured.
        data: splits and task.
        settings: of the stage.
        seconds: what this start took.
    """
    split = "val" if data.test is None else "test"
    shown = list(next(iter(cells[0].scores.values()))[split]["figures"])[:_SHOWN]
    columns = ["weights", "labels", "learning rate", f"val {data.task.main_score}"]
    columns += [f"{split} {name}" for name in shown]
    rows = [
        [*_where(cell, reading), *(_figure(by_split[split], name) for name in shown)]
        for cell in cells
        for reading, by_split in cell.scores.items()
    ]
    remarks = [
        f"{data.task.main_score} on val ({len(data.val):,} samples) chose the checkpoint"
        f"{' and the learning rate' if settings.learning_rates else ''}; "
        f"{_seeds(cells[0])}; [95 % bootstrap interval over samples].",
        *_of_tests(cells, data),
        *data.remarks,
    ]
    if data.test is None:
        remarks.append("There is no test split with labels: choice and score share val "
                       "(optimistic).")  # fmt: skip
    else:
        remarks.append(f"{len(data.test):,} test samples, looked at once, at the end. "
                       f"{seconds:.0f} s.")  # fmt: skip
    return Report(
        headline="Fine-tuned scores", columns=columns, rows=rows,
        highlight=0 if len(rows) > 1 else None, remarks=remarks,
    )  # fmt: skip


def _where(cell: Cell, reading: str) -> list[str]:
    labels = f"{cell.subset} ({cell.num_train:,})"
    name = INIT.get(cell.init, cell.init) + (f" + {reading}" if reading else "")
    rate = "-" if cell.learning_rate is None else f"{cell.learning_rate:g}"
    return [name, labels, rate, f"{np.mean(cell.val):.3f}"]


def _figure(found: Mapping[str, Any], name: str) -> str:
    spread, ends = found["std"][name], found["interval"].get(name)
    text = f"{found['figures'][name]:.3f}"
    if spread is not None:
        text += f" +- {spread:.3f}"
    return text if ends is None else f"{text} [{ends[0]:.3f}, {ends[1]:.3f}]"


def _seeds(cell: Cell) -> str:
    if len(cell.seeds) == 1:
        return f"seed {cell.seeds[0]}"
    return f"mean over {len(cell.seeds)} seeds +- their deviation"


def _of_tests(cells: list[Cell], data: TaskData) -> list[str]:
    """One line for each further test set and cell."""
    lines = []
    for name in data.tests:
        for cell in cells:
            for reading, by_split in cell.scores.items():
                found = by_split[name]
                main = next(iter(found["figures"]))
                lines.append(
                    f"{name}, {' '.join(_where(cell, reading)[:2])}: {main} "
                    f"{_figure(found, main)} on {found['samples']:,} samples"
                )
    return lines
