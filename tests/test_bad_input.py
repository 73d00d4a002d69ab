"""Proves: a mistake in a recipe, a source or an option gives one message and leaves nothing."""

import csv
import os
from pathlib import Path

import pytest

from tests.hostile_case import (
    d2v,
    desk_fixture,
    left,
    photos,
    refused,
    worked,
)

__all__ = ["desk_fixture"]


# Recipes


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("my.yml", ["no recipe my.yml", "Did you mean my.yaml?"]),
        ("vision/digit", ["no recipe vision/digit", "Did you mean vision/digits"]),
        ("nothing-like-it", ["no recipe nothing-like-it", "Shipped: ", "vision/digits"]),
        ("photos", ["photos is a folder", ".yaml"]),
    ],
)
def test_recipe__that_is_missing_is_answered_with_near_names(
    desk: Path, recipe: str, words: list[str]
) -> None:
    refused(d2v("run", recipe), *words)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("objective.topk=1", ["objective.topk is not a setting", "objective.top_k?"]),
        ("pretrain.batchsize=8", ["pretrain.batchsize", "pretrain.batch_size?"]),
        ("encoder.dim=wide", ["encoder.dim = wide", "a whole number", "command line"]),
        ("seed=true", ["seed = true", "a whole number"]),
        ("data.source=[a]", ["data.source", "text"]),
        ("objective.top_k=2", ["objective.top_k 2", "encoder.depth 1"]),
        ("modality.frontend.patch_size=3", ["image_size 8", "divisible by patch_size 3"]),
        ("modality.mask.ratio=1.2", ["modality.mask.ratio = 1.2", "less than 1"]),
        ("modality.mask.min_block=17", ["mask.min_block 17", "16 patches"]),
        ("pretrain.batch_size=0", ["pretrain.batch_size = 0", "greater than or equal to 1"]),
        ("pretrain.steps=0", ["pretrain.steps = 0", "more than 0"]),
        ("pretrain.steps=50 %", ["pretrain.steps = 50 %", "steps or epochs"]),
        ("pretrain.checkpoint_every=0 epochs", ["pretrain.checkpoint_every", "more than 0"]),
        ("pretrain.optimizer.learning_rate=nan", ["learning_rate", "a finite number"]),
        ("encoder.num_heads=3", ["dim 16", "num_heads 3"]),
        ("probe.pool=cls", ["probe.pool cls", "CLS token"]),
        ("probe.block=2", ["probe.block 2", "encoder.depth 1"]),
        ("probe.labels_per_class=[0]", ["probe.labels_per_class = [0]", "1 or more"]),
        ("modality.name=smell", ["modality.name = smell", "'vision'"]),
        ("encoder=vit-huge", ["encoder has no option vit-huge", "vit-tiny"]),
        ("name=../elsewhere", ["name = ../elsewhere", "names the run directory"]),
        ("name=/tmp/x", ["name = /tmp/x", "letters, digits"]),
        ("a=1,2", ["several values", "[a,b]"]),
        ("=3", ["'=3' is not KEY=VALUE"]),
        ("seed", ["'seed' is not KEY=VALUE"]),
    ],
)
def test_setting__that_is_wrong_or_impossible_is_named(
    desk: Path, override: str, words: list[str]
) -> None:
    refused(d2v("run", "my.yaml", override), *words)
    assert not Path("runs").exists()


def test_settings__that_are_wrong_are_all_named_at_once(desk: Path) -> None:
    refused(d2v("run", "my.yaml", "sed=1", "encoder.dim=0"), "2 mistakes", "sed", "encoder.dim")


def test_section__that_a_command_needs_is_named(desk: Path) -> None:
    for stage in ("prepare", "pretrain", "probe"):
        refused(d2v(stage, "my.yaml", f"{stage}=null"), f"no {stage} section", "recipes copy")
    refused(d2v("run", "my.yaml", "pretrain=null", "--stages", "pretrain"), "none of the stages")
    assert not Path("runs").exists()


# Options


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "my.yaml", "-q", "-v"], ["--quiet and --verbose"]),
        (["prepare", "my.yaml", "--check", "--fresh"], ["--check and --fresh"]),
        (["run", "my.yaml", "--stages", "finetun"], ["--stages finetun", "prepare, pretrain"]),
        (["prepare", "my.yaml", "--check"], ["no shards in runs/my/prepare", "d2v prepare"]),
        (["pretrain", "my.yaml"], ["runs/my/prepare", "d2v prepare first"]),
        (["probe", "my.yaml"], ["runs/my/prepare", "d2v prepare first"]),
        (["prepare", "my.yaml", "--out", "my.yaml"], ["run directory my.yaml", "another --out"]),
        (["prepare", "my.yaml", "--out", "/proc/no"], ["run directory /proc/no", "another --out"]),
        (["prepare", "my.yaml", "--out", "photos/x"], ["inside the source photos", "--out"]),
        (["prepare", "my.yaml", "data.shards=x"], ["nothing to prepare", "data.source"]),
    ],
)
def test_option__that_makes_no_sense_is_explained(
    desk: Path, arguments: list[str], words: list[str]
) -> None:
    refused(d2v(*arguments), *words)
    assert not Path("runs").exists()
    assert sorted(path.name for path in Path("photos").iterdir()) == ["cat", "dog"]


# Sources


def table(name: str, *rows: list[str]) -> None:
    with Path(name).open("w", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture(name="sources")
def sources_fixture(desk: Path) -> None:
    Path("empty").mkdir()
    Path("words").mkdir()
    Path("words/a.txt").write_text("not a picture")
    Path("pictures.zip").write_bytes(b"PK\3\4")
    Path("broken").mkdir()
    Path("broken/a.png").write_bytes(b"")
    table("no-path.csv", ["file", "label"], ["photos/cat/0.png", "cat"])
    table("semicolons.csv", ["path;label"], ["photos/cat/0.png;cat"])
    table("no-rows.csv", ["path", "label"])
    table("gap.csv", ["path", "label"], ["photos/cat/0.png", "cat"], ["", "cat"])
    table("split.csv", ["path", "split"], ["photos/cat/0.png", "later"])
    table("gone.csv", ["path"], ["photos/cat/99.png"])
    Path("picture.csv").write_bytes(Path("photos/cat/0.png").read_bytes())


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("null", ["No source is set", "data.source=PATH"]),
        ("gone", ["The source gone does not exist", "data.source=PATH"]),
        ("s3://bucket/x", ["The source s3://bucket/x does not exist", "on this machine"]),
        ("builtin:digit", ["no builtin:digit", "builtin:digits"]),
        ("empty", ["The source empty is empty", "pictures in"]),
        ("words", ["words has 1 files and no picture", "1 .txt", ".png"]),
        ("pictures.zip", ["pictures.zip is a single file", "unpack"]),
        ("my.yaml", ["my.yaml is a single file", "folder"]),
        ("broken", ["None of the 1 inputs could be used", "a.png: empty file"]),
        ("no-path.csv", ["no column 'path'", "file, label", "data.path_column"]),
        ("semicolons.csv", ["no column 'path'", "Separate the columns by commas"]),
        ("no-rows.csv", ["no-rows.csv has no rows"]),
        ("gap.csv", ["gap.csv, line 3", "'path' is empty", "every row"]),
        ("split.csv", ["split.csv, line 2", "'later'", "train"]),
        ("gone.csv", ["None of the 1 inputs", "photos/cat/99.png", "No such file"]),
        ("picture.csv", ["picture.csv cannot be read", "UTF-8"]),
    ],
)
def test_source__that_cannot_be_used_is_refused_and_leaves_nothing(
    sources: None, source: str, words: list[str]
) -> None:
    refused(d2v("prepare", "my.yaml", f"data.source={source}"), *words)
    assert left(Path("runs")) == []


def test_source__that_was_wrong_does_not_bind_the_next_try(sources: None) -> None:
    for source in ("gone", "gap.csv", "broken"):
        assert d2v("prepare", "my.yaml", f"data.source={source}").exit_code == 2
    worked(d2v("prepare", "my.yaml"), "24 stored")


def test_fresh__does_not_remove_good_shards_for_a_source_that_is_gone(desk: Path) -> None:
    worked(d2v("prepare", "my.yaml"))
    before = left(Path("runs"))
    os.rename("photos", "moved")
    refused(d2v("prepare", "my.yaml", "--fresh"), "photos does not exist")
    assert left(Path("runs")) == before
    worked(d2v("prepare", "my.yaml"), "already finished")


def test_one_class__is_enough_to_pretrain_and_not_to_probe(desk: Path) -> None:
    photos(desk / "one", "cat", count=24)
    arguments = ["my.yaml", "data.source=one"]
    worked(d2v("prepare", *arguments), "1 class.", "only one class (cat)")
    worked(d2v("pretrain", *arguments))
    refused(d2v("probe", *arguments), "one class only (cat)", "one folder a class")
    assert not Path("runs/my/probe").exists()


def test_no_labels__are_enough_to_pretrain_and_not_to_probe(desk: Path) -> None:
    result = d2v("run", "my.yaml", "data.source=photos/cat", "pretrain.batch_size=4")
    refused(result, "no labels", "one folder a class", "probe=null")
    assert "no classes" in result.output
    assert "Pre-trained" not in result.output  # said before hours are spent
    assert not Path("runs/my/probe").exists()
    worked(
        d2v("run", "my.yaml", "data.source=photos/cat", "pretrain.batch_size=4", "probe=null"),
        "Pre-trained runs/my/pretrain",
    )
