"""Proves: fine-tuning keeps of a checkpoint in memory what it starts from, and tells of it."""

from pathlib import Path

import torch

from d2v.build import load_network
from d2v.commands.options import Options
from d2v.commands.task_data import open_task_data, start_checkpoint
from d2v.config import load_recipe
from d2v.core.encoder import Encoder
from d2v.engine.checkpoint import load_latest
from d2v.modalities import build_modality
from d2v.recipe import Recipe
from tests.finetune_case import (
    PRETRAINED,
    desk_fixture,
    drawn_desk_fixture,
    finetune,
    pretrained_desk_fixture,
)
from tests.hostile_case import worked

__all__ = ["desk_fixture", "drawn_desk_fixture", "pretrained_desk_fixture"]


def test_start__is_the_student_without_teacher_and_optimiser(desk: Path) -> None:
    loaded, options = load_recipe("my.yaml", [], Recipe), Options()
    recipe = loaded.settings.while_finetuning()
    start = start_checkpoint(loaded, options, recipe, open_task_data(loaded, options))
    stored, _ = load_latest(PRETRAINED / "checkpoints")
    assert start is not None
    assert stored is not None
    assert (start.digest, start.path, start.step) == (stored.digest, stored.path, stored.step)
    assert start.tensors.keys() == {"model"} < stored.tensors.keys()
    frontend = build_modality(recipe.modality).build_frontend(recipe.encoder)
    encoder = Encoder(recipe.encoder)
    load_network(start, frontend, encoder)
    parts = {"frontend": frontend.state_dict(), "encoder": encoder.state_dict()}
    loaded_names = {f"{part}.{name}" for part, tensors in parts.items() for name in tensors}
    assert start.tensors["model"].keys() == loaded_names
    for name in loaded_names:
        part, _, own = name.partition(".")
        assert torch.equal(parts[part][own], stored.tensors["model"][name])


def test_start__of_a_pretraining_that_is_not_finished_is_told(desk: Path) -> None:
    told = "Pre-training is not finished"
    assert told not in worked(finetune()).output
    (PRETRAINED / "result.json").unlink()
    assert told in worked(finetune("--fresh")).output
