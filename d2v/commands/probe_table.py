"""The probe's scores as a table for a person."""

from __future__ import annotations

import numpy as np

from d2v.core.probing import Budget, ProbeSettings, Score
from d2v.data.shards import Shards
from d2v.report import Report

PRETRAINED = "pre-trained encoder"
UNTRAINED = "same encoder, untrained"
SUPERVISED = "same encoder, trained with labels"


def probe_report(
    table: dict[str, list[Score]],
    settings: ProbeSettings,
    splits: dict[str, Shards],
    seconds: float,
) -> Report:
    """One row for each kind of features and classifier, one column for each label budget.

    Args:
        table: features -> scores.
        settings: of the probe.
        splits: where the scores come from.
        seconds: what it took.
    """
    columns = ["frozen features", "probe", *map(_budget, settings.labels_per_class)]
    rows: list[list[str]] = []
    highlight = None
    for name, scores in table.items():
        for classifier in ("linear", "knn"):
            if name == PRETRAINED and classifier == "linear":
                highlight = len(rows)
            rows.append([name, "kNN" if classifier == "knn" else classifier, *(
                _cell(score) for score in scores if score.classifier == classifier
            )])  # fmt: skip
    scored = "test" if "test" in splits else "val"
    remarks = [
        f"Accuracy, frozen {settings.network}, pool {settings.pool}, block "
        f"{settings.block or 'last'}, input never masked; mean over {settings.draws} draws of the "
        "labelled samples +- their deviation [95 % confidence interval].",
        f"Scored on {num_labelled(splits[scored]):,} {scored} samples; penalty and k chosen on "
        f"{num_labelled(splits['val']):,} labelled val samples. {seconds:.0f} s.",
    ]
    remarks.extend(_short_of(splits["train"], settings))
    if SUPERVISED in table:
        remarks.append(
            f"'{SUPERVISED}' saw every train label while its encoder was trained (pre-training's "
            "steps, batch and optimiser, untuned): its few-label columns are no few-label scores."
        )
    if scored == "val":
        remarks.append("The source has no test split: choice and score share val (optimistic).")
    return Report(
        headline="Frozen-feature scores", columns=columns, rows=rows, highlight=highlight,
        remarks=remarks,
    )  # fmt: skip


def _short_of(train: Shards, settings: ProbeSettings) -> list[str]:
    """Budgets that some class cannot fill."""
    counts = np.bincount(train.labels[train.labels >= 0])
    budgets = [budget for budget in settings.labels_per_class if isinstance(budget, int)]
    short = {budget: int(((counts > 0) & (counts < budget)).sum()) for budget in budgets}
    return [
        f"{many} {'class has' if many == 1 else 'classes have'} fewer than {budget} training "
        "samples: all of theirs were used."
        for budget, many in short.items()
        if many
    ]


def num_labelled(shards: Shards) -> int:
    """Samples that carry a label: the others take no part in a probe."""
    return int((shards.labels >= 0).sum())


def _budget(budget: Budget) -> str:
    if budget == "all":
        return "all labels"
    return f"{budget} label{'' if budget == 1 else 's'} a class"


def _cell(score: Score) -> str:
    a = score.accuracy
    spread = f" +- {a.std:.3f}" if len(score.accuracies) > 1 else ""
    return f"{a.mean:.3f}{spread} [{a.low:.3f}, {a.high:.3f}]"
