"""Proves: a model folder stands alone, gives the same answers, and notices every damage."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from d2v import model_folder
from d2v.config import load_recipe, shipped_recipes
from d2v.engine.whole_folder import as_json
from d2v.errors import D2VError, UsageError
from d2v.model_folder import find_model, load_model
from d2v.recipe import Recipe
from d2v.tasks import Answer
from tests.modality_cases import Case
from tests.model_case import BY_NAME, PAIRS, batch_of, make, shake

VISION = BY_NAME["vision"]


# The same model again


@pytest.mark.parametrize(
    ("case", "task"), PAIRS, ids=[f"{case.name}-{task}" for case, task in PAIRS]
)
def test_model__moved_and_alone_answers_as_before(case: Case, task: str, tmp_path: Path) -> None:
    made = make(case, task, tmp_path / "run" / "learned")
    before = made.answer(case)
    made.save(tmp_path / "run" / "finetune" / "model")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / "finetune" / "model").rename(tmp_path / "elsewhere" / "kept")
    shutil.rmtree(tmp_path / "run")
    loaded = load_model(tmp_path / "elsewhere" / "kept")
    outputs = loaded.model.predict(batch_of(loaded.modality, case))
    assert torch.equal(outputs.values, before)
    assert loaded.task == made.task
    assert loaded.recipe == made.recipe
    assert loaded.figures == {"accuracy": 0.5}
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    seconds = loaded.modality.seconds_per_token
    answers = [Answer(sample=0, output=values[0]) for values in (before, outputs.values)]
    assert made.task.describe(answers[0], seconds) == loaded.task.describe(answers[1], seconds)


def test_model__with_an_average_hands_on_the_average(tmp_path: Path) -> None:
    made = make(VISION, "classify", tmp_path / "learned", average=0.9)
    shake(made.model.encoder, seed=5)  # the weights themselves are elsewhere
    loaded = load_model(made.save(tmp_path / "model"))
    batch = batch_of(made.modality, VISION)
    assert torch.equal(loaded.model.predict(batch).values, made.answer(VISION))
    assert loaded.task == made.task
    names = {name.split(".")[0] for name in loaded.model.state_dict()}
    assert names == {"frontend", "encoder", "head"}


@pytest.mark.parametrize("place", ["run", "run/finetune", "run/finetune/model"])
def test_model__is_found_from_its_run_its_stage_and_itself(place: str, tmp_path: Path) -> None:
    folder = make(VISION, "regress", tmp_path / "learned").save(tmp_path / "run/finetune/model")
    assert find_model(tmp_path / place) == folder


@pytest.mark.parametrize("shipped", shipped_recipes(), ids=lambda shipped: str(shipped.name))
def test_recipe__survives_json(shipped: Any) -> None:
    recipe = load_recipe(shipped.name, [], Recipe).settings
    assert Recipe.model_validate(json.loads(as_json(recipe.model_dump(mode="json")))) == recipe


def test_learned__beside_prepared_splits_is_what_their_summary_names(tmp_path: Path) -> None:
    made = make(BY_NAME["text"], "classify", tmp_path / "shards")
    (tmp_path / "shards" / "train").mkdir()
    (tmp_path / "shards" / "train" / "train-000000.tar").write_bytes(b"large")
    (tmp_path / "shards" / "summary.json").write_text(json.dumps({"files": ["tokenizer.json"]}))
    folder = made.save(tmp_path / "model")
    assert [path.name for path in (folder / "learned").rglob("*")] == ["tokenizer.json"]
    assert torch.equal(
        load_model(folder).model.predict(batch_of(made.modality, BY_NAME["text"])).values,
        made.answer(BY_NAME["text"]),
    )


# Whole or not there


def test_model__replaces_an_older_one(tmp_path: Path) -> None:
    make(VISION, "regress", tmp_path / "learned").save(tmp_path / "model")
    made = make(VISION, "classify", tmp_path / "learned", seed=1)
    made.save(tmp_path / "model")
    assert load_model(tmp_path / "model").task == made.task
    assert sorted(path.name for path in tmp_path.iterdir()) == ["learned", "model"]


def test_model__that_cannot_be_written_leaves_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(VISION, "regress", tmp_path / "learned")
    folder = made.save(tmp_path / "model")

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_folder, "write_durably", full)
    with pytest.raises(D2VError, match="could not be written: No space left"):
        made.save(folder)
    monkeypatch.undo()
    assert load_model(folder).task == made.task
    assert sorted(path.name for path in tmp_path.iterdir()) == ["learned", "model"]


# What is refused


def refused(folder: Path) -> str:
    with pytest.raises(UsageError) as caught:
        load_model(folder)
    return str(caught.value)


@pytest.fixture(name="folder")
def folder_fixture(tmp_path: Path) -> Path:
    return make(BY_NAME["text"], "classify", tmp_path / "learned").save(tmp_path / "model")


@pytest.mark.parametrize("name", ["model.safetensors", "recipe.json", "learned/tokenizer.json"])
def test_damage__of_any_file_is_named(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    assert f"{folder / name} is damaged: its sha256" in refused(folder)
    (folder / name).unlink()
    assert f"{folder / name} is damaged: No such file" in refused(folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"format": "d2v-model"', b"\xff"])
def test_damage__of_the_description_is_named(folder: Path, content: bytes) -> None:
    (folder / "model.json").write_bytes(content)
    assert "model.json is damaged: it is not the description of a model" in refused(folder)


def changed(folder: Path, **changes: object) -> str:
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return refused(folder)


@pytest.mark.parametrize("changes", [{"version": 2}, {"format": "d2v-other"}])
def test_version__that_is_newer_is_refused(folder: Path, changes: dict[str, object]) -> None:
    message = changed(folder, **changes)
    assert "newer d2v" in message
    assert "Install a newer d2v" in message


def test_task__that_is_unknown_is_refused(folder: Path) -> None:
    message = changed(folder, task={"name": "translate"})
    assert "task translate" in message
    assert "classify, regress, ctc" in message


@pytest.mark.parametrize("changes", [{"about": {}}, {"task": {"name": "classify", "tsk": 1}}])
def test_description__without_sense_is_refused(folder: Path, changes: dict[str, object]) -> None:
    assert "model.json makes no sense to this d2v" in changed(folder, **changes)


def test_weights__of_other_shapes_are_refused(folder: Path) -> None:
    message = changed(folder, about={"classes": ["one", "two"]})
    assert "model.safetensors makes no sense to this d2v" in message
    assert "head.last.weight" in message


def test_run__without_a_model_is_told_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "config.yaml").touch()
    message = refused(tmp_path)
    assert f"no fine-tuned model in {tmp_path}; there is config.yaml, pretrain/" in message
    assert "Run d2v finetune RECIPE first" in message
    assert "there is nothing" in refused(tmp_path / "pretrain")
    assert "is a file" in refused(tmp_path / "config.yaml")
    assert "does not exist" in refused(tmp_path / "nowhere")
