"""Proves: errors and reports reach a person in a readable form, with the promised exit code."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from d2v.cli import app
from d2v.errors import D2VError, GuardError, InterruptedRunError, StoppedError, UsageError
from d2v.report import Report
from d2v.terminal import explained_errors, show
from tests.cli_stand_ins import Recorder, call, recorder_fixture
from tests.config_house import house_fixture

__all__ = ["house_fixture", "recorder_fixture"]


# Wrong usage


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["pretrain", "vision/digit"], "Did you mean vision/digits"),
        (["pretrain", "vision/digits", "objective.topk=3"], "objective.top_k?"),
        (["pretrain", "vision/digits", "-v", "-q"], "exclude each other"),
        (["pretrain", "vision/digits", "--nproc", "0"], "nproc"),
        (["pretrain", "vision/digits", "--stepps"], "--stepps"),
        (["run", "vision/digits", "--stages", "prepare,train"], "train"),
        (["pretrain"], "RECIPE"),
        (["recipes", "copy", "nothing", "x.yaml"], "no recipe nothing"),
        (["pretain"], "pretrain"),
    ],
)
def test_wrong_usage__exits_2_and_says_why(
    recorder: Recorder, arguments: list[str], part: str
) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert part in result.stderr
    assert "Traceback" not in result.stderr
    assert recorder.calls == []


@pytest.mark.parametrize(
    ("error", "code", "part"),
    [
        (D2VError("No shards", remedy="Run d2v prepare"), 1, "Error: No shards. Run d2v prepare."),
        (UsageError("wrong [key]"), 2, "Error: wrong [key]."),
        (GuardError("collapsed"), 3, "Error: collapsed."),
        (StoppedError("checkpointed"), 75, "Stopped: checkpointed."),
        (InterruptedRunError("checkpointed"), 130, "Stopped: checkpointed."),
        (KeyboardInterrupt(), 130, "Stopped"),
        (FileNotFoundError(2, "No such file", "shard.tar"), 1, "shard.tar"),
        (MemoryError(), 1, "out of memory"),
    ],
)
def test_error__has_its_message_and_code_and_no_traceback(
    recorder: Recorder, error: BaseException, code: int, part: str
) -> None:
    recorder.error = error
    result = call("pretrain", "vision/digits")
    assert (result.exit_code, result.stdout) == (code, "")
    assert part in result.stderr
    assert "Traceback" not in result.stderr


def test_error__nobody_foresaw_is_called_a_bug_and_has_its_traceback(recorder: Recorder) -> None:
    recorder.error = ZeroDivisionError("oh")
    result = call("pretrain", "vision/digits")
    assert result.exit_code == 1
    assert "bug in d2v" in result.stderr
    assert "Traceback" in result.stderr


def test_error__verbose_adds_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), explained_errors(verbose=True):
        raise D2VError("wrong")
    assert "Traceback" in capsys.readouterr().err


def test_error__in_a_pipe_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), explained_errors():
        raise UsageError("long " * 60 + "end")
    assert capsys.readouterr().err.count("\n") == 1


# Reports and recipes


def test_show__in_a_pipe_prints_aligned_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 300
    show(
        Report(
            headline="Done",
            columns=["encoder", "accuracy"],
            rows=[["random", "9.1 %"], ["[bold]ours", "95.0 %"], [long, "1"]],
            highlight=1,
            remarks=["a remark " * 30],
        )
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:4]] == [
        ["encoder", "accuracy"],
        ["random", "9.1", "%"],
        ["[bold]ours", "95.0", "%"],
    ]
    assert lines[4].startswith(long)
    assert len(lines) == 6


def test_show__on_a_terminal_makes_the_row_bold(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    show(Report(headline="", columns=["a"], rows=[["plain"], ["ours"]], highlight=1))
    out = capsys.readouterr().out
    assert "\x1b[1m" in next(line for line in out.splitlines() if "ours" in line)
    assert "\x1b[1m" not in next(line for line in out.splitlines() if "plain" in line)


def test_recipes__lists_names_with_purposes(house: Path) -> None:
    result = call("recipes")
    assert result.exit_code == 0
    assert "vision/digits       Digits on a laptop" in result.stdout


def test_recipes__copy_says_where_it_went(house: Path) -> None:
    result = call("recipes", "copy", "vision/digits", "mine.yaml")
    assert result.exit_code == 0
    assert "d2v run mine.yaml" in result.stdout
    assert Path("mine.yaml").is_file()


def test_completion__knows_shipped_recipes(house: Path) -> None:
    environment = {
        "_D2V_COMPLETE": "complete_bash",
        "COMP_WORDS": "d2v pretrain vis",
        "COMP_CWORD": "2",
    }
    result = CliRunner().invoke(app, [], prog_name="d2v", env=environment)
    assert result.stdout.split() == ["vision/digits", "vision/digits-wide"]
