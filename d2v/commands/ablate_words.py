"""What an ablation shows, and what it does not, in sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from d2v.commands.ablate_cells import BASE, VARIANTS
from d2v.commands.ablate_summary import Results, Summary
from d2v.core.intervals import excludes_zero, paired_interval

_FEW_SEEDS = 5
"""Below this an interval mostly says how few there are."""


def words(results: Results) -> list[str]:
    """A line an axis, then what to keep in mind, then the verdict."""
    lines = [_axis(name, compared(results, name), results) for name in _axes(results)]
    return [*_worth(results), *lines, *_failures(results), _caution(results), verdict(results)]


def compared(results: Results, axis: str | None) -> list[tuple[str, Summary]]:
    """What is compared with the base on an axis; all cells where there is no single one."""
    if axis is None:
        others = [one for one in results.cells.values() if one.cell.id != BASE]
        return [(cell_name(one, results), one) for one in others]
    return [place for place in results.places(axis) if place[1].cell.id != BASE]


def cell_name(summary: Summary, results: Results) -> str:
    """A grid's cell by its values."""
    return ", ".join(f"{axis} {summary.cell.values[axis]}" for axis in results.sweep.axes)


def verdict(results: Results) -> str:
    """The last line: what the sweep shows, and what it does not."""
    clear, open_, unknown = [], [], []
    for axis in _axes(results):
        places = compared(results, axis)
        named = axis or "the grid"
        differing = [place for place in places if place[1].differs]
        if differing:
            clear.append(f"{named} matters ({_best_known(differing, results)})")
        elif any(one.differs is False for _, one in places):
            open_.append(named)
        elif places:
            unknown.append(named)
    said = [f"Shown: {'; '.join(clear)}." if clear else "Shown: no difference to the base."]
    if open_:
        said.append(
            f"Not shown: whether {_and(open_)} matters; every interval covers zero, which is no "
            f"proof of no effect."
        )
    if unknown:
        reason = "one seed gives no interval" if len(results.sweep.settings.seeds) == 1 else (
            "too few runs ended with a score")  # fmt: skip
        said.append(f"Not shown: anything about {_and(unknown)}; {reason}.")
    return " ".join(said)


def _worth(results: Results) -> list[str]:
    """Whether pre-training brought anything at all: else its settings can hardly matter."""
    gain = paired_interval(results.base.scores, results.untrained)
    if math.isnan(gain.mean):
        return []
    told = (
        f"The untrained encoder has {results.untrained_mean:.3f}, the base {gain.mean:+.3f} to that"
    )
    if not math.isnan(gain.half_width):
        told += f" +- {gain.half_width:.3f}"
    if gain.mean <= 0 or excludes_zero(gain) is False:
        told += "; that it learned anything for this score is not shown, and a longer training "
        told += "may say other things of these settings"
    return [f"{told}."]


def _axes(results: Results) -> list[str | None]:
    return [None] if results.sweep.settings.mode == "grid" else list(results.sweep.axes)


def _axis(axis: str | None, places: Sequence[tuple[str, Summary]], results: Results) -> str:
    base = "" if axis in (None, VARIANTS) else f" (base {results.base.cell.values[axis or '']})"
    parts = []
    for label, one in places:
        if one.differs:
            parts.append(f"{label} is {_how(one, results)}")
    covering = [label for label, one in places if one.differs is False]
    if covering:
        parts.append(f"{', '.join(covering)}: the interval of the difference covers zero")
    collapsed = [(label, one.count("collapsed")) for label, one in places if one.count("collapsed")]
    for label, count in collapsed:
        parts.append(f"{label} collapsed in {count} of {len(results.sweep.settings.seeds)} seeds")
    unknown = [label for label, one in places if one.differs is None and one.scores]
    if unknown:
        parts.append(f"{', '.join(unknown)}: no interval")
    return f"{axis or 'grid'}{base}: {'; '.join(parts) or 'nothing is scored yet'}."


def _how(one: Summary, results: Results) -> str:
    mean, _, half = one.difference
    better = (mean > 0) == results.sweep.score.higher_is_better
    return f"{'better' if better else 'worse'} by {abs(mean):.3f} +- {half:.3f}"


def _best_known(places: Sequence[tuple[str, Summary]], results: Results) -> str:
    ranked = sorted(places, key=lambda place: -abs(place[1].difference.mean))
    label, one = ranked[0]
    more = f", and {len(ranked) - 1} more" if len(ranked) > 1 else ""
    return f"{label} is {_how(one, results)}{more}"


def _failures(results: Results) -> list[str]:
    lines = []
    for status in ("collapsed", "failed", "stopped"):
        found = [
            (one, seed, outcome.reason)
            for one in results.cells.values()
            for seed, outcome in one.outcomes.items()
            if outcome.status == status
        ]
        reasons = dict.fromkeys(reason for _, _, reason in found)
        for reason in reasons:
            where = [f"{one.cell.id} seed {seed}" for one, seed, why in found if why == reason]
            lines.append(f"{status}: {', '.join(where)}: {reason}")
    return lines


def _caution(results: Results) -> str:
    seeds = len(results.sweep.settings.seeds)
    comparisons = sum(one.differs is not None for one in results.cells.values())
    parts = [
        "Intervals are Student's 95 % over seeds, differences paired by seed; all seeds share the "
        "same data and splits, so that they tell nothing about other data"
    ]
    if seeds < _FEW_SEEDS:
        parts.append(
            f"{seeds} seed{'s are' if seeds > 1 else ' is'} few (ablate.seeds adds more, and what "
            "is done is kept)"
        )
    if comparisons > 1:
        parts.append(
            f"of {comparisons} comparisons {0.05 * comparisons:.2g} would exclude zero by chance"
        )
    if results.scored_on == "val":
        parts.append("scores are on val, on which the probe also chose")
    return "; ".join(parts) + "."


def _and(names: Sequence[str]) -> str:
    return " or ".join(names)
