"""Proves: an ablation makes each cell once, by stable names, and refuses before it begins."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from d2v.ablation import half_life_tau, nested
from d2v.commands.ablate_cells import BASE, sweep_of
from d2v.commands.ablate_score import FIGURES
from d2v.commands.ablate_state import jobs_of
from d2v.commands.options import Options
from d2v.config import as_yaml, load_recipe
from d2v.recipe import Recipe
from d2v.tasks import Answer, build_task
from tests.ablate_case import ONE_AXIS, RECIPE, desk_fixture, swept
from tests.hostile_case import d2v, left, refused

__all__ = ["desk_fixture"]

GRID = ("ablate.mode=grid",)


# Expansion


def test_one_at_a_time__has_the_base_once_and_each_other_value_once(desk: Path) -> None:
    sweep = swept("ablate.axes.objective.top_k=[2,1]")
    assert [cell.values for cell in sweep.cells] == [
        {"objective.top_k": "2", "objective.target_feature": "end_of_block"},
        {"objective.top_k": "1", "objective.target_feature": "end_of_block"},
        {"objective.top_k": "2", "objective.target_feature": "ffn"},
    ]
    base, top_1, ffn = sweep.cells
    assert base.id == BASE
    assert sweep.axes["objective.top_k"] == [("2", BASE), ("1", top_1.id)]
    assert sweep.axes["objective.target_feature"] == [("ffn", ffn.id), ("end_of_block", BASE)]
    assert (top_1.settings.objective.top_k, ffn.settings.objective.target_feature) == (1, "ffn")


def test_grid__is_every_combination_and_the_base(desk: Path) -> None:
    sweep = swept(*GRID, "ablate.axes.objective.beta=[0,1]", ONE_AXIS)
    found = {(c.settings.objective.top_k, c.settings.objective.beta) for c in sweep.cells}
    assert found == {(2, 2.0), (1, 0.0), (1, 1.0), (2, 0.0), (2, 1.0)}
    assert len(sweep.cells) == 5
    assert len({cell.id for cell in sweep.cells}) == 5
    assert len(swept(*GRID).cells) == 4  # here the base is one of the combinations


def test_axis__inside_a_section_with_kinds_changes_nothing_beside_it(desk: Path) -> None:
    """What a second objective adds, and masks of another kind than the default."""
    Path("my.yaml").write_text(
        RECIPE.partition("ablate:")[0]
        + """\
ablate:
  axes:
    objective.masks_per_sample: [1, 2]
    modality.mask.ratio: [0.5, 0.75]
    objective.decoder.layers: [1, 2]
"""
    )
    base, *cells = swept(
        "objective.name=data2vec2", "objective.masks_per_sample=2",
        "objective.decoder={layers: 2, groups: 4, width: 16}",
        "modality.mask={kind: inverse_block, size: 2, adjust: 0.1, ratio: 0.5}",
    ).cells  # fmt: skip
    assert [cell.values["objective.masks_per_sample"] for cell in cells] == ["1", "2", "2"]
    changes: dict[str, dict[str, Any]] = {
        "objective": {"masks_per_sample": 1},
        "modality.mask": {"ratio": 0.75},
        "objective.decoder": {"layers": 1},
    }
    for cell, (section, change) in zip(cells, changes.items(), strict=True):
        here, before = cell.settings, base.settings
        for part in section.split("."):
            here, before = getattr(here, part), getattr(before, part)
        assert here == before.model_copy(update=change), section


def test_list__takes_variants_dotted_or_nested(desk: Path) -> None:
    Path("my.yaml").write_text(
        RECIPE.partition("ablate:")[0]
        + """\
ablate:
  mode: list
  axes: null
  variants:
    flat: {objective.beta: 0, pretrain.optimizer.weight_decay: 0}
    deep: {objective: {beta: 1, tau: {half_life: 100 samples}}}
"""
    )
    base, flat, deep = swept().cells
    assert [cell.values for cell in (base, flat, deep)] == [
        {"variant": "base"}, {"variant": "flat"}, {"variant": "deep"},
    ]  # fmt: skip
    assert [cell.id.rpartition("-")[0] for cell in (flat, deep)] == ["flat", "deep"]
    assert flat.settings.pretrain is not None
    assert flat.settings.pretrain.optimizer.weight_decay == 0
    assert (flat.settings.objective.beta, deep.settings.objective.beta) == (0, 1)
    assert deep.settings.objective.tau.tau_e == pytest.approx(0.5 ** (8 / 100), rel=1e-12)


def test_axis__may_name_options_of_a_group(desk: Path) -> None:
    """As `objective=data2vec2` on the command line, whose values stay."""
    sweep = swept("objective=data2vec", "objective.top_k=2", "~ablate.axes",
                  "ablate.base={objective: data2vec-text}",
                  "+ablate.axes={objective: [data2vec2]}")  # fmt: skip
    base, second = sweep.cells
    assert base.settings.objective.name == "data2vec"
    assert base.settings.objective.tau.tau_e == 0.9999  # of the option that the base names
    assert second.settings.objective.name == "data2vec2"
    assert second.settings.objective.top_k == 2
    assert [cell.values["objective"] for cell in sweep.cells] == [
        "the recipe's", "data2vec2",
    ]  # fmt: skip


def test_variants__change_what_an_option_of_a_group_sets(desk: Path) -> None:
    Path("my.yaml").write_text(
        "defaults: [/objective: data2vec-speech, _self_]\n"
        + RECIPE.partition("ablate:")[0]
        + """ablate:
  mode: list
  variants:
    four: &four {objective: data2vec, objective.beta: 1}
    two: {<<: *four, objective.beta: 3, objective: data2vec-text, pretrain.steps: 2}
"""
    )
    _, four, two = (cell for cell in swept().cells)
    first, second = four.settings.objective, two.settings.objective
    assert (first.beta, second.beta) == (1, 3)
    assert (first.channel_reduction, second.channel_reduction) == ("mean", "sum")
    assert two.settings.pretrain is not None
    assert two.settings.pretrain.steps == "2 steps"


def test_ids__hang_on_what_differs_from_the_base_alone(desk: Path) -> None:
    before = {cell.id for cell in swept().cells}
    more = swept("ablate.axes.objective.beta=[1]", "ablate.axes.objective.top_k=[2,1]",
                 "ablate.seeds=[7]", "name=other", "data.workers=1")  # fmt: skip
    assert before < {cell.id for cell in more.cells}
    assert before == {cell.id for cell in swept(*GRID).cells} & before
    assert before == {"base", "top_k-1-b21ba1", "target_feature-ffn-1b2c2b"}


def test_ids__name_folders(desk: Path) -> None:
    sweep = swept(ONE_AXIS, "ablate.axes.objective.tau=[{schedule: linear, tau_n: 50 %}]")
    for cell in sweep.cells:
        cell.settings.model_validate({**cell.settings.model_dump(), "name": f"a/{cell.id}/seed0"})


def test_variants__of_any_name_are_folders(desk: Path) -> None:
    variants = "{mode: list, variants: {基线: {objective.beta: 1}, a b/c: {objective.beta: 3}}}\n"
    Path("my.yaml").write_text(f"{RECIPE.partition('ablate:')[0]}ablate: {variants}")
    for cell in swept().cells:
        cell.settings.model_validate({**cell.settings.model_dump(), "name": f"a/{cell.id}/seed0"})


def test_folders__of_a_variant_outlive_its_name(desk: Path) -> None:
    """What was trained under another name is not trained again."""

    def folders(name: str) -> list[str]:
        loaded = load_recipe(
            "my.yaml",
            ["ablate.mode=list", "ablate.axes=null", "ablate.seeds=[0]",
             f"ablate.variants={{{name}: {{objective.beta: 1}}}}"],
            Recipe,
        )  # fmt: skip
        jobs = jobs_of(sweep_of(loaded, Options()), loaded, Path("runs"), {})
        for job in jobs:
            job.folder.mkdir(parents=True, exist_ok=True)
        return [job.folder.parent.name for job in jobs]

    first, again = folders("one"), folders("another")
    assert first == again
    assert first[1].startswith("one-")


def test_values__told_in_steps_are_one_with_numbers(desk: Path) -> None:
    sweep = swept("ablate.mode=grid", "~ablate.axes", "ablate.seeds=[0]",
                  "+ablate.axes={pretrain.steps: [2 steps, 4 steps]}")  # fmt: skip
    assert [label for label, _ in sweep.axes["pretrain.steps"]] == ["2", "4"]
    assert sorted(cell.values["pretrain.steps"] for cell in sweep.cells) == ["2", "4"]


def test_grid__of_options_names_its_base_by_what_it_is(desk: Path) -> None:
    both = "+ablate.axes={objective: [data2vec-text, data2vec2]}"
    sweep = swept("objective=data2vec-text", "objective.top_k=2", "ablate.mode=grid",
                  "~ablate.axes", both)  # fmt: skip
    assert [cell.values["objective"] for cell in sweep.cells] == ["data2vec-text", "data2vec2"]


def test_options__leave_values_of_the_command_line_alone(desk: Path) -> None:
    sweep = swept("objective=data2vec", "objective={top_k: 2, beta: 7}", "~ablate.axes",
                  "+ablate.axes={objective: [data2vec2]}")  # fmt: skip
    assert [cell.settings.objective.beta for cell in sweep.cells] == [7, 7]
    assert [cell.settings.objective.name for cell in sweep.cells] == ["data2vec", "data2vec2"]


def test_values__win_over_the_command_line(desk: Path) -> None:
    sweep = swept("objective.top_k=1", "ablate.axes.objective.top_k=[1,2]")
    assert [cell.settings.objective.top_k for cell in sweep.cells[:2]] == [1, 2]
    assert sweep.cells[1].values["objective.top_k"] == "2"


def test_values__reach_what_other_settings_draw_from_them(desk: Path) -> None:
    text = RECIPE.replace("top_k: 2}", 'top_k: "${encoder.depth}"}')
    assert text != RECIPE
    Path("my.yaml").write_text(text)
    sweep = swept("~ablate.axes", "+ablate.axes={encoder.depth: [1]}")
    assert [cell.settings.objective.top_k for cell in sweep.cells] == [2, 1]


def test_base__changes_every_cell_and_gives_way_to_axes(desk: Path) -> None:
    sweep = swept("ablate.base={pretrain.steps: 9, objective: {top_k: 1}}",
                  "ablate.axes.objective.top_k=[2]", ONE_AXIS)  # fmt: skip
    assert [c.settings.pretrain and c.settings.pretrain.steps for c in sweep.cells] == [
        "9 steps"
    ] * 2
    assert [c.settings.objective.top_k for c in sweep.cells] == [1, 2]


def test_untrained_baseline__is_scored_where_it_differs_and_nowhere_else(desk: Path) -> None:
    sweep = swept("ablate.axes.encoder.depth=[3]", "ablate.axes.probe.pool=[tokens]")
    scored = {cell.id.partition("-")[0]: cell.settings.probe and cell.settings.probe.baselines
              for cell in sweep.cells}  # fmt: skip
    assert scored == {"base": True, "top_k": False, "target_feature": False, "depth": True,
                      "pool": True}  # fmt: skip


def test_cells__are_recipes_that_can_be_loaded_alone(desk: Path, tmp_path: Path) -> None:
    loaded = load_recipe("my.yaml", [], Recipe)
    for number, cell in enumerate(swept().cells):
        path = tmp_path / f"cell{number}.yaml"
        path.write_text(as_yaml(type(loaded)(**{**vars(loaded), "settings": cell.settings}), False))
        again = load_recipe(str(path), [], Recipe).settings
        assert again.model_dump() == {**cell.settings.model_dump(), "name": again.name}


# Half-lives, nesting


def test_half_life__is_how_long_half_of_a_weight_stays() -> None:
    draws = random.Random(0)
    for _ in range(50):
        half_life, batch = draws.uniform(10, 1e6), draws.choice([1, 8, 300.5, 2048])
        tau, share, samples = half_life_tau(half_life, batch), 1.0, 0.0
        while samples + batch <= half_life and samples < 2000 * batch:  # slowly, update by update
            share, samples = share * tau, samples + batch
        assert share == pytest.approx(0.5 ** (samples / half_life), rel=1e-9)
    assert half_life_tau("20000 samples", 32) == half_life_tau(2e4, 32)


@pytest.mark.parametrize("wrong", ["soon", 0, "-3", True, "5 steps", ""])
def test_half_life__is_a_number_of_samples(wrong: object) -> None:
    with pytest.raises(ValueError, match="expected a number of samples above 0"):
        half_life_tau(wrong, 8)


def test_half_life__of_batches_by_length_needs_the_data(desk: Path) -> None:
    axis = "ablate.axes.objective.tau=[{half_life: 100}]"
    result = d2v("ablate", "my.yaml", axis, "pretrain.batch_size=null", "pretrain.batch_length=8")
    refused(result, "half_life", "batches are measured by length", "d2v prepare")
    assert left(Path("runs")) == []


def test_nested__merges_dotted_keys() -> None:
    dotted = {"a.b": 1, "a": {"c.d": 2}, "e": {"f": {}}, "a.c.g": 3}
    assert nested(dotted) == {"a": {"b": 1, "c": {"d": 2, "g": 3}}, "e": {"f": {}}}
    with pytest.raises(ValueError, match=r"a\.b\.c lies inside b"):
        nested({"a.b": 1, "a.b.c": 2})


# What tasks can be judged by


def test_figures__are_those_that_tasks_produce() -> None:
    two = build_task(yaml_task("classify"), {"classes": ["a", "b"]})
    six = build_task(yaml_task("classify"), {"classes": list("abcdef")})
    number = build_task(yaml_task("regress", low=0, high=5), {})
    letters = build_task(yaml_task("ctc"), {"symbols": ["<s>", "|", "a"]})
    logits = torch.randn(6)
    found = {
        "classify": two.score([Answer(sample=0, output=logits[:2], target=1)])
        | six.score([Answer(sample=0, output=logits, target=1)]),
        "regress": number.score([Answer(sample=0, output=logits[0], target=1.0)]),
        "ctc": letters.score([Answer(sample=0, output=logits.view(2, 3), target="a")]),
    }
    assert {task: set(figures) for task, figures in FIGURES.items()} == {
        task: set(figures) for task, figures in found.items()
    }


def yaml_task(name: str, **more: object):  # type: ignore[no-untyped-def]  # one of several types
    from pydantic import TypeAdapter

    from d2v.tasks import TaskSettings

    return TypeAdapter(TaskSettings).validate_python({"name": name, **more})


# Bad input


BAD = {
    "unknown axis": (("ablate.axes.objective.topk=[1]",),
                     ("objective.topk", "Did you mean objective.top_k?")),
    "bad value": (("ablate.axes.objective.top_k=[1,9]",), ("top_k = 9", "encoder.depth 2")),
    "bad word": (("ablate.axes.objective.target_feature=[fnn]",), ("'ffn'", "Did you mean ffn?")),
    "option": (("ablate.axes.objective=[data2vec3]",), ("no option data2vec3", "data2vec2")),
    "option of base": (("ablate.base={objective: data2vec3}",),
                       ("ablate.base has objective", "no option data2vec3")),
    "stage": (("ablate.axes.pretrain=[1]",), ("pretrain is no setting", "objective.top_k")),
    "seed": (("ablate.axes.seed=[1,2]",), ("Seeds are ablate.seeds",)),
    "itself": (("ablate.axes.ablate.seeds=[1]",), ("ablate.seeds is no setting",)),
    "empty": (("ablate.axes.objective.top_k=[]",), ("objective.top_k is empty",)),
    "no list": (("ablate.axes.objective.top_k=3",), ("expected a list",)),
    "twice": (("ablate.axes.objective.beta=[1,1.0]",), ("twice",)),
    "no axes": (("~ablate.axes",), ("has no axes",)),
    "both": (("ablate.variants={a: {seed: 1}}",), ("variants are given too",)),
    "nothing": (("ablate.axes.data.workers=[1]",), ("changes nothing that pretrain or probe",)),
    "budget": (("ablate.score=probe.linear.7",), ("probe.linear.1, probe.linear.all",)),
    "grammar": (("ablate.score=probe.best",), ("is no score", "probe.linear.BUDGET")),
    "no such stage": (("ablate.score=finetune.wer",), ("no finetune section",)),
    "no probe": (("probe=null",), ("no probe section",)),
    "no ablate": (("ablate=null",), ("has no ablate section",)),
    "seeds": (("ablate.seeds=[1,1]",), ("names a seed twice",)),
    "score gone": (("ablate.axes.probe.labels_per_class=[[all]]",), ("probe.linear.1", "does not")),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_ablation__is_refused_before_anything_is_made(desk: Path, name: str) -> None:
    overrides, words = BAD[name]
    refused(d2v("ablate", "my.yaml", *overrides), *words)
    assert left(Path("runs")) == []


def test_variants__that_are_one_are_refused(desk: Path) -> None:
    twins = "ablate.variants={a: {objective.beta: 1}, b: {objective: {beta: 1.0}}}"
    refused(d2v("ablate", "my.yaml", "ablate.mode=list", "ablate.axes=null", twins), "b twice")


def test_bad_options__are_refused(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert d2v("ablate", "my.yaml", "--jobs", "0").exit_code == 2
    monkeypatch.setenv("PATH", "")
    refused(d2v("ablate", "my.yaml", "--slurm"), "sbatch and srun", "--jobs N")
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused(d2v("ablate", "my.yaml"), "started in several processes")
    assert left(Path("runs")) == []


def test_score_of_a_finetuning__offers_its_tasks_figures(desk: Path) -> None:
    finetune = yaml.safe_dump(
        {"finetune": {"task": {"name": "classify"}, "score_every": "1 epochs"}}
    )
    Path("my.yaml").write_text(RECIPE + finetune)
    refused(d2v("ablate", "my.yaml", "ablate.score=finetune.wer"), "finetune.accuracy", ".INIT.")
    sweep = swept("ablate.score=finetune.accuracy.scratch.all", "finetune.seeds=[4,5]",
                  "finetune.init=[pretrained,scratch]")  # fmt: skip
    settings = sweep.cells[0].settings
    assert settings.finetune is not None
    assert (settings.finetune.init, settings.finetune.seeds) == (("scratch",), None)
    assert settings.probe is None
    assert sweep.stages == ("pretrain", "finetune")
    assert np.all([sweep.score.higher_is_better, sweep.score.figure == "accuracy"])
