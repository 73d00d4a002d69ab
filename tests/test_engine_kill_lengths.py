"""Proves: pre-training on recordings or texts, killed again and again, ends with the same bytes."""

import random
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from tests.process_case import Brake, Started, after_steps, last_step
from tests.ragged_case import TRAININGS
from tests.training_case import final_bytes, rows

STEPS = 24
KILLS = 3
BRAKE = partial(after_steps, 6)
"""Steps that a start may get on: three are not enough to be done, however fast the machine."""


@pytest.mark.parametrize(
    ("name", "workers"), [("speech-convolution-pad", 0), ("speech-logmel-crop", 2), ("text", 1)]
)
def test_killed_command__ends_with_the_same_bytes(tmp_path: Path, name: str, workers: int) -> None:
    training = TRAININGS[name]
    shards = training.shards(tmp_path / "data")
    recipe = training.write_recipe(tmp_path, shards, steps=STEPS)

    def start(out: str, attempt: int, brake: Brake | None = None) -> Started:
        line = ["pretrain", str(recipe), "--out", str(tmp_path / out), f"data.workers={workers}"]
        return Started(line, tmp_path / f"{out}-{attempt}", brake=brake)

    undisturbed, draws = start("undisturbed", 0), random.Random(name)
    stage, killed_at = tmp_path / "killed" / "tiny" / "pretrain", [0]
    for attempt in range(KILLS):
        started = start("killed", attempt, BRAKE)
        if attempt % 2 == 0:  # the others are killed while they start
            started.wait_for_step(stage, killed_at[-1] + 1)
        time.sleep(draws.uniform(0, 0.2))
        started.send(signal.SIGKILL)
        assert started.wait()[0] == -signal.SIGKILL
        killed_at.append(last_step(stage))
    assert 0 < max(killed_at) < STEPS, killed_at
    for last in (undisturbed, start("killed", KILLS)):
        code, text = last.wait()
        assert code == 0, text
    whole = tmp_path / "undisturbed" / "tiny" / "pretrain"
    assert final_bytes(stage, STEPS) == final_bytes(whole, STEPS)
    assert [row["step"] for row in rows(stage)] == list(range(1, STEPS + 1))
    assert rows(stage) == rows(whole)
