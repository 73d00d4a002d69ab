"""Proves: pre-training goes on from a checkpoint with its student, its head, and a teacher."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from d2v.build import build_objective, identity, load_encoder, start_from
from d2v.core.schedules import Horizon
from d2v.data2vec import Distillation
from d2v.engine.checkpoint import save_checkpoint
from d2v.errors import UsageError
from d2v.recipe import Recipe
from tests.maths_case import shaken
from tests.training_case import ENCODER, TRAIN, VISION


def recipe_of(
    pretrain: dict[str, Any] | None = None,
    encoder: dict[str, Any] | None = None,
    **objective: Any,
) -> Recipe:
    return Recipe.model_validate({
        "name": "tiny",
        "seed": 1,
        "device": "cpu",
        "modality": VISION.model_dump(mode="json"),
        "encoder": ENCODER | (encoder or {}),
        "objective": {"top_k": 2, **objective},
        "pretrain": TRAIN | (pretrain or {}),
    })  # fmt: skip


def model_of(recipe: Recipe) -> Distillation:
    return build_objective(recipe, Horizon(total_steps=9, steps_per_epoch=3))


def stored(folder: Path, recipe: Recipe, *, without: str = " ") -> dict[str, Tensor]:
    """A checkpoint whose student, head and teacher all differ; what it holds."""
    model = model_of(recipe)
    shaken(model)
    tensors = {name: t for name, t in model.state_dict().items() if not name.startswith(without)}
    save_checkpoint(folder / "checkpoints", 3, {"model": tensors}, {"identity": identity(recipe)})
    return tensors


def started(folder: Path, recipe: Recipe) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The model's tensors before and after."""
    model = model_of(recipe)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    start_from(model, recipe, folder)
    return before, model.state_dict()


def part(tensors: dict[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for prefix in prefixes
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    assert one.keys() == other.keys()
    assert one
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_start__takes_student_and_head_and_the_teacher_is_the_students_copy(
    tmp_path: Path,
) -> None:
    recipe = recipe_of()
    found = stored(tmp_path, recipe)
    _, after = started(tmp_path, recipe)
    for prefix in ("frontend.", "encoder.", "head."):
        assert same(part(after, prefix), part(found, prefix))
    for name in ("frontend.", "encoder."):
        assert same(part(after, f"teacher.{name}"), part(found, name))
        assert not same(part(after, f"teacher.{name}"), part(found, f"teacher.{name}"))


def test_start__with_the_checkpoints_teacher_takes_it(tmp_path: Path) -> None:
    recipe = recipe_of({"init_teacher": "teacher"})
    found = stored(tmp_path, recipe)
    _, after = started(tmp_path, recipe)
    assert same(after, found)


@pytest.mark.parametrize("without", [" ", "head."], ids=["other layers", "none"])
def test_start__with_no_head_that_fits_keeps_the_new_one(without: str, tmp_path: Path) -> None:
    found = stored(tmp_path, recipe_of(), without=without)
    before, after = started(tmp_path, recipe_of(head_layers=1 if without != " " else 2))
    assert same(part(after, "head."), part(before, "head."))
    assert same(part(after, "encoder."), part(found, "encoder."))


@pytest.mark.parametrize("then", ["all", "encoder"])
@pytest.mark.parametrize("now", ["all", "encoder"])
def test_teacher__that_averaged_more_or_less_is_taken_as_far_as_it_goes(
    then: str, now: str, tmp_path: Path
) -> None:
    found = stored(tmp_path, recipe_of(teacher_averages=then))
    _, after = started(tmp_path, recipe_of({"init_teacher": "teacher"}, teacher_averages=now))
    assert same(part(after, "teacher.encoder."), part(found, "teacher.encoder."))
    own = part(after, "teacher.frontend.")
    assert bool(own) == (now == "all")
    if own:  # what was not averaged, the teacher had from its student
        source = "teacher.frontend." if then == "all" else "frontend."
        assert same(own, part(found, source))


def test_encoder__of_a_teacher_that_is_not_there_is_refused(tmp_path: Path) -> None:
    stored(tmp_path, recipe_of(), without="teacher.")
    with pytest.raises(UsageError, match="has no teacher.*network=student"):
        load_encoder(recipe_of(), tmp_path, "teacher")
    assert load_encoder(recipe_of(), tmp_path, "student").digest


def test_teacher__that_is_not_there_is_refused_where_it_is_wanted(tmp_path: Path) -> None:
    found = stored(tmp_path, recipe_of(), without="teacher.")
    with pytest.raises(UsageError, match=r"has no teacher.*Set pretrain.init_teacher=student"):
        started(tmp_path, recipe_of({"init_teacher": "teacher"}))
    _, after = started(tmp_path, recipe_of())
    assert same(part(after, "teacher.encoder."), part(found, "encoder."))


def test_start__of_another_architecture_is_refused(tmp_path: Path) -> None:
    stored(tmp_path, recipe_of())
    with pytest.raises(UsageError, match=r"encoder.final_norm is True in the checkpoint"):
        started(tmp_path, recipe_of(encoder={"final_norm": False}))
