"""Proves: checkpoints are compared with the recipe, older ones by what their settings were then."""

import json
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from d2v.build import identity, identity_defaults
from d2v.config import load_recipe
from d2v.engine.checkpoint import Checkpoint, load_latest
from d2v.engine.identity import check_identity
from d2v.engine.run_directory import opened
from d2v.errors import UsageError
from d2v.recipe import Recipe
from tests.training_case import make_job, make_shards, run

DEFAULTS: dict[str, Any] = {"dim": 8, "norm": False, "widths": [4, 4]}


def saved(**settings: Any) -> Checkpoint:
    return Checkpoint(step=1, path=Path("old"), tensors={}, state={"identity": settings}, digest="")


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"dim": 16, "norm": True}, {"dim": 16, "norm": True}),
        ({"dim": 16}, {"dim": 16, "norm": False}),
        ({}, {"dim": 8, "norm": False, "widths": [4, 4]}),
    ],
)
def test_check_identity__takes_settings_newer_than_the_checkpoint_for_their_defaults(
    before: dict[str, Any], now: dict[str, Any]
) -> None:
    check_identity(saved(**before), now, DEFAULTS)


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ({"dim": 16}, {"dim": 8}, "dim is 16 in the checkpoint and 8 in the recipe"),
        ({"dim": 8}, {"dim": 8, "norm": True}, "norm is False in the checkpoint and True in the"),
        ({"dim": 8, "gone": 1}, {"dim": 8}, "gone is 1 in the checkpoint and None in the recipe"),
        ({"dim": 8}, {"dim": 8, "other": 2}, "other is None in the checkpoint and 2 in the"),
    ],
)
def test_check_identity__names_what_differs(
    before: dict[str, Any], now: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        check_identity(saved(**before), now, DEFAULTS)
    assert str(caught.value).count("in the recipe") == 1


@pytest.mark.parametrize("name", ["vision/digits", "speech/fsdd", "speech/fsdd-waveform",
                                  "text/pydoc"])  # fmt: skip
def test_identity_defaults__are_those_of_the_same_settings(name: str) -> None:
    recipe = load_recipe(name, [], Recipe).settings
    found, defaults = identity(recipe), identity_defaults(recipe)
    assert set(found) == {*defaults, "modality.name"}
    assert defaults["encoder.dim"] == 768
    assert defaults["encoder.input_norm"] is False
    plain = recipe.model_copy(update={"encoder": type(recipe.encoder)()})
    assert {key: value for key, value in identity(plain).items() if key.startswith("encoder.")} == {
        key: value for key, value in defaults.items() if key.startswith("encoder.")
    }


@pytest.mark.parametrize(
    ("name", "override"),
    [("vision/digits", "modality.frontend.patch_init=xavier"),
     ("text/pydoc", "modality.frontend.position_init_std=0.002"),
     ("text/pydoc", "encoder.init_std=0.09")],
)  # fmt: skip
def test_identity__does_not_ask_how_the_weights_began(name: str, override: str) -> None:
    began_otherwise = load_recipe(name, [override], Recipe).settings
    assert identity(began_otherwise) == identity(load_recipe(name, [], Recipe).settings)


def test_run__keeps_in_its_checkpoints_what_the_data_say_of_themselves(tmp_path: Path) -> None:
    about = {"taken_in": "daylight", "rates": [1, 2]}
    run(replace(make_job(make_shards(tmp_path / "shards"), tmp_path / "run"), about=about))
    checkpoint, _ = load_latest(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.state["about"] == about


def test_environment__names_the_version_of_all_that_makes_data_and_results(tmp_path: Path) -> None:
    with opened(tmp_path / "stage", fresh=False) as stage:
        stage.start({}, {}, "", "cpu")
    versions = json.loads((tmp_path / "stage" / "environment.json").read_text())["versions"]
    for name in ("torch", "torchaudio", "soundfile", "tokenizers"):
        assert versions[name] == metadata.version(name)
    there = {package.name.lower().replace("_", "-") for package in metadata.distributions()}
    assert (versions["espeakng-loader"] is not None) == ("espeakng-loader" in there)
