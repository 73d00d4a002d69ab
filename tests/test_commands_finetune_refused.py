"""Proves: what fine-tuning cannot use is refused with one clear error, and blocks no later try."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from d2v.data.shards import Shards
from tests.finetune_case import (
    PREPARED,
    PRETRAINED,
    RECIPE,
    STAGE,
    desk_fixture,
    drawn_desk_fixture,
    finetune,
    listed,
    pretrained_desk_fixture,
    write_list,
)
from tests.hostile_case import d2v, left, photos, refused, worked

__all__ = ["desk_fixture", "drawn_desk_fixture", "pretrained_desk_fixture"]

Rows = list[list[str]]


def prepared(rows: Rows, *overrides: str) -> None:
    write_list(rows)
    worked(d2v("prepare", "my.yaml", "--fresh", *overrides))


def with_labels(change: Callable[[str, str], str]) -> Rows:
    """The list with labels as `change` (label, split) says."""
    head, *rows = listed()
    return [
        head,
        *([path, change(label, split), value, split] for path, label, value, split in rows),
    ]


# The labels


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (listed(empty=("train",)), ["train has no class labels", "data.label_column"]),
        (listed(empty=("val",)), ["val has no class labels", "with labels in train and val"]),
        (with_labels(lambda label, split: "owl" if split == "val" and label == "cat" else label),
         ["val has classes that train has not: owl", "Mend the labels"]),
        (with_labels(lambda label, split: "owl" if split == "test" and label == "cat" else label),
         ["test has classes that train has not: owl", "every class of test"]),
        (with_labels(lambda label, split: "cat"), ["has one class only (cat)", "tell apart"]),
        ([row for row in listed() if row[3] != "val"],
         ["has no val split", "chooses its checkpoint on val", "prepare.val_fraction"]),
    ],
    ids=["no-train", "no-val-labels", "class-in-val", "class-in-test", "one-class", "no-val"],
)  # fmt: skip
def test_labels__that_cannot_be_learned_from_are_refused(
    desk: Path, rows: Rows, words: list[str]
) -> None:
    few = ("~prepare.subsets",)
    prepared(rows, *few)
    refused(finetune(*few), *words)
    assert left(STAGE) == []
    prepared(listed(), *few)
    worked(finetune(*few))


def test_label__that_is_no_number_is_listed_and_left_out(desk: Path) -> None:
    numbers = ("data.label_kind=number", "data.label_column=number", "~prepare.subsets",
               "finetune.task={name: regress, low: -1, high: 2}")  # fmt: skip
    rows = listed()
    rows[1][2], rows[2][2] = "nan", "1e999"
    write_list(rows)
    worked(d2v("prepare", "my.yaml", "--fresh", *numbers), "36 inputs = 34 stored + 2 rejected")
    reasons = (PREPARED / "shards/common/rejected.jsonl").read_text()
    assert "'nan' is not a finite number" in reasons
    assert "'1e999' is not a finite number" in reasons
    worked(finetune(*numbers), "all (22)")


def test_number__beyond_the_tasks_range_is_refused_with_sample_and_setting(desk: Path) -> None:
    """Told before training, however small the share; a limit may be raised."""
    numbers = ("data.label_kind=number", "data.label_column=number", "~prepare.subsets",
               "finetune.task={name: regress, low: -1, high: 2}")  # fmt: skip
    rows = listed()
    rows[1][2] = "2.5"
    prepared(rows, *numbers)
    refused(finetune(*numbers), "1 of 24 training samples cannot be learned from",
            "photos/cat/0.png: its number 2.5 is not within -1 to 2", "data.max_bad_fraction",
            code=1)  # fmt: skip
    assert left(STAGE) == []
    worked(finetune(*numbers, "data.max_bad_fraction=0.1"), "all (23)", "They are left out")


# The task


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (["name=regress"], ["train has no numbers as labels", "data.label_kind=number"]),
        (["name=ctc", "head"], ["transcript", "vocabulary"]),
        (["score=matthews"], ["score is matthews", "3 classes", "two classes"]),
        (["name=clasify"], ["finetune.task.name", "clasify", "Did you mean classify?"]),
    ],
)
def test_task__that_the_labels_do_not_fit_is_refused(
    desk: Path, task: list[str], words: list[str]
) -> None:
    """`head`: is left out."""
    refused(finetune(*(f"{'~' * ('=' not in one)}finetune.task.{one}" for one in task)), *words)
    assert left(STAGE) == []


def test_classes__are_no_numbers_and_numbers_no_classes(desk: Path) -> None:
    numbers = ("data.label_kind=number", "data.label_column=number", "~prepare.subsets")
    prepared(listed(), *numbers)
    refused(finetune(*numbers), "train has no class labels")


# Subsets


def test_subset__unknown_or_without_labels_is_refused(desk: Path) -> None:
    refused(finetune("finetune.subset=[all,fex]"), "no subset 'fex'", "Did you mean few?")
    refused(finetune("finetune.subset=tenth"), "no subset 'tenth'", "Expected: all, few")
    assert left(STAGE) == []


def test_subset__without_labels_is_refused_before_the_first_trial(desk: Path) -> None:
    rows = listed()
    rows[1][1] = ""  # of photos/cat/0.png
    prepared(rows)
    train = Shards.open(PREPARED / "shards/common/train")
    (unlabelled,) = [train.key(i) for i in range(len(train)) if train.labels[i] < 0]
    path = PREPARED / "shards/common/subsets.json"
    subsets = json.loads(path.read_text())
    subsets["few"]["keys"] = [unlabelled]
    path.write_text(json.dumps(subsets))
    refused(finetune("finetune.subset=[all,few]"), "Subset few of", "holds no labelled sample",
            "prepare.subsets")  # fmt: skip
    assert left(STAGE) == []


# The recipe and the run


def test_recipe__without_the_section_is_refused(desk: Path) -> None:
    Path("my.yaml").write_text(RECIPE.partition("finetune:")[0])
    refused(finetune(), "my.yaml has no finetune section", "d2v recipes copy")
    assert not STAGE.exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("modality.agument.hflip=1",
         ["finetune.modality.agument is not", "Did you mean finetune.modality.augment?"]),
        ("modality.augment.hflp=1", ["finetune.modality.augment.hflp is not a setting",
                                     "Did you mean finetune.modality.augment.hflip?"]),
        ("encoder.drop_pth=0.1",
         ["finetune.encoder.drop_pth is not", "Did you mean finetune.encoder.drop_path?"]),
        ("encoder.drop_path=1.5", ["finetune.encoder.drop_path = 1.5: expected less than 1"]),
        ("encoder.drop_path=true", ["finetune.encoder.drop_path = true: expected a number"]),
        ("encoder.depth='2'", ['finetune.encoder.depth = "2": expected a whole number']),
        ("encoder.num_heads=3", ["finetune.encoder: dim 16 is not divisible by num_heads 3"]),
        ("modality.name=text", ['finetune.modality.name = "text"', "'vision'"]),
        ("modality.frontend=3", ["finetune.modality.frontend = 3", "a section"]),
        ("score_every=null", ["score_every must not be null", "val choose"]),
        ("stepz=3", ["finetune.stepz is not a setting", "Did you mean finetune.steps?"]),
    ],
)  # fmt: skip
def test_setting__that_is_wrong_is_named_in_full(
    desk: Path, override: str, words: list[str]
) -> None:
    refused(finetune(f"finetune.{override}"), *words)
    assert left(STAGE) == []


def test_batch__that_does_not_come_out_is_refused_and_binds_nobody(desk: Path) -> None:
    refused(finetune("finetune.steps='0.01 epochs'"), "less than one update")
    refused(finetune("finetune.optimizer.schedule.warmup=4"), "warmup is 4 steps of a run of 4")
    assert left(STAGE) == []
    worked(finetune("finetune.batch_size=100"), "all (24)")  # more than there are: all of them


def test_finished_run__survives_a_refused_fresh_start(desk: Path) -> None:
    worked(finetune())
    made = left(STAGE)
    refused(finetune("--fresh", "finetune.subset=none"), "no subset")
    prepared(with_labels(lambda label, split: "cat"), "~prepare.subsets")
    refused(finetune("--fresh", "~prepare.subsets"), "one class only")
    assert left(STAGE) == made


def test_classes__of_another_number_on_continuation_are_refused(desk: Path) -> None:
    worked(finetune())
    (STAGE / "result.json").unlink()
    photos(desk / "photos", *("cat", "cow", "dog", "emu"))
    labels = ("cat", "cow", "dog", "emu")
    prepared(listed(labels=labels))
    refused(finetune(), "was started with", "number of classes 3, now it is 4", "--fresh")
    worked(finetune("--fresh"), "all (32)")


def test_run__checks_the_labels_right_after_preparing(desk: Path) -> None:
    shutil.rmtree("runs")
    write_list([row for row in listed() if row[3] != "val"])
    few = "~prepare.subsets"
    refused(d2v("run", "my.yaml", few), "has no val split")
    assert left(PREPARED) != []
    assert left(PRETRAINED) == left(STAGE) == []
    write_list(listed())
    refused(d2v("run", "my.yaml", few, "finetune.subset=few", "--fresh"), "no subset 'few'")
    assert left(PRETRAINED) == []
    worked(d2v("run", "my.yaml", few, "--fresh"), "Pre-trained", "Fine-tuned scores")
    worked(d2v("run", "my.yaml", few), "All stages of my (prepare, pretrain, finetune)", "nothing")
