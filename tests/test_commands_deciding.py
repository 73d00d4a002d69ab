"""Proves: what a start must have in common with the one before, also with that of an older d2v."""

from pathlib import Path
from typing import Any

import pytest

from d2v.commands.deciding import deciding_settings, setting_defaults
from d2v.config import load_recipe
from d2v.engine.run_directory import RunDirectory
from d2v.errors import UsageError
from d2v.recipe import Recipe


def test_defaults__are_what_a_recipe_that_says_nothing_has() -> None:
    recipe = load_recipe("vision/digits-data2vec2", [], Recipe).settings
    keys = deciding_settings(recipe, "pretrain")
    defaults = setting_defaults(recipe, keys)
    assert (keys["encoder.dim"], defaults["encoder.dim"]) == (64, 768)
    assert defaults["objective.decoder.projection_std"] is None
    assert defaults["modality.frontend.pixel_mean"] == [0.485, 0.456, 0.406]
    assert "name" not in defaults, "there is none: a recipe must say it"
    assert set(defaults) < set(keys)
    assert setting_defaults(recipe, ["encoder.nothing", "nothing.at.all", "seed"]) == {"seed": 0}


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({"a.b": 1}, {"a.b": 1, "a.new": 3}, ""),
        ({"a.b": 1}, {"a.b": 1, "a.new": 4}, "a.new 3, now it is 4"),
        ({"a.b": 1}, {"a.b": 1, "a.other": 4}, "a.other None, now it is 4"),
        ({"a.b": 1, "a.gone": 2}, {"a.b": 1}, "a.gone 2, now it is None"),
        ({"a": None}, {"a.b": 1, "a.new": 3}, "a.new None, now it is 3"),
        ({"c": 1}, {"c": 1, "a.new": 3}, "a.new None, now it is 3"),
        ({"a.new.x": None}, {"a.new": 3}, "a.new None, now it is 3"),
        ({"a.s.b": 1}, {"a.s.b": 1, "a.new": 3}, ""),
    ],
)
def test_start_of_an_older_d2v__had_the_defaults_of_what_it_could_not_name(
    tmp_path: Path, before: dict[str, Any], now: dict[str, Any], told: str
) -> None:
    stage = RunDirectory(tmp_path)
    stage.start(before, {}, "", "cpu")
    stage.finish({})
    if told:
        with pytest.raises(UsageError, match=told):
            stage.check_same(now, {}, {"a.new": 3})
    else:
        stage.check_same(now, {}, {"a.new": 3})
        with pytest.raises(UsageError, match=r"a\.new None, now it is 3"):
            stage.check_same(now, {})
