"""Proves: the command line hands over what it was asked, once for each process, and starts fast."""

import os
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest

import d2v
from d2v.commands.options import Options
from d2v.parameters import without_nproc
from tests.cli_stand_ins import COMMANDS, Recorder, call, recorder_fixture
from tests.config_house import house_fixture

__all__ = ["house_fixture", "recorder_fixture"]


# What is handed over


@pytest.mark.parametrize("name", COMMANDS)
def test_command__gets_the_recipe_and_the_options(recorder: Recorder, name: str) -> None:
    result = call(name, "vision/digits", "seed=3", "--out", "elsewhere", "--dry-run", "-v")
    assert (result.exit_code, result.stdout) == (0, f"{name} is done\n")
    [(called, loaded, options)] = recorder.calls
    assert (called, loaded.settings.seed, loaded.name) == (name, 3, "vision/digits")
    assert options == Options(out=Path("elsewhere"), dry_run=True, verbosity=1)


def test_command__without_options_gets_the_defaults(recorder: Recorder) -> None:
    call("probe", "vision/digits")
    assert recorder.calls[0][2] == Options()


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        (["prepare", "--check"], "check", True),
        (["pretrain", "--fresh"], "fresh", True),
        (["probe", "-q"], "verbosity", -1),
        (["run", "--stages", "probe, prepare"], "stages", ("prepare", "probe")),
    ],
)
def test_option__reaches_the_command(
    recorder: Recorder, arguments: list[str], field: str, value: object
) -> None:
    assert call(arguments[0], "vision/digits", *arguments[1:]).exit_code == 0
    assert getattr(recorder.calls[0][2], field) == value


@pytest.mark.parametrize("override", ["seed=3", "+seed=3", "~encoder.depth"])
def test_override__needs_no_dashes_before_or_after_options(
    recorder: Recorder, override: str
) -> None:
    for arguments in ([override, "--dry-run"], ["--dry-run", override]):
        assert call("pretrain", "vision/digits", *arguments).exit_code == 0


def test_print_config__prints_settings_with_origins_and_stops(recorder: Recorder) -> None:
    result = call("pretrain", "vision/digits", "seed=3", "--print-config")
    assert result.exit_code == 0
    assert "seed: 3  # command line\n" in result.stdout
    assert recorder.calls == []


# Several processes


@pytest.fixture(name="launched")
def launched_fixture(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []

    def launch(arguments: list[str], num_processes: int) -> int:
        calls.append((arguments, num_processes))
        return 3

    module = types.ModuleType("d2v.engine.launch")
    vars(module)["launch"] = launch
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


@pytest.mark.parametrize("name", ["pretrain"])
def test_nproc__starts_the_same_command_without_it(
    recorder: Recorder, launched: list[Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    arguments = [name, "vision/digits", "--nproc", "2", "seed=1"]
    monkeypatch.setattr(sys, "argv", ["d2v", *arguments])
    assert call(*arguments).exit_code == 3
    assert launched == [([name, "vision/digits", "seed=1"], 2)]
    assert recorder.calls == []


def test_nproc__of_run_is_left_to_the_command(recorder: Recorder, launched: list[Any]) -> None:
    """It shares out one stage only: see test_engine_launch."""
    assert call("run", "vision/digits", "--nproc", "2").exit_code == 0
    assert (recorder.calls[0][2].nproc, launched) == (2, [])


def test_nproc__finds_mistakes_before_anything_is_started(
    recorder: Recorder, launched: list[Any]
) -> None:
    assert call("pretrain", "vision/digits", "sed=1", "--nproc", "2").exit_code == 2
    assert launched == []


def test_nproc__starts_nothing_in_a_dry_run(recorder: Recorder, launched: list[Any]) -> None:
    assert call("pretrain", "vision/digits", "--nproc", "2", "--dry-run").exit_code == 0
    assert (recorder.calls[0][2].nproc, launched) == (2, [])


@pytest.mark.parametrize(("rank", "output"), [("0", "pretrain is done\n"), ("1", "")])
def test_nproc__inside_a_process_trains_and_rank_0_reports(
    recorder: Recorder,
    launched: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    rank: str,
    output: str,
) -> None:
    monkeypatch.setenv("RANK", rank)
    assert call("pretrain", "vision/digits", "--nproc", "2").stdout == output
    assert (len(recorder.calls), launched) == (1, [])


@pytest.mark.parametrize(
    "arguments", [["a", "--nproc", "2", "b"], ["a", "--nproc=2", "b"], ["--nproc", "1", "a", "b"]]
)
def test_nproc__is_taken_out_however_it_is_written(arguments: list[str]) -> None:
    assert without_nproc(arguments) == ["a", "b"]


# Start-up


def in_a_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, env=os.environ
    )


def test_help__loads_nothing_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from d2v.cli import app; "
        "assert CliRunner().invoke(app, ['pretrain', '--help']).exit_code == 0; "
        "print([m for m in ('torch', 'timm', 'hydra', 'numpy') if m in sys.modules])"
    )
    result = in_a_process("-c", code)
    assert result.stdout == "[]\n", result.stderr


def test_help__answers_in_under_0_4_seconds() -> None:
    """The best of up to seven tries: other programs on the machine must not fail it."""
    seconds: list[float] = []
    while len(seconds) < 7 and min(seconds, default=1.0) >= 0.4:
        begun = time.perf_counter()
        result = in_a_process("-m", "d2v", "--help")
        seconds.append(time.perf_counter() - begun)
        assert (result.returncode, "pretrain" in result.stdout) == (0, True), result.stderr
    assert min(seconds) < 0.4, seconds


def test_help__of_the_real_program_imports_no_torch() -> None:
    result = in_a_process("-X", "importtime", "-m", "d2v", "--help")
    imported = {line.split("|")[-1].strip() for line in result.stderr.splitlines()}
    assert "d2v.cli" in imported
    assert [name for name in imported if name.split(".")[0] == "torch"] == []


def test_version__is_the_packages(capfd: pytest.CaptureFixture[str]) -> None:
    result = in_a_process("-m", "d2v", "--version")
    assert (result.returncode, result.stdout) == (0, f"d2v {d2v.__version__}\n")
