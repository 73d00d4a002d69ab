"""Proves: which trials there are, what they are called, and which learning rate and model are kept.

A trial is (init, subset, learning rate, seed).
"""

import math
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import yaml

from d2v.commands.trials import Trial, best_rates, kept_cell, trials_of
from d2v.config import load_recipe
from d2v.recipe import FinetuneSettings, Recipe
from tests.finetune_case import RECIPE
from tests.hostile_case import d2v, refused

INITS, SUBSETS, RATES, SEEDS = ("scratch", "pretrained"), ("all", "few"), (1e-3, 1e-4), (3, 1, 2)


def settings(**given: object) -> tuple[Recipe, FinetuneSettings]:
    values: dict[str, Any] = yaml.safe_load(RECIPE)
    values["finetune"] |= given
    recipe = Recipe.model_validate(values)
    assert recipe.finetune is not None
    return recipe, recipe.finetune


def trials(**given: object) -> list[Trial]:
    return trials_of(*settings(**given))


# Which there are


def test_trials__are_every_combination_in_the_order_of_the_settings() -> None:
    found = trials(init=INITS, subset=SUBSETS, learning_rates=RATES, seeds=SEEDS)
    by_hand = []
    for init in INITS:
        for subset in SUBSETS:
            for rate in RATES:
                for seed in SEEDS:
                    by_hand.append((init, subset, rate, seed))  # noqa: PERF401  # the slow twin
    assert [(t.init, t.subset, t.learning_rate, t.seed) for t in found] == by_hand


def test_trials__without_lists_are_one_with_the_recipes_own_values() -> None:
    (only,) = trials()
    assert only == Trial(init="pretrained", subset="all", learning_rate=0.003, seed=0)


def test_names__are_unique_however_near_the_learning_rates() -> None:
    near = [1e-4, math.nextafter(1e-4, 1), 1.0000001e-4, 1e-5, 2.0]
    names = [t.name for t in trials(init=INITS, subset=SUBSETS, learning_rates=near, seeds=SEEDS)]
    assert len(set(names)) == len(names) == 2 * 2 * 5 * 3
    assert all("/" not in name for name in names)


@pytest.mark.parametrize("given", ["scratch", ["scratch"], ["pretrained", "scratch"]])
def test_one_value__and_a_list_are_both_accepted(
    given: str | list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In YAML and on the command line."""
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load(RECIPE)
    values["finetune"]["init"] = given
    Path("my.yaml").write_text(yaml.safe_dump(values))
    wanted = (given,) if isinstance(given, str) else tuple(given)
    plain = yaml.safe_dump(given, default_flow_style=True).splitlines()[0].replace(" ", "")
    Path("other.yaml").write_text(RECIPE)
    for found in (
        load_recipe("my.yaml", (), Recipe).settings,
        load_recipe("other.yaml", (f"finetune.init={plain}",), Recipe).settings,
    ):
        assert found.finetune is not None
        assert found.finetune.init == wanted


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("finetune.init=[scratch,scratch]", ["init ['scratch', 'scratch'] names a value twice"]),
        ("finetune.seeds=[1,2,1]", ["seeds [1, 2, 1] names a value twice"]),
        ("finetune.learning_rates=[1e-3,0.001]", ["learning_rates [0.001, 0.001] names"]),
        ("finetune.subset=[few,few]", ["subset ['few', 'few'] names a value twice"]),
        ("finetune.seeds=[]", ["finetune.seeds", "at least 1 item"]),
        ("finetune.seeds=-1", ["finetune.seeds.0 = -1", "greater than or equal to 0"]),
        ("finetune.seeds=true", ["finetune.seeds.0 = true", "a whole number"]),
        ("finetune.learning_rates=[1e-3,0]", ["finetune.learning_rates.1 = 0", "greater than 0"]),
        ("finetune.init=pretraind", ["pretraind", "Did you mean pretrained?"]),
    ],
)
def test_wrong_value__is_refused(
    override: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text(RECIPE)
    refused(d2v("finetune", "my.yaml", override), *words)
    assert not Path("runs").exists()


# Which are kept


def scored(rates: Mapping[float, Sequence[float]], cell: tuple[Any, str]) -> dict[Trial, float]:
    return {
        Trial(init=cell[0], subset=cell[1], learning_rate=rate, seed=seed): value
        for rate, values in rates.items()
        for seed, value in enumerate(values)
    }


def chosen(found: dict[Trial, float]) -> dict[tuple[str, str], float]:
    return best_rates(found, {trial.name: score for trial, score in found.items()})


def test_learning_rate__is_the_one_with_the_best_mean_in_each_cell() -> None:
    """Not the one with the best single score, and not that of another cell."""
    one = scored({1e-3: [0.9, 0.1, 0.2], 1e-4: [0.5, 0.5, 0.5]}, ("pretrained", "all"))
    two = scored({1e-3: [0.6, 0.6, 0.6], 1e-4: [0.7, 0.2, 0.7]}, ("scratch", "all"))
    three = scored({1e-3: [-2.0, -3.0, -1.0], 1e-4: [-1.0, -1.0, -3.5]}, ("scratch", "few"))
    assert chosen(one | two | three) == {
        ("pretrained", "all"): 1e-4,
        ("scratch", "all"): 1e-3,
        ("scratch", "few"): 1e-4,
    }


def test_learning_rate__without_a_score_is_never_chosen() -> None:
    for scores in permutations([[math.nan, 0.9], [-4.0, -5.0], [-9.0, -9.0]]):
        rates = dict(zip((1e-3, 1e-4, 1e-5), scores, strict=True))
        best = chosen(scored(rates, ("pretrained", "all")))[("pretrained", "all")]
        assert rates[best] == [-4.0, -5.0]


def test_learning_rate__of_equal_ones_is_the_first() -> None:
    assert chosen(scored({1e-4: [0.5], 1e-3: [0.5]}, ("scratch", "all"))) == {
        ("scratch", "all"): 1e-4
    }


@pytest.mark.parametrize(
    ("init", "subset", "kept"),
    [
        (["scratch", "pretrained"], ["few", "all"], ("pretrained", "all")),
        (["scratch"], ["few", "all"], ("scratch", "all")),
        (["pretrained", "scratch"], ["few", "more"], ("pretrained", "more")),
        ("scratch", "few", ("scratch", "few")),
    ],
)
def test_kept_cell__is_pretrained_on_all_where_these_are_tried(
    init: object, subset: object, kept: tuple[str, str]
) -> None:
    assert kept_cell(settings(init=init, subset=subset)[1]) == kept
