"""Proves: a recipe is found, composed, overridden, named, printed and copied as promised."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

from d2v.config import as_yaml, copy_recipe, find_recipe, load_recipe, shipped_recipes
from d2v.errors import UsageError
from tests.config_house import Objective, house_fixture, load, mistake, write

__all__ = ["house_fixture"]


# Finding


def test_find__name_and_path_are_the_same_recipe(house: Path) -> None:
    by_path = str(house / "recipes/vision/digits.yaml")
    assert load().settings == load(by_path).settings
    assert load().name == load(by_path).name == "vision/digits"


def test_find__lists_near_names_and_all_names(house: Path) -> None:
    message = mistake("digits")
    assert "Did you mean vision/digits?" in message
    assert "vision/digits-wide" in message


def test_find__near_names_include_files_of_the_same_folder(house: Path, tmp_path: Path) -> None:
    write(tmp_path / "mine.yaml", "seed: 1")
    assert "Did you mean mine.yaml?" in mistake("mine")


@pytest.mark.parametrize("name", ["photos", "notes.txt", "bytes.yaml", "mine.yml"])
def test_find__refuses_what_is_no_recipe(house: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "notes.txt").write_text("seed: 1")
    (tmp_path / "mine.yml").write_text("seed: 1")
    (tmp_path / "bytes.yaml").write_bytes(b"seed: \xff\xfe")
    with pytest.raises(UsageError, match=name):
        find_recipe(name)


def test_shipped__names_and_purposes_without_parts(house: Path) -> None:
    assert [(one.name, one.purpose) for one in shipped_recipes()] == [
        ("vision/digits", "Digits on a laptop"),
        ("vision/digits-wide", "Wider digits"),
    ]


# Composing


def test_compose__the_recipe_wins_over_the_groups_it_picks(house: Path) -> None:
    settings = load().settings
    assert (settings.encoder.width, settings.encoder.depth) == (192, 9)


def test_compose__a_recipe_from_any_folder_finds_groups_and_recipes(house: Path) -> None:
    text = "defaults: [/vision/digits, {override /encoder: vit-small}, _self_]\nseed: 5\n"
    write(house.parent / "my own" / "mine.yaml", text)
    settings = load("my own/mine.yaml").settings
    assert (settings.encoder.width, settings.encoder.depth, settings.seed) == (384, 9, 5)


def test_compose__interpolations_are_resolved(house: Path) -> None:
    assert load("vision/digits", "seed=${encoder.depth}").settings.seed == 9


@pytest.mark.parametrize(
    "stem", ["my recipe", "a=b", "a@b", "a,b", "1.5", "ünï", "it's", "-x", "a:b"]
)
def test_compose__takes_a_file_of_any_name(house: Path, stem: str) -> None:
    path = write(house.parent / stem / f"{stem}.yaml", "defaults: [/vision/digits, _self_]\n")
    assert load(str(path)).name == stem


@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_override__a_key_that_only_the_code_knows_needs_no_plus(house: Path, prefix: str) -> None:
    assert load("vision/digits", f"{prefix}encoder.drop_rate=0.3").settings.encoder.drop_rate == 0.3


@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_override__a_group_still_chooses_its_file(house: Path, prefix: str) -> None:
    loaded = load("vision/digits", f"{prefix}encoder=vit-small")
    assert loaded.settings.encoder.width == 384
    assert loaded.settings.encoder.depth == 9
    assert loaded.origins["encoder.width"] == "conf/encoder/vit-small.yaml"


def test_override__a_group_the_recipe_does_not_pick_is_added(house: Path) -> None:
    write(house.parent / "bare.yaml", "encoder:\n  width: 3\n")
    loaded = load("bare.yaml", "objective=other")
    assert loaded.settings.objective.top_k == 2


def test_override__a_group_used_twice_is_chosen_by_its_place(house: Path) -> None:
    text = "defaults: [/vision/digits, /objective@probe: data2vec, _self_]\n"
    write(house.parent / "mine.yaml", text)
    settings = load("mine.yaml", "objective@probe=other").settings
    assert (settings.objective.top_k, settings.probe.top_k) == (8, 2)


def test_override__a_group_can_be_left_out(house: Path) -> None:
    loaded = load("vision/digits", "~objective")
    assert loaded.origins["objective.top_k"] == "default"


def test_override__a_folder_beside_the_recipe_is_no_group(house: Path) -> None:
    write(house.parent / "seed" / "photo.txt", "")
    write(house.parent / "mine.yaml", "encoder:\n  width: 3\n")
    assert load("mine.yaml", "seed=4").settings.seed == 4


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("encoder.betas=[0.8,0.9]", "betas", (0.8, 0.9)),
        ("encoder={drop_rate: 0.4}", "drop_rate", 0.4),
        ("encoder.width=1e3", "width", 1000),
        ("~encoder.depth", "depth", 12),
    ],
)
def test_override__lists_sections_floats_and_deletions(
    house: Path, override: str, key: str, value: Any
) -> None:
    assert getattr(load("vision/digits", override).settings.encoder, key) == value


def test_override__the_last_of_two_wins(house: Path) -> None:
    assert load("vision/digits", "seed=1", "seed=2").settings.seed == 2


# Names


def test_name__comes_from_the_file_where_the_recipe_has_none(house: Path) -> None:
    write(house.parent / "mine.yaml", "defaults: [/vision/digits, _self_]\n")
    loaded = load("mine.yaml")
    assert loaded.name == loaded.settings.name == "mine"  # not the one it builds on
    assert loaded.origins["name"] == "file name"


def test_name__of_recipe_and_command_line_is_kept(house: Path) -> None:
    assert load("vision/digits-wide").name == "vision/digits-wide"
    assert load("vision/digits", "name=mine").name == "mine"


def test_name__is_not_needed_by_every_schema(house: Path) -> None:
    write(house.parent / "mine.yaml", "top_k: 3\n")
    assert load_recipe("mine.yaml", [], Objective).name == "mine"


# Origins and printing


def test_origins__name_the_last_one_to_speak(house: Path) -> None:
    write(
        house.parent / "mine.yaml",
        "defaults: [/vision/digits, base, _self_]\nencoder: {depth: 10}\nsets: {a: {source: x}}\n",
    )
    write(house.parent / "base.yaml", "seed: 2\nencoder: {depth: 11}\n")
    origins = load("mine.yaml", "objective.top_k=6", "num_workers=3").origins
    assert origins == {
        "name": "file name",
        "seed": "base.yaml",
        "shuffle": "default",
        "encoder.width": "conf/encoder/vit-tiny.yaml",
        "encoder.depth": "mine.yaml",
        "encoder.drop_rate": "default",
        "encoder.betas": "default",
        "objective.top_k": "command line",
        "objective.target_norm": "default",
        "data.kind": "default",
        "data.source": "default",
        "sets.a.kind": "default",
        "sets.a.source": "mine.yaml",
        "num_workers": "command line",
        "probe": "default",
    }


def test_origins__of_a_section_drawn_in_whole_is_who_drew_it(house: Path) -> None:
    loaded = load("vision/digits", "probe=${objective}")
    assert loaded.origins["probe.top_k"] == "command line"


def test_yaml__every_leaf_carries_its_origin(house: Path) -> None:
    lines = as_yaml(load(), with_origins=True).splitlines()
    assert "  depth: 9  # recipes/vision/digits.yaml" in lines
    assert "  betas: [0.9, 0.98]  # default" in lines
    assert all("  # " in line or line.endswith(":") for line in lines)


@pytest.mark.parametrize(
    "name", ["plain", "a: b # c", "1e-5", "true", "long " * 40, "two\nlines", "ünï", ""]
)
def test_yaml__is_a_recipe_with_the_same_settings(house: Path, name: str) -> None:
    path = write(house.parent / "mine.yaml", json.dumps({"name": name, "encoder": {"width": 3}}))
    loaded = load(str(path), "probe={top_k: 2}", "sets.a={source: x}")
    for with_origins in (True, False):
        again = write(house.parent / "again.yaml", as_yaml(loaded, with_origins))
        assert load(str(again)).settings == loaded.settings


@pytest.mark.parametrize("override", ["seed=1", "seed=abc", "seed=(", "encoder=nope", "~nope"])
def test_hydra__leaves_no_state_behind(house: Path, override: str) -> None:
    with contextlib.suppress(UsageError):
        load("vision/digits", override)
    assert not GlobalHydra.instance().is_initialized()


# Copying


def test_copy__is_the_same_experiment_under_a_new_name(house: Path) -> None:
    for dest in (house.parent / "new" / "mine.yaml", house.parent / "folder"):
        copied = copy_recipe("vision/digits-wide", dest)
        loaded, original = load(str(copied)), load("vision/digits-wide")
        assert loaded.name == copied.stem
        assert loaded.settings.model_copy(update={"name": original.name}) == original.settings


def test_copy__may_take_the_name_of_the_recipe_it_builds_on(house: Path) -> None:
    copied = copy_recipe("vision/digits-wide", house.parent / "digits.yaml")
    assert load(str(copied)).settings.encoder.width == 384


def test_copy__keeps_comments(house: Path) -> None:
    copied = copy_recipe("vision/digits", house.parent / "true.yaml")
    assert 'name: "true"  # folder of the runs\n' in copied.read_text()
    assert load(str(copied)).name == "true"


def test_copy__refuses_to_overwrite(house: Path) -> None:
    target = write(house.parent / "mine.yaml", "mine")
    with pytest.raises(UsageError, match="exists already"):
        copy_recipe("vision/digits", target)
    assert target.read_text() == "mine"


@pytest.mark.parametrize("dest", ["mine.yml", "file.txt/mine.yaml"])
def test_copy__refuses_places_that_cannot_be(house: Path, dest: str) -> None:
    write(house.parent / "file.txt", "")
    with pytest.raises(UsageError):
        copy_recipe("vision/digits", house.parent / dest)
