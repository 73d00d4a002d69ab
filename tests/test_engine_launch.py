"""Proves: `--nproc N` ends as one command: one message, the right code, nothing left running."""

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from d2v.cli import app
from d2v.data.shards import Shards
from d2v.engine.launch import launch
from d2v.errors import D2VError
from tests.process_case import Started
from tests.training_case import make_shards, rows, write_recipe

STUB = """#!/bin/sh
# Stands in for `python -m d2v`: what a rank does is in the variable with its number.
echo $$ >> "$PIDS"
trap 'echo "stopped $RANK" >&2; exit 75' TERM
eval "case $RANK in 0) $RANK_0;; 1) $RANK_1;; esac"
"""
LOST = "sleep 0.3; echo 'Another process of this run ended' >&2; exit 70"
WAITS = "while true; do sleep 0.05; done"


@pytest.fixture(name="ranks")
def ranks_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    stub = tmp_path / "stub"
    stub.write_text(STUB)
    stub.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stub))
    monkeypatch.setenv("PIDS", str(tmp_path / "pids"))
    return monkeypatch


def two(ranks: pytest.MonkeyPatch, first: str, second: str) -> int:
    ranks.setenv("RANK_0", first)
    ranks.setenv("RANK_1", second)
    return launch(["pretrain"], 2)


def assert_none_left(tmp_path: Path) -> None:
    for pid in (tmp_path / "pids").read_text().split():
        deadline = time.monotonic() + 5
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < deadline, Path(f"/proc/{pid}/status").read_text()
            time.sleep(0.01)


@pytest.mark.parametrize(
    ("first", "second", "code", "said"),
    [
        ("exit 0", "exit 0", 0, ""),
        ("echo no recipe >&2; exit 2", LOST, 2, "no recipe\n"),
        (LOST, "echo collapse >&2; exit 3", 3, "collapse\n"),
        ("echo collapse >&2; exit 3", "echo collapse >&2; exit 3", 3, "collapse\n"),
        (WAITS, "echo bad data >&2; exit 1", 1, "bad data\n"),
    ],
)
def test_launch__tells_the_cause_once(
    ranks: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    first: str,
    second: str,
    code: int,
    said: str,
) -> None:
    ranks.setattr("d2v.engine.launch._PATIENCE_SECONDS", 0.5)
    assert two(ranks, first, second) == code
    assert capfd.readouterr().err == said
    assert_none_left(tmp_path)


def test_rank__that_was_killed_is_named(ranks: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(D2VError, match="Process 1 of 2 was killed by SIGKILL.*memory"):
        two(ranks, LOST, "kill -9 $$")
    assert_none_left(tmp_path)


def test_signal__reaches_every_rank(
    ranks: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    assert two(ranks, WAITS, WAITS) == 75
    assert capfd.readouterr().err in ("stopped 0\n", "stopped 1\n")
    assert signal.getsignal(signal.SIGTERM) == before
    assert_none_left(tmp_path)


# The real command


@pytest.fixture(scope="module", name="shards")
def shards_fixture(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return make_shards(tmp_path_factory.mktemp("pictures"), 42)


def start(folder: Path, recipe: Path, *arguments: str, **environment: str) -> Started:
    line = ["pretrain", str(recipe), "--out", str(folder / "runs"), *arguments]
    return Started(line, folder / f"output-{time.monotonic_ns()}", environment=environment)


def as_two_ranks(folder: Path, recipe: Path, *arguments: str) -> list[tuple[int | None, str]]:
    """What torchrun does, without its imports: exit code and output of both ranks."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    ranks = [
        start(folder, recipe, *arguments, RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2",
              LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        for rank in ("0", "1")
    ]  # fmt: skip
    return [rank.wait() for rank in ranks]


def test_batch_normalised_targets__of_two_ranks_give_the_losses_of_one(
    shards: Shards, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, shards, log_every=1, steps=20)
    losses = []
    for name in ("one", "two"):
        arguments = (f"name={name}", "objective.target_norm=batch", "objective.mean_norm=none")
        if name == "one":
            assert start(tmp_path, recipe, *arguments).wait()[0] == 0
        else:
            assert [code for code, _ in as_two_ranks(tmp_path, recipe, *arguments)] == [0, 0]
        losses.append([row["loss"] for row in rows(tmp_path / "runs" / name / "pretrain")])
    assert len(losses[0]) == len(losses[1]) == 20
    assert max(abs(one - two) for one, two in zip(*losses, strict=True)) < 1e-5
    assert losses[0][0] - losses[0][-1] > 0.01, "nothing was learned: the test proves nothing"


@pytest.mark.parametrize("code", [0, 3])
def test_nproc__of_run_shares_out_pretraining_and_ends_with_its_code(
    shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    asked: list[tuple[list[str], int]] = []

    def launched(arguments: list[str], num_processes: int) -> int:
        asked.append((arguments, num_processes))
        return code

    monkeypatch.setattr("d2v.commands.run.launch", launched)
    recipe, out = str(write_recipe(tmp_path, shards)), str(tmp_path / "runs")
    line = ["run", recipe, "--nproc", "2", "seed=1", "--out", out, "--fresh", "-v", "name=other"]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == code, result.output
    assert ("pretrain in 2 processes is done" in result.stdout) == (code == 0)
    [(arguments, num_processes)] = asked
    assert arguments[:2] == ["pretrain", recipe]
    assert {"name=other", "seed=1"} == set(arguments[2 : arguments.index("--out")])
    assert (arguments[-4:], num_processes) == (["--out", out, "--fresh", "-v"], 2)
    assert not (tmp_path / "runs").exists()  # this process has trained nothing itself


def test_nproc__stops_on_sigterm_and_one_process_goes_on(shards: Shards, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, shards, steps=60, log_every=1)
    stage = tmp_path / "runs" / "tiny" / "pretrain"
    started = start(tmp_path, recipe, "--nproc", "2")
    started.wait_for_step(stage, 3)
    started.send(signal.SIGTERM)
    code, text = started.wait()
    assert code == 75, text
    assert text.count("Stopped after step") == 1
    assert "Warning" not in text
    code, text = start(tmp_path, recipe).wait()
    assert code == 0, text
    assert [row["step"] for row in rows(stage)] == list(range(1, 61))


def test_mistake__that_rank_0_alone_sees_ends_the_other_at_once(
    shards: Shards, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, shards)
    assert [code for code, _ in as_two_ranks(tmp_path, recipe)] == [0, 0]
    begun = time.monotonic()
    (code, text), (other, told) = as_two_ranks(tmp_path, recipe, "objective.beta=1")
    assert time.monotonic() - begun < 30
    assert (code, other) == (2, 70)
    assert "was started with objective.beta 2.0, now it is 1.0" in text
    assert "Another process of this run ended" in told
    assert "Traceback" not in text + told
    (code, text), (other, told) = as_two_ranks(tmp_path, recipe)
    assert (code, other) == (0, 0)  # finished: both learn of it
    assert "nothing was done" in text
    assert told == ""


def test_batch__that_cannot_be_divided_is_the_same_mistake_on_both(
    shards: Shards, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, shards, batch_size=7)
    for code, text in as_two_ranks(tmp_path, recipe):
        assert code == 2
        assert "batch_size 7 cannot be divided over 2 devices" in text
    assert not (tmp_path / "runs" / "tiny" / "pretrain").exists()
