"""Proves: `d2v finetune --dry-run` plans every shipped recipe that fine-tunes, and writes nothing.

Lengths are worked out here again from the settings.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from d2v.config import ShippedRecipe, shipped_recipes
from tests.finetune_case import (
    STAGE,
    desk_fixture,
    drawn_desk_fixture,
    finetune,
    pretrained_desk_fixture,
)
from tests.hostile_case import d2v, left, refused, worked

__all__ = ["desk_fixture", "drawn_desk_fixture", "pretrained_desk_fixture"]


def settings_of(name: str) -> dict[str, Any]:
    shown = worked(d2v("finetune", name, "--print-config"))
    settings: dict[str, Any] = yaml.safe_load(shown.stdout)
    return settings


FINETUNING = [
    shipped for shipped in shipped_recipes()
    if re.search("^finetune:$|^  - /text/glue/(?!_)", shipped.path.read_text(), re.M)
]  # fmt: skip


def test_recipes__of_every_modality_finetune() -> None:
    folders = {str(shipped.name).partition("/")[0] for shipped in FINETUNING}
    assert folders == {"vision", "speech", "text"}


@pytest.mark.parametrize("shipped", FINETUNING, ids=lambda shipped: str(shipped.name))
def test_dry_run__of_a_shipped_recipe_tells_task_length_trials_and_optimiser(
    shipped: ShippedRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = str(shipped.name)
    recipe = settings_of(name)
    tuning = recipe["finetune"]
    shown = worked(
        d2v("finetune", name, "--dry-run", "data.num_train_samples=40000",
            "data.mean_train_length=2"),
        f"Plan of finetune {name}", f"task           {tuning['task']['name']}, freeze",
    ).stdout  # fmt: skip
    count = 1
    for values in (tuning["init"], tuning["subset"], tuning["learning_rates"], tuning["seeds"]):
        count *= len(values or [None])
    assert f"trials         {count}: {tuning['init'][0]}-{tuning['subset'][0]}-lr" in shown
    number, unit = tuning["steps"].split()
    batch = tuning["batch_size"] or tuning["batch_length"] // 2
    updates = int(number) if unit == "steps" else round(float(number) * (40000 // batch))
    assert f"length         {updates:,} updates of" in shown
    assert f"layer decay {tuning['optimizer']['layer_decay']:g}, " in shown
    assert list(tmp_path.iterdir()) == []


def test_dry_run__of_prepared_data_counts_what_is_there(desk: Path) -> None:
    made = left(Path("runs"))
    shown = worked(finetune("--dry-run", "finetune.steps=5 epochs", "finetune.seeds=[1,2]")).stdout
    assert "15 updates of 8 samples (5 epochs over 24 samples), 1 micro-batch(es)" in shown
    assert "trials         2: pretrained-all-lr0.003-seed1, pretrained-all-lr0.003-seed2" in shown
    assert left(Path("runs")) == made


def test_dry_run__without_data_says_what_it_does_not_know(desk: Path) -> None:
    worked(finetune("--dry-run", "name=new"), "not prepared yet, and data.num_train_samples is not")


def test_dry_run__refuses_what_the_run_would(desk: Path) -> None:
    refused(finetune("--dry-run", "finetune.task.freeze_steps=9", "finetune.steps=3 epochs"),
            "leaves nothing of 9 updates")  # fmt: skip
    refused(finetune("--dry-run", "finetune.encoder.drop_pat=0.1"), "Did you mean")
    assert left(STAGE) == []
