"""Proves: an ablation tells what each cell's training took, and draws its score against that."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from d2v.commands.ablate_cells import deciding, sweep_of
from d2v.commands.ablate_compute import COMPUTE, curves_of, plot_compute
from d2v.commands.ablate_state import Outcome
from d2v.commands.ablate_summary import Results, as_csv, as_json, results_of
from d2v.commands.ablate_table import ablate_report, as_markdown
from d2v.commands.options import Options
from d2v.config import load_recipe
from d2v.recipe import Recipe
from tests.ablate_case import ABLATE, ONE_AXIS, desk_fixture, swept
from tests.hostile_case import d2v, worked

__all__ = ["desk_fixture"]

NO_TOP_K = "ablate.axes.objective.top_k=null"
LIST = (
    "ablate.mode=list", "ablate.axes=null",
    "ablate.variants={short: {pretrain.steps: 2}, top one 2: {objective.top_k: 1, "
    "pretrain.steps: 2}, top one 6: {objective.top_k: 1, pretrain.steps: 6}}",
)  # fmt: skip


def outcome(flops: float | None, score: float = 0.5) -> Outcome:
    """A training of so many operations; one in a microsecond and a half."""
    seconds = None if flops is None else flops * 1.5e-12
    return Outcome(status="done", score=score, flops=flops, train_seconds=seconds, seconds=9.0)


def results(*overrides: str, flops: dict[str, float | None]) -> Results:
    """One seed; `flops` by what a cell's name begins with."""
    sweep = swept("ablate.seeds=[0]", *overrides)
    found = {}
    for cell in sweep.cells:
        [amount] = [n for name, n in flops.items() if cell.id.startswith(name)]
        found[cell.id, 0] = outcome(amount)
    return results_of(sweep, [], found)


def shape(found: Results) -> list[tuple[str, list[tuple[str, float]]]]:
    return [
        (name, [(text, one.flops or 0) for text, one in line]) for name, line in curves_of(found)
    ]


# What is measured


def test_flops__are_those_that_the_dry_run_tells(desk: Path) -> None:
    worked(d2v("run", "my.yaml", "--stages", "prepare,pretrain", "-q"))
    plan = worked(d2v("pretrain", "my.yaml", "--dry-run")).output
    told = re.search(r"([\d.]+) MFLOP in all", plan)
    assert told is not None
    result = json.loads(Path("runs/my/pretrain/result.json").read_text())
    assert result["flops"] == pytest.approx(float(told[1]) * 1e6, rel=0.01)


def test_flops__of_a_training_that_gave_up_are_of_its_updates(desk: Path) -> None:
    given = ("pretrain.steps=40", "pretrain.score_every=2", "pretrain.patience=1",
             "pretrain.optimizer.learning_rate=1e-12")  # fmt: skip
    worked(d2v("run", "my.yaml", "--stages", "prepare,pretrain", "-q", *given))
    short = json.loads(Path("runs/my/pretrain/result.json").read_text())
    worked(d2v("pretrain", "my.yaml", "--fresh", "-q"))
    whole = json.loads(Path("runs/my/pretrain/result.json").read_text())
    assert short["steps"] < 40
    assert short["flops"] / short["steps"] == pytest.approx(whole["flops"] / whole["steps"])


def test_sweep__keeps_flops_and_seconds_of_training(desk: Path) -> None:
    axis = "ablate.axes.pretrain.steps=[2,4,8]"
    worked(d2v("ablate", "my.yaml", ONE_AXIS, NO_TOP_K, axis, "ablate.seeds=[0]", "-q"), "TFLOP")
    rows = {
        int(row["pretrain.steps"]): row
        for row in csv.DictReader((ABLATE / "cells.csv").read_text().splitlines())
    }
    flops = {steps: float(row["flops"]) for steps, row in rows.items()}
    assert flops[4] == 2 * flops[2]
    assert flops[8] == 4 * flops[2]
    for row in rows.values():
        assert 0 < float(row["train_seconds"]) < float(row["seconds"])
    assert (ABLATE / "plots" / COMPUTE).stat().st_size > 5000


# Table and files


def test_table__tells_compute_only_where_it_varies(desk: Path) -> None:
    same = results(flops={"base": 1e12, "top_k": 1e12, "target": 1.01e12})
    other = results(flops={"base": 1e12, "top_k": 2.5e12, "target": None})
    assert "TFLOP" not in ablate_report(same, "x", []).columns
    report = ablate_report(other, "x", [])
    assert report.columns[2:5] == ["seeds", "TFLOP", "seconds"]
    assert all(len(row) == len(report.columns) for row in report.rows)
    assert [row[3:5] for row in report.rows] == [["2.5", "4"], ["1", "2"], ["-", "-"], ["1", "2"]]
    assert "| TFLOP | seconds |" in as_markdown(other, [])


def test_files__hold_flops_and_seconds_of_every_seed(desk: Path) -> None:
    found = results(flops={"base": 1e12, "top_k": 3e12, "target": None})
    rows = {row["cell"]: row for row in csv.DictReader(io.StringIO(as_csv(found)))}
    assert [row["flops"] for row in rows.values()] == ["1000000000000.0", "3000000000000.0", ""]
    assert [row["train_seconds"] for row in rows.values()] == ["1.500", "4.500", ""]
    told: list[Any] = as_json(found)["cells"]
    assert [one["flops"] for one in told] == [1e12, 3e12, None]
    assert [one["train_seconds"]["0"] for one in told] == [1.5, 4.5, None]


# The chart


def test_curves__of_single_axes_are_the_axes(desk: Path) -> None:
    found = results(flops={"base": 4e12, "top_k": 5e12, "target": 3e12})
    assert shape(found) == [
        ("objective.top_k", [("2", 4e12), ("1", 5e12)]),
        ("objective.target_feature", [("ffn", 3e12), ("end_of_block", 4e12)]),
    ]


def test_curves__of_variants_join_those_that_differ_in_length_alone(desk: Path) -> None:
    flops: dict[str, float | None] = {
        "base": 4e12, "short": 2e12, "top-one-2": 1e12, "top-one-6": 3e12,
    }  # fmt: skip
    assert shape(results(*LIST, flops=flops)) == [
        ("short", [("2", 2e12), ("4", 4e12)]),
        ("top one", [("2", 1e12), ("6", 3e12)]),
    ]


def test_curves__of_a_grid_are_named_by_the_other_axes(desk: Path) -> None:
    flops: dict[str, float | None] = {"": 1e12}
    found = results(ONE_AXIS, "ablate.mode=grid", "ablate.axes.pretrain.steps=[2,4]", flops=flops)
    assert [(name, [text for text, _ in line]) for name, line in shape(found)] == [
        ("objective.top_k 2", ["4", "2"]), ("objective.top_k 1", ["2", "4"]),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["vision/digits", "vision/cifar10", "speech/spoken", "text/pydoc"])
def test_shipped_comparisons__vary_objective_masks_and_length_alone(kind: str) -> None:
    overrides = ["data.source=x"] * (kind == "vision/cifar10")
    sweep = sweep_of(load_recipe(f"{kind}-compute", overrides, Recipe), Options())
    outcomes = {(cell.id, seed): outcome(1e12) for cell in sweep.cells for seed in (0, 1, 2)}
    curves = curves_of(results_of(sweep, [], outcomes))
    as_published = {"2.0 with positions as published": 1} if kind == "text/pydoc" else {}
    lengths = {name: len(line) for name, line in curves}
    assert lengths.keys() == {"data2vec", "data2vec 2.0", *as_published}
    for name, line in curves:
        assert len(line) >= as_published.get(name, 2)
        for _, one in line:
            name_of_objective = one.cell.settings.objective.name
            assert name_of_objective == ("data2vec2" if "2.0" in name else "data2vec")
    told = [deciding(cell.settings, ("prepare", *sweep.stages)) for cell in sweep.cells]
    differing = {key for one in told for key in one if one[key] != told[0].get(key)}
    assert differing - {"pretrain.steps", "probe.baselines"} == {
        key for key in differing if key.startswith(("objective.", "modality.mask."))
    } | ({"modality.frontend.position_init_std"} if as_published else set())
    assert differing & {"objective.top_k"} == set()
    assert not [key for key in differing if key.startswith("objective.tau")]


def test_chart__is_drawn_where_compute_varies_and_taken_away_where_not(
    desk: Path, tmp_path: Path
) -> None:
    varied = results(*LIST, flops={"base": 4e12, "short": 2e12, "top": 1e12})
    assert plot_compute(varied, tmp_path) == tmp_path / COMPUTE
    assert (tmp_path / COMPUTE).stat().st_size > 5000
    none = results(*LIST, flops={"": None})
    assert plot_compute(none, tmp_path) is None
    assert not (tmp_path / COMPUTE).exists()
