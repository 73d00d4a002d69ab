"""Proves: `--nproc N` ends as one command: one message, the right code, nothing left running."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from d2v.data.shards import Shards
from d2v.engine.launch import launch
from d2v.errors import D2VError
from tests.training_case import QUIET, Started, make_shards, rows, write_recipe

pytestmark = QUIET

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


def start(folder: Path, recipe: Path, number: int, *arguments: str) -> Started:
    line = ["pretrain", str(recipe), "--out", str(folder), *arguments]
    return Started(line, folder / f"output-{number}")


def test_nproc__stops_on_sigterm_and_one_process_goes_on(shards: Shards, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, shards, steps=200, log_every=1)
    stage = tmp_path / "tiny" / "pretrain"
    started = start(tmp_path, recipe, 0, "--nproc", "2")
    started.wait_for_step(stage, 3)
    started.send(signal.SIGTERM)
    code, text = started.wait()
    assert code == 75, text
    assert text.count("Stopped after step") == 1
    assert "Warning" not in text
    code, text = start(tmp_path, recipe, 1).wait()
    assert code == 0, text
    assert [row["step"] for row in rows(stage)] == list(range(1, 201))
    code, text = start(tmp_path, recipe, 2, "--nproc", "2", "pretrain.optimizer.eps=1e-3").wait()
    assert code == 2, text  # rank 0 alone looks; rank 1 waits for it
    assert text.count("Error:") == 1
    assert "was started with pretrain.optimizer.eps" in text
    assert "Traceback" not in text


def test_nproc__refuses_a_batch_that_it_cannot_divide(shards: Shards, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, shards, batch_size=7)
    code, text = start(tmp_path, recipe, 0, "--nproc", "2").wait()
    assert code == 2, text
    assert text.count("Error:") == 1
    assert "batch_size 7 cannot be divided over 2 devices" in text
    assert start(tmp_path, recipe, 1, "--nproc=2", "pretrain.batch_size=8").wait()[0] == 0
