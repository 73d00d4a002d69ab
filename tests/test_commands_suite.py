"""Proves: a suite runs what is there, goes on after a failure, and averages as GLUE does."""

import json
from pathlib import Path
from typing import Any

import pytest

from d2v.commands.suite_table import Done, average, suite_report, suite_scores
from d2v.errors import D2VError
from tests.glue_case import RECIPE, SHORT, books, glue
from tests.hostile_case import d2v, left, refused, worked

SUITE = ("finetune", "text/glue", "suite.source=my GLUE", *SHORT)
RUNS = Path("runs/text/glue")


def split(**figures: float | None) -> dict[str, Any]:
    ends = {
        name: [value - 0.1, value + 0.1] for name, value in figures.items() if value is not None
    }
    return {"figures": figures, "std": dict.fromkeys(figures), "interval": ends, "samples": 9}


def cell(init: str = "pretrained", subset: str = "all", **splits: dict[str, Any]) -> dict[str, Any]:
    return {"init": init, "subset": subset, "scores": {"": splits, "with a model": {}}}


def done(title: str, figures: tuple[str, ...], *cells: dict[str, Any], **more: Any) -> Done:
    result = {"chosen": list(cells), "scored_on": "test"}
    return Done(title=title, run=title.lower(), figures=figures, result=result, **more)


COLA = done("CoLA", ("matthews",), cell(test=split(matthews=0.6, accuracy=0.9)))
MRPC = done("MRPC", ("accuracy", "f1"), cell(test=split(f1=0.9, accuracy=0.86)))
MNLI = done(
    "MNLI",
    ("accuracy", "mismatched.accuracy"),
    cell(test=split(accuracy=0.8), mismatched=split(accuracy=0.81), val=split(accuracy=0.1)),
)
FAILED = Done(title="RTE", run="rte", figures=("accuracy",), result={}, reason="It broke. " * 30)


# The table


def test_average__is_the_mean_over_tasks_of_the_mean_of_their_figures() -> None:
    by_hand = (0.6 + (0.86 + 0.9) / 2 + (0.8 + 0.81) / 2) / 3
    mean, count = average([COLA, MRPC, MNLI, FAILED], ("pretrained", "all"))
    assert mean == pytest.approx(by_hand, abs=1e-12)
    assert count == 3


def test_table__has_a_row_a_figure_and_the_average_last() -> None:
    report = suite_report("my/glue", [COLA, MRPC, MNLI, FAILED], ["QQP"])
    assert report.columns == ["task", "figure", "pre-trained"]
    assert [row[:2] for row in report.rows[:5]] == [
        ["CoLA", "matthews"],
        ["MRPC", "accuracy"],
        ["MRPC", "f1"],
        ["MNLI", "accuracy"],
        ["MNLI", "accuracy (mismatched)"],
    ]
    assert report.rows[1][2] == "0.860 [0.760, 0.960]"
    title, reason, score = report.rows[5]
    assert (title, reason[:17], score) == ("RTE", "failed: It broke.", "-")
    assert len(reason) < 80
    assert report.rows[6] == ["average", "of 3 tasks", "0.762"]
    assert report.highlight == 6
    assert report.headline == "my/glue: 3 of 5 tasks"
    assert any(FAILED.reason in remark for remark in report.remarks)
    assert any("left out: QQP" in remark for remark in report.remarks)


def test_table__has_a_column_for_each_way_to_begin_and_subset() -> None:
    two = done("A", ("accuracy",), cell(test=split(accuracy=0.8)),
               cell("scratch", test=split(accuracy=0.4)))  # fmt: skip
    other = done("B", ("accuracy",), cell(test=split(accuracy=0.6)))
    report = suite_report("x", [two, other], [])
    assert report.columns[2:] == ["pre-trained", "from scratch"]
    assert report.rows[1][2:] == ["0.600 [0.500, 0.700]", "-"]
    assert report.rows[2][2:] == ["0.700", "0.400"]
    assert any(
        "not over the same tasks: pre-trained 2, from scratch 1" in r for r in report.remarks
    )
    few = done("A", ("accuracy",), cell(test=split(accuracy=0.8)),
               cell(subset="few", test=split(accuracy=0.4)))  # fmt: skip
    assert suite_report("x", [few], []).columns[2:] == ["pre-trained, all", "pre-trained, few"]


def test_undefined_figure__counts_for_no_average() -> None:
    lost = done("A", ("matthews",), cell(test=split(matthews=None)))
    assert average([lost, COLA], ("pretrained", "all")) == (0.6, 1)
    assert suite_report("x", [lost], []).rows == [
        ["A", "matthews", "-"],
        ["average", "of 0 tasks", "-"],
    ]


def test_score_on_val__says_so() -> None:
    part = done("A", ("accuracy",), cell(val=split(accuracy=0.5)))
    part = Done(**{**vars(part), "result": {**part.result, "scored_on": "val"}})
    assert suite_report("x", [part], []).rows[0] == ["A", "accuracy (val)", "0.500 [0.400, 0.600]"]


def test_deviation__is_shown_where_there_are_seeds() -> None:
    scores = split(accuracy=0.5) | {"std": {"accuracy": 0.0123}}
    part = done("A", ("accuracy",), cell(test=scores))
    assert suite_report("x", [part], []).rows[0][2] == "0.500 +- 0.012 [0.400, 0.600]"


@pytest.mark.parametrize("figure", ["mathews", "blind.accuracy"])
def test_unknown_figure__is_refused_with_those_there_are(figure: str) -> None:
    part = done("A", (figure,), cell(test=split(accuracy=0.5)))
    with pytest.raises(D2VError, match=rf"no figure {figure}.*suite\.parts\.A\.figures"):
        suite_report("x", [part], [])


def test_json__holds_all_of_the_table() -> None:
    found = suite_scores([MRPC, FAILED], ["QQP"])
    assert json.loads(json.dumps(found)) == found
    assert found["missing"] == ["QQP"]
    assert found["failed"] == {"RTE": FAILED.reason}
    (mean,) = found["average"]
    assert mean == {"init": "pretrained", "subset": "all", "score": pytest.approx(0.88), "parts": 1}
    (only,) = found["parts"]["MRPC"]
    assert only["figures"]["f1"]["interval"] == [pytest.approx(0.8), pytest.approx(1.0)]


# The command


@pytest.fixture(name="desk")
def desk_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A desk with an encoder that was trained for one step."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    Path("tiny.yaml").write_text(RECIPE)
    books(Path("books"))
    return tmp_path


def test_suite__runs_what_is_there_and_says_what_is_not(desk: Path) -> None:
    worked(d2v("run", "tiny.yaml"))
    glue(Path("my GLUE"), "STS-B", "MNLI")
    line = (*SUITE, "--from", "runs/tiny", "finetune.seeds=[3]", "finetune.baselines=false")
    result = worked(d2v(*line),
                    "text/glue: 2 of 8 tasks", "accuracy (mismatched)",
                    "left out: CoLA, SST-2, MRPC, QQP, QNLI, RTE")  # fmt: skip
    found = json.loads((RUNS / "finetune/result.json").read_text())
    assert list(found["parts"]) == ["MNLI", "STS-B"]
    scores = []
    for title, folder in (("STS-B", "stsb"), ("MNLI", "mnli")):
        own = json.loads((RUNS / folder / "finetune/result.json").read_text())
        (chosen,) = own["chosen"]
        assert chosen["seeds"] == [3]
        by_split = chosen["scores"][""]
        (entry,) = found["parts"][title]
        figures = [figure["value"] for figure in entry["figures"].values()]
        if title == "MNLI":
            assert figures == [by_split[s]["figures"]["accuracy"] for s in ("test", "mismatched")]
        else:
            assert figures == [by_split["test"]["figures"][f] for f in ("pearson", "spearman")]
        scores.append(sum(figures) / len(figures))
    assert found["average"][0]["score"] == pytest.approx(sum(scores) / 2, abs=1e-12)
    again = worked(d2v(*line))
    assert again.output.splitlines()[-8:] == result.output.splitlines()[-8:]
    assert "step" not in again.output.partition("text/glue: 2 of 8")[2]


def test_failed_part__is_told_and_the_others_are_done(desk: Path) -> None:
    glue(Path("my GLUE"), "CoLA", "RTE")
    (Path("my GLUE") / "CoLA/dev.tsv").unlink()
    scratch = ("finetune.init=scratch", "encoder=mini", "encoder.depth=1",
               "modality.tokenizer={size: 300, mask_id: null}")  # fmt: skip
    result = d2v(*SUITE, *scratch)
    refused(result, "1 of 2 parts failed (CoLA)", code=1)
    assert "failed: data.files.test names" in result.output
    assert "RTE" in result.stdout.partition("1 of 8 tasks")[2]
    found = json.loads((RUNS / "finetune/result.json").read_text())
    assert list(found["failed"]) == ["CoLA"]
    assert list(found["parts"]) == ["RTE"]
    glue(Path("my GLUE"), "CoLA")
    worked(d2v(*SUITE, *scratch), "text/glue: 2 of 8 tasks")
    assert json.loads((RUNS / "finetune/result.json").read_text())["failed"] == {}


def test_settings_that_fit_no_part__are_refused_before_anything_is_made(desk: Path) -> None:
    glue(Path("my GLUE"), "CoLA")
    refused(d2v(*SUITE, "finetune.stepz=3"), "finetune.stepz", "Did you mean finetune.steps?")
    refused(d2v(*SUITE, "suite.parts.CoLA.recipe=text/glue"), "suite.parts.CoLA.recipe", "no suite")
    refused(d2v(*SUITE, "suite.parts.CoLA.recipe=text/gleu"), "no recipe text/gleu")
    assert left(Path("runs")) == []


def test_suite_without_data__is_refused(desk: Path) -> None:
    refused(d2v("finetune", "text/glue"), "suite.source is not set", "CoLA, SST-2", "suite.source=")


def test_dry_run__plans_every_part_and_writes_nothing(desk: Path) -> None:
    glue(Path("my GLUE"), "CoLA")
    words = ("== CoLA: text/glue/cola", "== MNLI: text/glue/mnli", "left out: MNLI, MRPC")
    worked(d2v("finetune", "text/glue", "suite.source=my GLUE", "--dry-run"), *words)
    assert not Path("runs").exists()


@pytest.mark.parametrize("command", ["prepare", "pretrain", "probe", "run"])
def test_other_commands__refuse_a_suite_and_name_its_parts(desk: Path, command: str) -> None:
    refused(d2v(command, "text/glue"), "is a suite of recipes", "d2v finetune", "text/glue/cola")
