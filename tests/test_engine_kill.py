"""Proves: kill -9 at any moment, also inside a checkpoint write, costs time and nothing else."""

import os
import random
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from d2v.data.shards import Shards
from d2v.engine import checkpoint as module
from d2v.engine.checkpoint import load_latest
from tests.process_case import Brake, Started, after_steps, last_step, server
from tests.training_case import (
    NOISY,
    final_bytes,
    make_job,
    make_shards,
    rows,
    run,
    write_recipe,
)

STEPS = 160
BRAKE = partial(after_steps, 15)
"""Steps that a start may get on: ten are not enough to be done, however fast the machine."""
SETTINGS: dict[str, Any] = {"encoder": NOISY, "checkpoint_every": 2, "steps": 6, "log_every": 1}


@pytest.fixture(scope="module", name="shards")
def shards_fixture(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return make_shards(tmp_path_factory.mktemp("pictures"), 42)


# At ten random moments of the real command


def test_killed_ten_times__the_command_ends_with_the_same_bytes(
    shards: Shards, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, shards, steps=STEPS, log_every=1, checkpoint_every=5,
                          max_batch_per_device=4)  # fmt: skip

    def start(out: str, attempt: int, brake: Brake | None = None) -> Started:
        arguments = ["pretrain", str(recipe), "--out", str(tmp_path / out), "data.workers=1",
                     "encoder.dropout=0.1", "encoder.drop_path=0.2"]  # fmt: skip
        return Started(arguments, tmp_path / f"{out}-{attempt}", brake=brake)

    assert start("undisturbed", 0).wait()[0] == 0
    stage, draws = tmp_path / "killed" / "tiny" / "pretrain", random.Random(5)
    killed_at: list[int] = []
    for attempt in range(10):
        started = start("killed", attempt, BRAKE)
        if attempt % 3:  # most starts get somewhere, others die while they start
            started.wait_for_step(stage, max(killed_at, default=0) + 1)
            time.sleep(draws.uniform(0, 0.1))
        else:
            time.sleep(draws.uniform(0, 1))
        started.send(signal.SIGKILL)
        assert started.wait()[0] == -signal.SIGKILL
        killed_at.append(last_step(stage))
    assert start("killed", 10).wait()[0] == 0
    undisturbed = tmp_path / "undisturbed" / "tiny" / "pretrain"
    assert len({step for step in killed_at if 0 < step < STEPS}) >= 5, killed_at
    assert final_bytes(stage, STEPS) == final_bytes(undisturbed, STEPS)
    assert [row["step"] for row in rows(stage)] == list(range(1, STEPS + 1))
    assert rows(stage) == rows(undisturbed)


# At every moment of a checkpoint write


CALLS = ("write_durably", "sync_folder", "replace_durably", "_remove")
"""Where a write can be cut: before each."""


def killed_inside(shards: Shards, folder: Path, moment: int) -> None:
    """Train, and be killed at the `moment`-th boundary between the parts of checkpoint writes."""
    passed = iter(range(10_000))

    def tick() -> None:
        if next(passed) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    for name in CALLS:
        original = getattr(module, name)

        def cut(*given: object, original: object = original) -> object:
            tick()
            return original(*given)  # type: ignore[operator]  # one of CALLS

        setattr(module, name, cut)
    run(make_job(shards, folder, **SETTINGS))


def test_killed_inside_a_checkpoint_write__the_earlier_one_is_used(
    shards: Shards, tmp_path: Path
) -> None:
    undisturbed = tmp_path / "undisturbed"
    reference = server().Process(target=killed_inside, args=(shards, undisturbed, -1))
    reference.start()
    reference.join()
    assert reference.exitcode == 0
    found = []
    for moment in range(7, 25):  # the second write and the third, with its deletions
        folder = tmp_path / str(moment)
        process = server().Process(target=killed_inside, args=(shards, folder, moment))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, f"there is no moment {moment}"
        checkpoint, messages = load_latest(folder / "checkpoints")
        assert checkpoint is not None
        assert messages == []
        found.append(checkpoint.step)
        if moment % 3 == 0:
            run(make_job(shards, folder, **SETTINGS))
            assert final_bytes(folder, 6) == final_bytes(undisturbed, 6)
            assert rows(folder) == rows(undisturbed)
            left = {path.name for path in (folder / "checkpoints").iterdir()}
            if checkpoint.step < 6:  # else there was nothing left to do
                assert left == {"latest.json", "step-000000004", "step-000000006"}
    assert found == sorted(found)
    assert set(found) == {2, 4, 6}
