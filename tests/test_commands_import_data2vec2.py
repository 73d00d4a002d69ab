"""Proves: an imported data2vec 2.0 file is an ordinary run for pretrain, probe and finetune."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from d2v.engine.checkpoint import load_latest
from tests.foreign_case import written
from tests.hostile_case import d2v, photos, worked
from tests.second_case import content, second_tensors
from tests.test_commands_import import RECIPE, TUNING


@pytest.fixture(name="desk", autouse=True)
def desk_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of the user's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    return tmp_path


def kept(run: str) -> dict[str, torch.Tensor]:
    found, _ = load_latest(Path(run) / "pretrain" / "checkpoints")
    assert found is not None
    return found.tensors["model"]


def test_pictures__are_trained_further_with_decoder_and_teacher_probed_and_tuned() -> None:
    written(Path("two.pt"), content("IMAGE", second_tensors("IMAGE")))
    shown = worked(d2v("import", "two.pt", "runs/two")).stdout
    assert shown.startswith("fairseq data2vec 2.0 image, pre-trained, ")
    for line in ("copy `objective` and `modality.mask`", "pretrain.init_teacher=teacher"):
        assert line in " ".join(shown.split()), line
    photos(Path("photos"), "cat", "dog")
    values = yaml.safe_load(Path("runs/two/pretrain/config.yaml").read_text())
    modality = {**RECIPE["modality"], "mask": values["modality"]["mask"]}
    recipe: dict[str, Any] = {**RECIPE, "modality": modality, "objective": values["objective"]}
    Path("my.yaml").write_text(yaml.safe_dump(recipe))
    worked(d2v("prepare", "my.yaml"))
    worked(d2v("probe", "my.yaml", "--from", "runs/two"))
    worked(d2v("pretrain", "my.yaml", "--from", "runs/two", "pretrain.init_teacher=teacher",
               "pretrain.optimizer.learning_rate=1e-9"))  # fmt: skip
    begun, went_on = kept("runs/two"), kept("runs/my")
    assert begun.keys() == went_on.keys()
    for name, tensor in begun.items():
        within = 0.03 if name.startswith("teacher.") else 1e-6  # one step towards the student
        assert torch.allclose(went_on[name], tensor, atol=within), name
    tune = {**RECIPE, "pretrain": None, "probe": None, "objective": {"top_k": 1},
            "finetune": {**TUNING, "task": {"name": "classify"}}}  # fmt: skip
    Path("tune.yaml").write_text(yaml.safe_dump(tune))
    worked(d2v("prepare", "tune.yaml", "--from", "runs/two"))
    worked(d2v("finetune", "tune.yaml", "--from", "runs/two"), "runs/two/pretrain/checkpoints")
