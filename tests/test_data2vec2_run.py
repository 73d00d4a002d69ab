"""Proves: one command takes data of every kind through data2vec 2.0 to probe and fine-tuning.

That a stopped training goes on exactly is in `test_engine_continue_lengths.py`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from d2v.engine.checkpoint import load_latest
from tests.hostile_case import RECIPE as PICTURES
from tests.hostile_case import d2v, photos, refused, worked
from tests.modality_cases import sentence
from tests.prepare_case import digests
from tests.ragged_desk_case import SPEECH, TEXT, at_desk, notes, table, voices
from tests.training_case import rows

STAGES = ("prepare", "pretrain", "probe", "finetune")
MANY: dict[str, Any] = {"name": "data2vec2", "masks_per_sample": 3,
                        "decoder": {"layers": 2, "groups": 4}}  # fmt: skip
TUNING: dict[str, Any] = {"task": {"name": "classify"}, "steps": 4, "log_every": 1,
                          "score_every": 2}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Desk:
    """A recipe of the first objective, what 2.0 changes of it, and the data."""

    recipe: str
    mask: dict[str, Any]
    batch: dict[str, Any]
    data: Callable[[Path], dict[str, Any]]
    objective: dict[str, Any]

    def write(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        recipe = yaml.safe_load(self.recipe)
        recipe["modality"]["mask"] = self.mask
        recipe["objective"].pop("head_layers", None)
        recipe["objective"] |= MANY | self.objective
        recipe["data"] |= self.data(folder)
        recipe["finetune"] = TUNING | self.batch
        at_desk(folder, patch, yaml.safe_dump(recipe))


def _pictures(folder: Path) -> dict[str, Any]:
    return {"source": photos(folder / "photos", "cat", "dog").name}


def _recordings(folder: Path) -> dict[str, Any]:
    return {"source": voices(folder / "voices", "yes", "no").name}


def _texts(folder: Path) -> dict[str, Any]:
    labelled = [[sentence(n, 4 + n % 3), "ab"[n % 2]] for n in range(30)]
    table(folder / "labelled.tsv", ["text", "label"], *labelled)
    own = {"source": "labelled.tsv", "whole_texts": True}
    return {"source": None, "pretrain": {"source": notes(folder / "notes").name},
            "probe": own, "finetune": own}  # fmt: skip


DESKS = {
    "vision": Desk(
        recipe=PICTURES, data=_pictures, batch={"batch_size": 8}, objective={},
        mask={"kind": "inverse_block", "ratio": 0.7, "size": 2},
    ),
    "speech": Desk(
        recipe=SPEECH.replace("groups: 4}", "groups: 4, alibi: true}"), data=_recordings,
        batch={"batch_length": 3}, objective={"teacher_averages": "after_features"},
        mask={"kind": "blocks", "ratio": 0.5, "length": 3},
    ),
    "text": Desk(
        recipe=TEXT, data=_texts, batch={"batch_size": 6}, objective={},
        mask={"kind": "random", "ratio": 0.48},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DESKS)
def test_run__goes_from_data_to_a_fine_tuned_model_and_then_has_nothing_to_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    DESKS[name].write(tmp_path, monkeypatch)
    worked(d2v("run", "my.yaml"), "Pre-trained", "Frozen-feature scores")
    results = {stage: json.loads(Path("runs/my", stage, "result.json").read_text())
               for stage in STAGES}  # fmt: skip
    assert results["probe"]["features"] == "frozen"
    assert len(results["finetune"]["trials"]) == 1
    logged = rows(Path("runs/my/pretrain"))
    assert {"loss", "target_std", "target_spread", "tau"} <= logged[-1].keys()
    checkpoint, _ = load_latest(Path("runs/my/pretrain/checkpoints"))
    assert checkpoint is not None
    names = checkpoint.tensors["model"].keys()
    assert "head.convolutions.1.weight" in names
    assert not any(key.startswith("teacher.head") for key in names)
    made = digests(Path("runs"))
    assert {"my/pretrain/plots/masks.png", "my/pretrain/plots/curves.png"} <= made.keys()

    worked(d2v("run", "my.yaml"), "(prepare, pretrain, probe, finetune)", "nothing was")
    assert digests(Path("runs")) == made
    refused(d2v("pretrain", "my.yaml", "objective.masks_per_sample=2"),
            "objective.masks_per_sample 3, now it is 2", "--fresh")  # fmt: skip
    assert digests(Path("runs")) == made
