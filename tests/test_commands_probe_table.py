"""Proves: the probe's table says what a reader must know to read it right."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from d2v.commands.probe_table import num_labelled, probe_report
from d2v.core.probing import ProbeSettings, Score
from d2v.core.statistics import accuracy_estimate
from d2v.data.shards import Shards


def split(*labels: int) -> Shards:
    return cast(Shards, SimpleNamespace(labels=np.array(labels, dtype=np.int64)))


def remarks(train: Shards, *budgets: Any) -> list[str]:
    settings = ProbeSettings(labels_per_class=budgets)
    score = Score(classifier="linear", budget=budgets[0], chosen=[1.0], accuracies=[0.5],
                  accuracy=accuracy_estimate([0.5], 9))  # fmt: skip
    splits = {"train": train, "val": split(0, 1, -1)}
    return probe_report({"pixels": [score]}, settings, splits, 1.0).remarks


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ((0, 0, 1, 1), []),
        ((0, 0, 1, -1), ["1 class has fewer than 2 training samples"]),
        ((0, 1, 2, 2), ["2 classes have fewer than 2 training samples"]),
        ((0, 2, 2), ["1 class has fewer than 2 training samples"]),  # class 1 has none at all
    ],
)
def test_budget__that_a_class_cannot_fill_is_told(
    labels: tuple[int, ...], words: list[str]
) -> None:
    found = [remark for remark in remarks(split(*labels), 2, "all") if "fewer than" in remark]
    assert [remark.partition(":")[0] for remark in found] == words


def test_samples__without_a_label_are_not_counted() -> None:
    assert num_labelled(split(0, -1, 1, -1)) == 2
    assert any("chosen on 2 labelled val samples" in text for text in remarks(split(0, 1), 1))
