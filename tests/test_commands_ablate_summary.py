"""Proves: figures, charts and words of an ablation say what its scores say, and no more."""

import csv
import io
import itertools
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from d2v.commands.ablate_plots import lines_of, plot_axes
from d2v.commands.ablate_state import Outcome
from d2v.commands.ablate_summary import Results, as_csv, as_json, results_of
from d2v.commands.ablate_table import ablate_report, as_markdown
from d2v.commands.ablate_words import verdict, words
from d2v.core.intervals import excludes_zero, mean_interval, paired_interval
from tests.ablate_case import ONE_AXIS, desk_fixture, swept

__all__ = ["desk_fixture"]


def done(score: float | None) -> Outcome:
    return Outcome(status="done", score=score, loss=0.5, spread=0.7, seconds=3.25)


def lost(status: Any, reason: str) -> Outcome:
    return Outcome(status=status, reason=reason, seconds=1.0)


def results(*overrides: str, **given: Any) -> Results:
    """Of the tiny recipe; `given`: cell's name up to the first dash -> an outcome for each seed."""
    sweep = swept(*overrides)
    seeds = sweep.settings.seeds
    outcomes = {
        (cell.id, seed): given[cell.id.partition("-")[0]][number]
        for cell in sweep.cells
        for number, seed in enumerate(seeds)
    }
    return results_of(sweep, [], outcomes)


THREE = "ablate.seeds=[0,1,2]"


def typical(*overrides: str, **more: Any) -> Results:
    given = {
        "base": [done(0.80), done(0.82), done(0.84)],
        "top_k": [done(0.70), done(0.73), done(0.74)],
        "target_feature": [done(0.79), done(0.84), done(0.83)],
    }
    return results(THREE, *overrides, **(given | more))


# Statistics


def test_paired_interval__is_that_of_scipy() -> None:
    draws = random.Random(1)
    for seeds in (2, 3, 5, 11):
        a = {seed: draws.gauss(0.6, 0.1) for seed in range(seeds)}
        b = {seed: value + draws.gauss(0.02, 0.03) for seed, value in a.items()}
        found = paired_interval(a, b)
        test = stats.ttest_rel([a[s] for s in a], [b[s] for s in a])
        ends = test.confidence_interval(0.95)
        assert found.mean - found.half_width == pytest.approx(ends.low, abs=1e-12)
        assert found.mean + found.half_width == pytest.approx(ends.high, abs=1e-12)
        assert excludes_zero(found) == (test.pvalue < 0.05)


def test_paired_interval__takes_the_seeds_that_both_have() -> None:
    found = paired_interval({0: 0.5, 1: 0.7, 5: 0.9}, {1: 0.6, 5: 0.7, 8: 0.1})
    assert found == mean_interval([0.7 - 0.6, 0.9 - 0.7])
    assert math.isnan(paired_interval({0: 1.0}, {1: 1.0}).mean)
    one = paired_interval({0: 1.0}, {0: 0.5})
    assert (one.mean, excludes_zero(one)) == (0.5, None)


def test_json__holds_means_intervals_and_differences(desk: Path) -> None:
    found = as_json(typical())
    assert json.loads(json.dumps(found)) == found
    base, top_1, ffn = found["cells"]
    scores, others = [0.70, 0.73, 0.74], [0.80, 0.82, 0.84]
    ends = stats.t.interval(0.95, 2, sum(scores) / 3, stats.sem(scores))
    assert top_1["interval"] == pytest.approx(list(ends), abs=1e-12)
    assert top_1["std"] == pytest.approx(stats.tstd(scores), abs=1e-12)
    paired = stats.ttest_rel(scores, others).confidence_interval(0.95)
    assert top_1["difference_to_base"]["interval"] == pytest.approx(list(paired), abs=1e-12)
    assert top_1["difference_to_base"]["excludes_zero"] is True
    assert ffn["difference_to_base"]["excludes_zero"] is False
    assert base["difference_to_base"] is None


def test_csv__has_a_row_a_cell_and_seed(desk: Path) -> None:
    reason = 'Targets, "nearly" constant.'
    found = typical(top_k=[done(0.7), lost("collapsed", reason), done(None)])
    rows = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert len(rows) == 9
    assert list(rows[0]) == [
        "cell", "seed", "objective.top_k", "objective.target_feature", "probe.linear.1", "loss",
        "target_spread", "flops", "train_seconds", "seconds", "status", "reason",
    ]  # fmt: skip
    assert rows[4]["reason"] == reason
    assert [row["probe.linear.1"] for row in rows[3:6]] == ["0.7", "", ""]
    assert [row["status"] for row in rows[3:6]] == ["done", "collapsed", "done"]


# Words


def test_words__tell_apart_what_is_shown_and_what_is_not(desk: Path) -> None:
    found = typical()
    told = " ".join(words(found))
    assert "1 is worse by 0.097 +- 0.014" in told
    assert "ffn: the interval of the difference covers zero" in told
    assert "3 seeds are few" in told
    assert "of 2 comparisons 0.1 would exclude zero by chance" in told
    last = verdict(found)
    assert last.startswith("Shown: objective.top_k matters (1 is worse")
    assert "Not shown: whether objective.target_feature matters" in last
    assert words(found)[-1] == last


def test_words__know_when_lower_is_better(desk: Path) -> None:
    found = typical()
    vars(found.sweep.score)["parts"] = {"figure": "wer"}
    assert "1 is better by 0.097" in verdict(found)


def test_words__of_one_seed_claim_nothing(desk: Path) -> None:
    found = results("ablate.seeds=[0]", base=[done(0.8)], top_k=[done(0.1)],
                    target_feature=[done(0.9)])  # fmt: skip
    last = verdict(found)
    assert last.startswith("Shown: no difference to the base.")
    assert "one seed gives no interval" in last
    assert "1 seed is few" in " ".join(words(found))


def test_words__name_every_loss_with_its_reason(desk: Path) -> None:
    found = typical(
        top_k=[lost("collapsed", "Targets are flat."), lost("collapsed", "Targets are flat."),
               done(0.7)],
        target_feature=[lost("failed", "Out of memory."), done(0.8), done(0.81)],
    )  # fmt: skip
    told = words(found)
    assert any(line.endswith("seed 0, top_k-1-b21ba1 seed 1: Targets are flat.") for line in told)
    assert any(line.startswith("failed: target_feature") for line in told)
    assert any("1 collapsed in 2 of 3 seeds" in line for line in told)


@pytest.mark.parametrize(
    ("untrained", "doubt"), [((0.5, 0.52, 0.53), False), ((0.8, 0.83, 0.82), True)]
)
def test_words__doubt_a_base_that_learned_nothing(
    desk: Path, untrained: tuple[float, ...], doubt: bool
) -> None:
    found = typical()
    found.untrained.update(enumerate(untrained))
    assert ("is not shown" in words(found)[0]) is doubt
    assert words(found)[0].startswith(f"The untrained encoder has {sum(untrained) / 3:.3f}")


def test_words__of_a_val_score_say_so(desk: Path) -> None:
    found = typical()
    vars(found)["scored_on"] = "val"
    assert any("scores are on val" in line for line in words(found))


# Table and charts


def test_table__marks_base_collapse_and_interval(desk: Path) -> None:
    found = typical(target_feature=[lost("collapsed", "Flat."), done(0.8), done(0.81)])
    rows = ablate_report(found, "x", []).rows
    assert [row[:3] for row in rows] == [
        ["objective.top_k", "1", "3/3"], ["objective.top_k", "2", "3/3"],
        ["objective.target_feature", "ffn", "2/3"],
        ["objective.target_feature", "end_of_block", "3/3"],
    ]  # fmt: skip
    assert [row[-1] for row in rows] == ["excludes 0", "base", "covers 0, 1 collapsed", "base"]
    assert rows[0][3:6] == ["0.723 +- 0.021", "[0.672, 0.775]", "-0.097 [-0.111, -0.082]"]
    text = as_markdown(found, [])
    assert text.count("\n| objective") == 4
    assert verdict(found) in text


def test_places__hold_the_base_where_no_value_is_it(desk: Path) -> None:
    found = results(ONE_AXIS, "ablate.axes.objective.beta=[3,1]", "ablate.seeds=[0]",
                    base=[done(0.8)], top_k=[done(0.8)], beta=[done(0.7)])  # fmt: skip
    assert [label for label, _ in found.places("objective.beta")] == ["1", "2.0", "3"]


def test_charts__are_drawn_one_an_axis_with_what_was_lost(desk: Path, tmp_path: Path) -> None:
    published = "ablate.published={objective.top_k: {source: A paper, figure: WER, values: {1: 9}}}"
    whole = plot_axes(typical(), tmp_path / "whole")
    assert [path.name for path in whole] == ["objective.top_k.png", "objective.target_feature.png"]
    found = typical(published, target_feature=[lost("collapsed", "Flat.")] * 3)
    lossy = plot_axes(found, tmp_path / "lossy")
    sizes = [[_pixels(path).shape for path in paths] for paths in (whole, lossy)]
    assert sizes[1][0][1] == 2 * sizes[0][0][1]  # what was published stands beside it
    assert sizes[1][1] == sizes[0][1]
    red = [int((_pixels(path) == (214, 39, 40)).all(axis=2).sum()) for path in (whole[1], lossy[1])]
    assert red[0] == 0 < red[1]


def _pixels(path: Path) -> Any:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_charts_of_a_grid__join_values_for_each_setting_of_the_others(desk: Path) -> None:
    sweep = swept("ablate.mode=grid", "ablate.seeds=[0]")
    draws = itertools.count()
    outcomes = {(cell.id, 0): done(next(draws) / 10) for cell in sweep.cells}
    found = results_of(sweep, [], outcomes)
    lines = lines_of(found, "objective.top_k")
    assert [(name, [label for label, _ in line]) for name, line in sorted(lines)] == [
        ("objective.target_feature end_of_block", ["1", "2"]),
        ("objective.target_feature ffn", ["1", "2"]),
    ]
    assert len(ablate_report(found, "x", []).rows) == 4
    assert "too few" not in " ".join(words(found))


def test_nothing_done__is_a_table_and_charts_too(desk: Path, tmp_path: Path) -> None:
    found = typical(**{name: [Outcome(status="waiting")] * 3
                       for name in ("base", "top_k", "target_feature")})  # fmt: skip
    assert len(plot_axes(found, tmp_path / "plots")) == 2
    assert ablate_report(found, "x", []).rows[0][-1] == "3 waiting"
    assert "too few runs ended with a score" in verdict(found) or "Not shown" in verdict(found)
