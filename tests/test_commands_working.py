"""Proves: a stage that was refused binds nobody, unless it has made something already."""

from pathlib import Path

import pytest

from d2v.commands.options import Options
from d2v.commands.stage import working
from d2v.config import Loaded, load_recipe
from d2v.errors import UsageError
from d2v.recipe import Recipe


def recipe(*overrides: str) -> Loaded[Recipe]:
    return load_recipe("vision/digits", overrides, Recipe)


def refused_late(out: Path, made: str) -> Path:
    """The folder of a fine-tuning that wrote a file, and then found something wrong."""
    folder = out / "vision" / "digits" / "finetune"

    def work() -> None:
        with working(recipe(), Options(out=out), "finetune", {}) as (stage, done):
            assert (stage.path, done) == (folder, None)
            path = folder / "trials" / made
            path.parent.mkdir(parents=True)
            path.write_text("weights")
            raise UsageError("too late")

    with pytest.raises(UsageError, match="too late"):
        work()
    return folder


def test_trained_weights__still_belong_to_their_settings_when_the_end_is_refused(
    tmp_path: Path,
) -> None:
    folder = refused_late(tmp_path, "one/checkpoints/step-1/model.safetensors")
    assert (folder / "started.json").exists()
    other = recipe("finetune.optimizer.weight_decay=0.5")
    with (
        pytest.raises(UsageError, match=r"weight_decay 0.05, now it is 0.5.*--fresh"),
        working(other, Options(out=tmp_path), "finetune", {}),
    ):
        pytest.fail("other settings would be told of these weights")
    with working(recipe(), Options(out=tmp_path), "finetune", {}) as (_, done):
        assert done is None


def test_refused_stage__without_anything_made_may_have_other_settings(tmp_path: Path) -> None:
    folder = refused_late(tmp_path, "note.txt")
    assert not (folder / "started.json").exists()
    other = recipe("finetune.optimizer.weight_decay=0.5")
    with working(other, Options(out=tmp_path), "finetune", {}) as (_, done):
        assert done is None
