"""Proves: a fine-tuning of several trials that is killed, stopped or ends early goes on exactly."""

import os
import signal
import socket
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from d2v.commands.scoring import Scorer
from d2v.data.shards import Shards
from d2v.engine.tracking import Tracker
from d2v.model_folder import load_model
from d2v.tasks import Answer, Task
from tests.finetune_case import (
    STAGE,
    TRIAL,
    desk_fixture,
    drawn_desk_fixture,
    finetune,
    pretrained_desk_fixture,
    result,
    scores,
    weights,
)
from tests.hostile_case import d2v, refused, worked
from tests.process_case import Started, after_steps
from tests.training_case import final_bytes, rows

__all__ = ["desk_fixture", "drawn_desk_fixture", "pretrained_desk_fixture"]

TRIALS = [f"pretrained-all-lr0.003-seed{seed}" for seed in (0, 1)]
LONG = ("finetune.seeds=[0,1]", "finetune.steps=8", "finetune.encoder.dropout=0.1")


class Desk:
    """Where the real command is started, with its runs in a folder of their own."""

    def __init__(self, folder: Path, out: str) -> None:
        self.folder, self.out, self.starts = folder, folder / out, 0
        (self.out / "my").mkdir(parents=True)
        for stage in ("prepare", "pretrain"):
            (self.out / "my" / stage).symlink_to(folder / "runs/my" / stage)
        self.stage = self.out / "my/finetune"

    def start(self, *arguments: str, **given: Any) -> Started:
        self.starts += 1
        line = ["finetune", str(self.folder / "my.yaml"), "--out", str(self.out), *LONG, *arguments]
        return Started(line, self.out / f"output-{self.starts}", **given)

    def trial(self, number: int) -> Path:
        return self.stage / "trials" / TRIALS[number]


@pytest.fixture(name="undisturbed", scope="module")
def undisturbed_fixture(pretrained_desk: Path) -> Path:
    """The stage as it comes out when nothing happens."""
    desk = Desk(pretrained_desk, "undisturbed")
    code, text = desk.start().wait(120)
    assert code == 0, text
    return desk.stage


def same_as(undisturbed: Path, stage: Path) -> None:
    """Scores, every logged step and the last bytes of every trial."""
    assert scores(stage) == scores(undisturbed)
    for name in TRIALS:
        one, other = (folder / "trials" / name for folder in (stage, undisturbed))
        assert rows(one) == rows(other)
        assert [row["step"] for row in rows(one)] == list(range(1, 9))
        assert final_bytes(one, 8) == final_bytes(other, 8)


# Killed, stopped


def test_killed__in_the_first_trial_and_in_the_last_it_goes_on_to_the_same_scores(
    undisturbed: Path, desk: Path
) -> None:
    house = Desk(desk, "killed")
    for trial, steps in ((0, 5), (1, 4 + 5)):  # the second start has four steps of trial 0 left
        started = house.start(brake=partial(after_steps, steps))
        started.wait_for_step(house.trial(trial), 4)
        started.send(signal.SIGKILL)
        assert started.wait()[0] == -signal.SIGKILL
        assert not (house.stage / "result.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in house.trial(0).rglob("step-*/*")}
    assert finished
    code, text = house.start().wait(120)
    assert code == 0, text
    assert f"finetune {TRIALS[1]} 8/8" in text
    assert f"finetune {TRIALS[0]} " not in text
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    same_as(undisturbed, house.stage)


def test_sigterm__ends_with_75_and_the_same_command_continues(
    undisturbed: Path, desk: Path
) -> None:
    house = Desk(desk, "stopped")
    started = house.start("data.workers=1", brake=partial(slowly, 0.05))
    started.wait_for_step(house.trial(1), 2)
    started.send(signal.SIGTERM)
    code, text = started.wait()
    assert (code, "Stopped after step" in text, "Traceback" in text) == (75, True, False), text
    assert not (house.stage / "result.json").exists()
    code, text = house.start().wait(120)
    assert code == 0, text
    same_as(undisturbed, house.stage)


def slowly(seconds: float) -> None:
    """A brake: every logged step takes its time."""
    original = Tracker.log

    def log(self: Tracker, step: int, figures: Any) -> None:
        time.sleep(seconds)
        original(self, step, figures)

    Tracker.log = log  # type: ignore[method-assign]  # of a process of its own


def test_sigterm__while_models_are_scored_is_heeded_before_the_next_one(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, asked = Scorer.answers, []

    def answers(self: Scorer, model: Any, shards: Shards) -> list[Answer]:
        if shards.folder.name == "test":
            asked.append(shards.folder)
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, model, shards)

    seeds = "finetune.seeds=[0,1]"
    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "answers", answers)
        stopped = finetune(seeds)
    assert (stopped.exit_code, len(asked)) == (75, 1), stopped.output
    assert "Stopped before the scores" in stopped.output
    assert not (STAGE / "result.json").exists()
    shown = worked(finetune(seeds), "Fine-tuned scores")
    assert "1/4" not in shown.output  # nothing is trained again


# Ending early


STALE = ("finetune.optimizer.learning_rate=1e-15", "finetune.steps=40", "finetune.patience=2")
STALE_TRIAL = STAGE / "trials/pretrained-all-lr1e-15-seed0"
"""Weights that do not move, and score the same for ever."""


def test_patience__ends_training_and_the_best_checkpoint_is_what_is_kept(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = iter((0.5, 0.7, 0.6, 0.5))  # every two steps
    monkeypatch.setattr(Task, "score", lambda self, answers: {"accuracy": next(scripted)})
    worked(finetune("finetune.steps=40", "finetune.patience=2"))
    trial = STAGE / "trials" / TRIAL
    assert [row["step"] for row in rows(trial)] == list(range(1, 9))
    assert next(scripted, None) is None
    assert result()["trials"][0]["val"] == 0.7
    kept, best, last = load_model(STAGE).model.state_dict(), weights(trial, 4), weights(trial, 8)
    assert all(torch.equal(kept[name], best[name]) for name in kept)
    assert not all(torch.equal(kept[name], last[name]) for name in kept)


def test_patience__that_ran_out_does_not_begin_again(desk: Path) -> None:
    worked(finetune(*STALE))
    made = rows(STALE_TRIAL), scores()
    (STAGE / "result.json").unlink()
    assert "/40" not in worked(finetune(*STALE)).output
    assert (rows(STALE_TRIAL), scores()) == made


def test_patience__is_counted_on_after_a_stop(desk: Path) -> None:
    """Killed behind the second score, it ends behind the third all the same."""
    started = Started(
        ["finetune", str(desk / "my.yaml"), "--out", str(desk / "runs"), *STALE,
         "finetune.checkpoint_every=1"],
        desk / "output", brake=partial(after_steps, 5),
    )  # fmt: skip
    started.wait_for_step(STALE_TRIAL, 4)
    started.send(signal.SIGKILL)
    started.wait()
    worked(finetune(*STALE))
    assert [row["step"] for row in rows(STALE_TRIAL)] == [1, 2, 3, 4, 5, 6]


# Other data than at the start


def test_subset__that_was_drawn_anew_in_between_is_refused(desk: Path) -> None:
    worked(finetune("finetune.subset=[few,all]"))
    more = "prepare.subsets={few: 4 a class}"
    worked(d2v("prepare", "my.yaml", more))
    refused(finetune("finetune.subset=[few,all]", more), "was started with subset few", "--fresh")
    shown = worked(finetune("finetune.subset=[few,all]", more, "--fresh"))
    assert "few (12)" in shown.output


# Two processes


def in_two(desk: Path, out: str, *arguments: str) -> Desk:
    """The command as two ranks, as a launcher starts them."""
    house = Desk(desk, out)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [
        house.start(*arguments, environment={
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        })
        for rank in range(2)
    ]  # fmt: skip
    for rank in ranks:
        code, text = rank.wait(120)
        assert code == 0, text
    return house


def test_two_processes__come_to_the_figures_of_one(desk: Path) -> None:
    """Several trials, frozen at first, with an average; dropout is drawn by process: none here."""
    same = ("finetune.encoder.dropout=0", "finetune.encoder.drop_path=0",
            "finetune.encoder.attention_dropout=0", "finetune.init=[pretrained,scratch]",
            "finetune.task.freeze_steps=3", "finetune.task.average=0.8", "finetune.seeds=0",
            "finetune.checkpoint_every=1", "finetune.keep_checkpoints=9")  # fmt: skip
    alone = Desk(desk, "alone")
    code, text = alone.start(*same).wait(120)
    assert code == 0, text
    both = in_two(desk, "both", *same)
    for name in (TRIAL, TRIAL.replace("pretrained", "scratch")):
        one, other = (house.stage / "trials" / name for house in (alone, both))
        for row, twin in zip(rows(one), rows(other), strict=True):
            assert twin["loss"] == pytest.approx(row["loss"], rel=1e-4)
            assert twin.get("accuracy") == row.get("accuracy")
        start, thawed, end = (weights(other, step) for step in (1, 3, 8))
        for tensor, value in weights(one, 8).items():
            torch.testing.assert_close(end[tensor], value, rtol=1e-3, atol=1e-5)
            if tensor.startswith(("encoder.", "frontend.")):
                assert torch.equal(start[tensor], thawed[tensor]), tensor
    assert [cell["scores"] for cell in result(both.stage)["chosen"]] == [
        cell["scores"] for cell in result(alone.stage)["chosen"]
    ]
