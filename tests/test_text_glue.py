"""Proves: the GLUE recipes hold the published figures and read the tables as they are downloaded.

Figures: fairseq `examples/roberta/config/finetuning/*.yaml` (reference section 3.3).
"""

from pathlib import Path
from typing import Any

import pytest

from d2v.config import flat, load_recipe
from d2v.core.schedules import Horizon, learning_rate_scale
from d2v.modalities import build_modality
from d2v.modalities.text.items import is_document, read_texts
from d2v.recipe import Recipe
from d2v.samples import SourceItem
from tests.glue_case import HEADERS, glue
from tests.hostile_case import d2v, worked

PUBLISHED: dict[str, tuple[str, int, float, int, int]] = {
    "CoLA": ("cola", 16, 1e-5, 5336, 320),
    "MNLI": ("mnli", 32, 1e-5, 123873, 7432),
    "MRPC": ("mrpc", 16, 1e-5, 2296, 137),
    "QNLI": ("qnli", 32, 1e-5, 33112, 1986),
    "QQP": ("qqp", 32, 1e-5, 113272, 28318),
    "RTE": ("rte", 16, 2e-5, 2036, 122),
    "SST-2": ("sst2", 32, 1e-5, 20935, 1256),
    "STS-B": ("stsb", 16, 2e-5, 3598, 214),
}
"""Task -> recipe, batch, learning rate, updates, warm-up."""
COMMON: dict[str, Any] = {
    "encoder.dropout": 0.1,
    "encoder.attention_dropout": 0.1,
    "finetune.task.head.pool": "first",
    "finetune.task.head.hidden": True,
    "finetune.task.head.norm": False,
    "finetune.task.head.dropout": 0.0,
    "finetune.optimizer.betas": [0.9, 0.98],
    "finetune.optimizer.eps": 1e-6,
    "finetune.optimizer.weight_decay": 0.1,
    "finetune.optimizer.weight_decay_end": None,
    "finetune.optimizer.decayed": "all",
    "finetune.optimizer.clip_norm": None,
    "finetune.optimizer.layer_decay": 1.0,
    "modality.tokenizer.size": 50_265,
    "modality.store.block_tokens": 512,
    "data.finetune.quoting": False,
}
SCORES = {"CoLA": "matthews", "MRPC": "f1", "QQP": "f1", "STS-B": "pearson"}
"""What picks checkpoints, where that is not accuracy."""


def loaded(task: str, *overrides: str) -> Recipe:
    return load_recipe(f"text/glue/{PUBLISHED[task][0]}", overrides, Recipe).settings


def read(task: str, folder: Path) -> list[SourceItem]:
    recipe = loaded(task, f"data.finetune.source={folder / task}")
    assert recipe.data.finetune is not None
    return list(build_modality(recipe.modality).read_source(recipe.data.finetune))


# Settings


@pytest.mark.parametrize("task", PUBLISHED)
def test_recipe__holds_the_published_figures(task: str) -> None:
    _, batch, rate, steps, warmup = PUBLISHED[task]
    values = dict(flat(loaded(task).model_dump(mode="json")))
    wanted = COMMON | {
        "finetune.batch_size": batch,
        "finetune.optimizer.learning_rate": rate,
        "finetune.steps": f"{steps} steps",
        "finetune.optimizer.schedule.warmup": f"{warmup} steps",
        "finetune.task.score": SCORES.get(task, "accuracy"),
    }
    assert {key: values[key] for key in wanted} == wanted
    # Ten epochs of the whole of train, but for RTE, whose schedule is longer than its ten epochs.
    epochs = steps * batch / (values["data.num_train_samples"] / 0.95)
    assert epochs == pytest.approx(13.1 if task == "RTE" else 10, abs=0.2)


@pytest.mark.parametrize("task", PUBLISHED)
def test_learning_rate__rises_and_falls_in_straight_lines(task: str) -> None:
    *_, steps, warmup = PUBLISHED[task]
    settings = loaded(task).finetune
    assert settings is not None
    horizon = Horizon(total_steps=steps, steps_per_epoch=steps / 10)
    for step in (0, 1, warmup // 2, warmup, warmup + 1, (steps + warmup) // 2, steps - 1, steps):
        rising = step / warmup
        falling = (steps - step) / (steps - warmup)
        found = learning_rate_scale(step, settings.optimizer.schedule, horizon)
        assert found == pytest.approx(min(rising, falling), abs=1e-12)


def test_numbers__are_divided_by_five() -> None:
    settings = loaded("STS-B").finetune
    assert settings is not None
    assert settings.task.name == "regress"
    assert (settings.task.low, settings.task.high) == (0.0, 5.0)


def test_shorter_positions__shorten_the_samples() -> None:
    """An encoder that is taken over from another run brings its own number of positions."""
    recipe = loaded("CoLA", "modality.frontend.max_tokens=128")
    assert recipe.modality.name == "text"
    assert recipe.modality.store.block_tokens == 128


def test_common_part__is_no_recipe() -> None:
    result = worked(d2v("recipes"), *(f"text/glue/{name}" for name, *_ in PUBLISHED.values()))
    assert "_common" not in result.output


# Tables


@pytest.mark.parametrize("task", PUBLISHED)
def test_tables__are_read_as_they_are(task: str, tmp_path: Path) -> None:
    glue(tmp_path, task)
    items = read(task, tmp_path)
    assert [item.split for item in items].count("train") == 40
    assert [item.split for item in items].count("test") == 16
    assert not any(item.problem for item in items)
    is_pair = task not in ("CoLA", "SST-2")
    assert {len(read_texts(item)) for item in items} == {2 if is_pair else 1}
    assert not any(map(is_document, items))
    assert any('"' in text for item in items for text in read_texts(item))
    labels = {item.label for item in items}
    if task == "STS-B":
        assert all(0 <= float(label or "") <= 5 for label in labels)
    elif task == "MNLI":
        assert labels == {"entailment", "neutral", "contradiction"}
    else:
        assert labels == {"0", "1"}


def test_fixture__knows_every_task() -> None:
    assert HEADERS.keys() == PUBLISHED.keys()


def test_texts__are_those_of_the_named_columns(tmp_path: Path) -> None:
    folder = tmp_path / "MRPC"
    folder.mkdir()
    head = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    row = '1\t7\t8\tHe said "no .\tShe said so .\n'
    for name in ("train", "dev"):
        (folder / f"{name}.tsv").write_text(head + row)
    item, _ = read("MRPC", tmp_path)
    assert (item.label, read_texts(item)) == ("1", ['He said "no .', "She said so ."])


def test_broken_rows__are_rejected_and_the_others_read(tmp_path: Path) -> None:
    """QQP's table has rows that break off before the second question."""
    glue(tmp_path, "QQP")
    with (tmp_path / "QQP/train.tsv").open("a") as file:
        file.write("900\t1\t2\tonly one question\n")
    items = read("QQP", tmp_path)
    assert [item.problem for item in items if item.problem] == ["empty: a text of the pair"]
    assert len(items) == 57


def test_mismatched__is_a_further_test_set(tmp_path: Path) -> None:
    glue(tmp_path, "MNLI")
    recipe = loaded("MNLI", f"data.finetune.source={tmp_path / 'MNLI'}")
    assert list(recipe.data_sets()) == ["finetune", "tests-mismatched"]
    items = list(build_modality(recipe.modality).read_source(recipe.data.tests["mismatched"]))
    assert {item.split for item in items} == {"test"}
    assert len(items) == 16


# Test tables without labels


def test_unlabelled_rows__are_whole_samples_where_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "test.tsv").write_text("index\tsentence\n0\tOne thing. And another.\n1\tTwo.\n")
    source = {"source": str(tmp_path), "files": {"test": "test.tsv"}, "text_column": "sentence"}
    recipe = loaded("SST-2", f"data.tests.blind.source={tmp_path}")
    modality = build_modality(recipe.modality)
    data = type(recipe.data.tests["blind"])
    for whole_texts in (False, True):
        settings = data.model_validate({**source, "whole_texts": whole_texts})
        items = list(modality.read_source(settings))
        assert [item.label for item in items] == [None, None]
        assert [is_document(item) for item in items] == [not whole_texts] * 2
