"""What an ablation is judged by: which stage writes the figure, where, and which way is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2v.ablation import SCORE, AblateSettings
from d2v.commands.probe_table import PRETRAINED, UNTRAINED
from d2v.core.probing import ProbeSettings
from d2v.engine.run_directory import stage_result
from d2v.errors import D2VError, UsageError
from d2v.recipe import FinetuneSettings, Recipe

FIGURES = {
    "classify": ("accuracy", "macro_f1", "top5", "matthews", "f1"),
    "regress": ("pearson", "spearman", "mean_absolute_error"),
    "ctc": ("word_accuracy", "wer", "cer", "decoded_share"),
}
"""What each task may be judged by; top5 needs more than five classes, matthews and f1 two."""
_LOWER_IS_BETTER = ("wer", "cer", "mean_absolute_error")


@dataclass(frozen=True, kw_only=True)
class Score:
    """One figure of one stage.

    Args:
        name: as the recipe has it.
        stage: that writes it.
        parts: what else the name says, by the names of `SCORE`.
    """

    name: str
    stage: str
    parts: Mapping[str, str]

    @property
    def figure(self) -> str:
        """For axes of charts and headings."""
        if self.stage == "finetune":
            return self.parts["figure"]
        budget = self.parts["budget"]
        labels = "all labels" if budget == "all" else f"{budget} a class"
        classifier = "kNN" if self.parts["classifier"] == "knn" else "linear"
        return f"{classifier} accuracy, {labels}"

    @property
    def higher_is_better(self) -> bool:
        """Known from the figure."""
        return self.parts.get("figure") not in _LOWER_IS_BETTER

    def value(self, run: Path) -> float | None:
        """The score of a run directory whose stage is finished; None where it is undefined.

        Raises:
            D2VError: the stage left other figures.
        """
        return self._read(run, PRETRAINED)

    def baseline(self, run: Path) -> float | None:
        """The same of the untrained encoder; None where it was not measured."""
        if self.stage == "finetune":
            return None
        result = stage_result(run / self.stage) or {}
        return self._read(run, UNTRAINED) if UNTRAINED in result.get("scores", {}) else None

    def scored_on(self, run: Path) -> str:
        """`test`, or `val` where there is no test."""
        return str((stage_result(run / self.stage) or {}).get("scored_on", "test"))

    def _read(self, run: Path, features: str) -> float | None:
        result = stage_result(run / self.stage) or {}
        if self.stage == "probe":
            found = _probed(result, features)
        else:
            found = _finetuned(result, self.parts)
        if self.name not in found:
            raise D2VError(
                f"{run / self.stage} has no {self.name}",
                expected=f"one of {', '.join(found) or 'no figure at all'}",
                remedy="Change ablate.score.",
            )
        value = found[self.name]
        return None if value is None else float(value)


def score_of(settings: AblateSettings, recipe: Recipe) -> Score:
    """The score that an ablation asks for.

    Raises:
        UsageError: the recipe has no such stage, or the stage no such figure.
    """
    match = SCORE.fullmatch(settings.score)
    assert match is not None
    stage = match["stage"] or match["tuned"]
    section = getattr(recipe, stage)
    if section is None:
        raise UsageError(
            f"ablate.score is {settings.score}, and the recipe has no {stage} section",
            expected=f"a section `{stage}:` that says how cells are scored",
            remedy="Add one (d2v recipes shows those that have it), or choose another score.",
        )
    known = _of_probe(section) if stage == "probe" else _of_finetune(section)
    if settings.score not in known:
        shown = [name for name in known if name.count(".") < 3]
        cells = "; each also with .INIT.SUBSET of the section" * (len(shown) < len(known))
        raise UsageError(
            f"ablate.score is {settings.score}, which {stage} does not produce here",
            expected=f"one of {', '.join(shown)}{cells}",
        )
    parts = {name: part for name, part in match.groupdict().items() if part is not None}
    return Score(name=settings.score, stage=stage, parts=parts)


def _of_probe(probe: ProbeSettings) -> list[str]:
    return [f"probe.{kind}.{n}" for kind in ("linear", "knn") for n in probe.labels_per_class]


def _of_finetune(finetune: FinetuneSettings) -> list[str]:
    figures = FIGURES[finetune.task.name]
    whole = [f"finetune.{figure}" for figure in figures]
    return whole + [
        f"{name}.{init}.{subset}"
        for name in whole
        for init in finetune.init
        for subset in finetune.subset
    ]


def cell_of(parts: Mapping[str, str], finetune: FinetuneSettings) -> tuple[str, str]:
    """Which weights and which labels a score of fine-tuning is about."""
    init = "pretrained" if "pretrained" in finetune.init else finetune.init[0]
    subset = "all" if "all" in finetune.subset else finetune.subset[-1]
    return parts.get("init", init), parts.get("subset", subset)


def _probed(result: Mapping[str, Any], features: str) -> dict[str, float | None]:
    scores = result.get("scores", {}).get(features, [])
    return {
        f"probe.{score['classifier']}.{score['budget']}": score["accuracy"]["mean"]
        for score in scores
    }


def _finetuned(result: Mapping[str, Any], parts: Mapping[str, str]) -> dict[str, float | None]:
    """A cell's fine-tuning tries one way to begin and one subset."""
    suffix = f".{parts['init']}.{parts['subset']}" if "init" in parts else ""
    for chosen in result.get("chosen", [])[:1]:
        figures = chosen["scores"][""][result["scored_on"]]["figures"]
        return {f"finetune.{name}{suffix}": value for name, value in figures.items()}
    return {}
