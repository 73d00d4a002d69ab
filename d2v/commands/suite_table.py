"""What the parts of a suite came to: one table, and the average over the parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from d2v.commands.finetune_table import INIT
from d2v.errors import D2VError
from d2v.report import Report

_REASON = 60
"""Characters of a failure's reason in the table; the remarks have all of it."""
Cell = tuple[str, str]
"""What is compared: where weights came from, and the subset of the labels."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """A part that was run.

    Args:
        title: for people.
        run: name of its run directory.
        figures: what it is judged by, as in `PartSettings`.
        result: what its fine-tuning left; {} where it failed.
        reason: why it failed, else empty.
    """

    title: str
    run: str
    figures: tuple[str, ...]
    result: Mapping[str, Any]
    reason: str = ""

    def found(self, cell: Cell) -> dict[str, dict[str, Any]]:
        """Each figure's value, deviation over seeds and interval; {} where there is no such cell.

        Raises:
            D2VError: the result has no such figure.
        """
        for chosen in self.result.get("chosen", []):
            if (chosen["init"], chosen["subset"]) == cell:
                by_split = chosen["scores"][""]
                return {name: self._figure(by_split, name) for name in self.figures}
        return {}

    def score(self, cell: Cell) -> float | None:
        """The mean of its figures; None where there is no such cell, or a figure is undefined."""
        values = [figure["value"] for figure in self.found(cell).values()]
        if not values or None in values:
            return None
        return float(sum(values) / len(values))

    def _figure(self, by_split: Mapping[str, Any], name: str) -> dict[str, Any]:
        test, _, figure = name.rpartition(".")
        split = by_split.get(test or self.result["scored_on"], {})
        if figure not in split.get("figures", {}):
            known = ", ".join(split.get("figures", {})) or "none"
            raise D2VError(
                f"{self.title} has no figure {name}",
                expected=f"one of those of {test or self.result['scored_on']}: {known}",
                remedy=f"Change suite.parts.{self.title}.figures.",
            )
        return {
            "value": split["figures"][figure],
            "std": split.get("std", {}).get(figure),
            "interval": split.get("interval", {}).get(figure),
        }


def cells_of(parts: list[Done]) -> list[Cell]:
    """What is compared, in the order of the first part that has it."""
    return list(
        dict.fromkeys(
            (chosen["init"], chosen["subset"])
            for part in parts
            for chosen in part.result.get("chosen", [])
        )
    )


def average(parts: list[Done], cell: Cell) -> tuple[float | None, int]:
    """Mean of the parts' scores, as GLUE takes it, and over how many parts."""
    scores = [score for part in parts if (score := part.score(cell)) is not None]
    return (sum(scores) / len(scores) if scores else None), len(scores)


def suite_scores(parts: list[Done], missing: list[str]) -> dict[str, Any]:
    """The table as JSON.

    Args:
        parts: that were run.
        missing: parts that were left out.
    """
    cells = cells_of(parts)
    return {
        "missing": missing,
        "failed": {part.title: part.reason for part in parts if part.reason},
        "average": [
            {"init": cell[0], "subset": cell[1], "score": mean, "parts": count}
            for cell in cells
            for mean, count in [average(parts, cell)]
        ],
        "parts": {
            part.title: [
                {
                    "init": cell[0],
                    "subset": cell[1],
                    "score": part.score(cell),
                    "figures": part.found(cell),
                }
                for cell in cells
            ]
            for part in parts
            if not part.reason
        },
    }


def suite_report(name: str, parts: list[Done], missing: list[str]) -> Report:
    """One row a figure, one column for each way to begin and subset of labels, the average last.

    Args:
        name: of the suite.
        parts: that were run.
        missing: parts that were left out.
    """
    cells = cells_of(parts)
    columns = ["task", "figure", *(_told(cell, cells) for cell in cells)]
    rows = [row for part in parts for row in _rows(part, cells)]
    means = [average(parts, cell) for cell in cells]
    counted = max((count for _, count in means), default=0)
    if means:
        rows.append(["average", f"of {counted} tasks", *(_number(mean) for mean, _ in means)])
    remarks = [f"{part.title} failed: {part.reason}" for part in parts if part.reason]
    if missing:
        remarks.append(f"No folder, and so left out: {', '.join(missing)}.")
    if any(count != counted for _, count in means):
        told = (f"{_told(cell, cells)} {n}" for cell, (_, n) in zip(cells, means, strict=True))
        remarks.append(f"The averages are not over the same tasks: {', '.join(told)}.")
    remarks.append(
        "The average is the mean over tasks of the mean of a task's figures; +- deviation over "
        "seeds; [95 % bootstrap interval over samples]."
    )
    return Report(
        headline=f"{name}: {counted} of {len(parts) + len(missing)} tasks", columns=columns,
        rows=rows, highlight=len(rows) - 1 if means else None, remarks=remarks,
    )  # fmt: skip


def _rows(part: Done, cells: list[Cell]) -> list[list[str]]:
    if part.reason:
        short = part.reason.partition("\n")[0]
        short = short if len(short) <= _REASON else f"{short[:_REASON]}..."
        row = [part.title, f"failed: {short}", *("-" for _ in cells)]
        return [row]
    found = [part.found(cell) for cell in cells]
    return [
        [part.title, _name(figure, part), *(_figure(one.get(figure)) for one in found)]
        for figure in part.figures
    ]


def _name(figure: str, part: Done) -> str:
    test, _, name = figure.rpartition(".")
    if test:
        return f"{name} ({test})"
    on_val = part.result["scored_on"] == "val"
    return f"{name} (val)" if on_val else name


def _told(cell: Cell, cells: list[Cell]) -> str:
    """Weights, and the labels where there is more than one subset."""
    init, subset = INIT.get(cell[0], cell[0]), cell[1]
    return init if len({labels for _, labels in cells}) == 1 else f"{init}, {subset}"


def _figure(found: Mapping[str, Any] | None) -> str:
    if found is None or found["value"] is None:
        return "-"
    text = _number(found["value"])
    if found["std"] is not None:
        text += f" +- {found['std']:.3f}"
    ends = found["interval"]
    return text if not ends else f"{text} [{ends[0]:.3f}, {ends[1]:.3f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
