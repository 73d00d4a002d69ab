"""Proves: a baseline of fine-tuning is what the probe makes of the same features and labels."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.finetune_case import (
    STAGE,
    desk_fixture,
    drawn_desk_fixture,
    finetune,
    pretrained_desk_fixture,
)
from tests.hostile_case import d2v, refused, worked

__all__ = ["desk_fixture", "drawn_desk_fixture", "pretrained_desk_fixture"]


def cells() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((STAGE / "result.json").read_text())["chosen"]
    return found


def test_baseline__of_all_labels_equals_the_probes_linear_score(desk: Path) -> None:
    result = worked(finetune("finetune.baselines=true"))
    own = next(cell for cell in cells() if cell["init"] == "raw pixels")
    assert (own["learning_rate"], own["seeds"], own["num_train"]) == (None, [], 24)
    worked(d2v("probe", "my.yaml", "probe.labels_per_class=[all]"))
    scores = json.loads(Path("runs/my/probe/result.json").read_text())["scores"]["raw pixels"]
    linear = next(score for score in scores if score["classifier"] == "linear")
    found = own["scores"][""]["test"]
    assert found["figures"]["accuracy"] == pytest.approx(linear["accuracies"][0])
    assert found["samples"] == 6
    assert "raw pixels" in result.output


def test_baseline__stands_beside_every_subset_and_is_no_model_to_keep(desk: Path) -> None:
    worked(finetune("finetune.baselines=true", "finetune.subset=[few,all]"))
    assert [(cell["init"], cell["subset"], cell["num_train"]) for cell in cells()] == [
        ("pretrained", "few", 9),
        ("pretrained", "all", 24),
        ("raw pixels", "few", 9),
        ("raw pixels", "all", 24),
    ]
    kept = json.loads((STAGE / "model" / "model.json").read_text())["figures"]
    assert kept["init"] == "pretrained"


def test_baseline__of_numbers_is_refused(desk: Path) -> None:
    regress = "finetune.task={name: regress, high: 1.0}"
    refused(finetune(regress, "finetune.baselines=true"), "baselines are of classes", "regress")
