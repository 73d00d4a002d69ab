"""Proves: `d2v predict` shows answers as a table or JSON lines, and ends with the right code."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from d2v.cli import app
from d2v.commands.predict import opened
from d2v.errors import UsageError
from tests.asking_case import Saved, asked, close, saved_fixture, written
from tests.model_case import BY_NAME

__all__ = ["saved_fixture"]


# Shown


def test_top__cuts_rankings(saved: Saved) -> None:
    _, folder = saved("vision", "classify")
    content = BY_NAME["vision"].items()[0].read()
    (whole,), _ = asked(folder, content)
    (cut,), _ = asked(folder, content, top=2)
    assert len(whole["probabilities"]) == 3
    assert list(cut["probabilities"].items()) == list(whole["probabilities"].items())[:2]
    assert sum(whole["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert whole["label"] == next(iter(whole["probabilities"]))


def test_table__has_a_row_an_input_and_a_column_for_errors(saved: Saved, tmp_path: Path) -> None:
    _, folder = saved("vision", "classify")
    content = BY_NAME["vision"].items()[0].read()
    _, outcome = asked(folder, content, b"", content, format="table", top=1)
    assert outcome.report is not None
    assert outcome.report.columns == ["input", "label", "probabilities", "error"]
    first, bad, last = outcome.report.rows
    assert first == last
    assert first[2].startswith(f"{first[1]} 0.")
    assert bad == ["-", "", "", "empty file"]


def test_output__is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with opened(path, sys.stdout) as file:
        file.write("one\n")
    with pytest.raises(TypeError), opened(path, sys.stdout) as file:
        file.writelines(["half\n", None])  # type: ignore[list-item]  # fails in the middle
    assert path.read_text() == "one\n"
    assert list(tmp_path.iterdir()) == [path]
    with (
        pytest.raises(UsageError, match="cannot be written: No such file"),
        opened(tmp_path / "nowhere" / "x", sys.stdout),
    ):
        pass


# On the command line


def call(*arguments: str | Path, given: bytes | None = None) -> Any:
    return CliRunner().invoke(app, ["predict", *map(str, arguments)], input=given)


def test_command__writes_json_lines_into_a_pipe(saved: Saved, tmp_path: Path) -> None:
    made, folder = saved("vision", "classify")
    inputs = written(made, "vision", tmp_path / "inputs")
    expected, _ = asked(folder, *inputs)
    result = call(tmp_path / "run", tmp_path / "inputs", "-", given=inputs[0].read_bytes())
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert close(rows[:-1], expected)
    assert close(rows[-1], {**expected[0], "input": "-"})


def test_command__with_a_bad_input_ends_with_1_and_all_rows(saved: Saved, tmp_path: Path) -> None:
    made, folder = saved("vision", "classify")
    inputs = written(made, "vision", tmp_path / "inputs")
    inputs[1].write_bytes(b"no picture")
    out = tmp_path / "table.txt"
    result = call(folder, *inputs, "--format", "table", "--output", out)
    assert result.exit_code == 1
    assert "1 of 4 inputs could not be used" in result.stderr
    lines = out.read_text().splitlines()
    assert lines[0] == f"Answers of {folder}"
    assert len(lines) == 6
    assert "not a picture" in lines[3]
    quiet = call(folder, *inputs, "--format", "table", "-q")
    assert quiet.stdout.splitlines() == lines[1:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.png"], "The input nowhere.png does not exist"),
        ([], "Missing argument"),
        (["-"], "Standard input is empty"),
        (["-", "-"], "- is named twice"),
        (["-", "-q", "-v"], "exclude each other"),
    ],
)
def test_command__without_an_input_ends_with_2(
    saved: Saved, arguments: list[str], message: str
) -> None:
    _, folder = saved("vision", "classify")
    result = call(folder, *arguments, given=b"")
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_command__without_a_model_ends_with_2(tmp_path: Path) -> None:
    result = call(tmp_path, tmp_path)
    assert result.exit_code == 2
    assert "no fine-tuned model" in result.stderr


def test_help__loads_no_torch() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from d2v.cli import app; "
        "assert CliRunner().invoke(app, ['predict', '--help']).exit_code == 0; "
        "print([m for m in ('torch', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr
