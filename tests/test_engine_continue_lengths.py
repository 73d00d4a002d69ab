"""Proves: trainings on recordings and texts, stopped and continued, are those nobody stopped.

With batches by length, padded or cropped, layerdrop, dropout, and the paper's masks of texts; of
data2vec 2.0, those on pictures, too.
"""

import signal
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from d2v.data.shards import Shards
from d2v.engine.loop import train
from d2v.engine.signals import StopRequest
from d2v.errors import StoppedError
from tests.ragged_case import PRETRAIN, TRAININGS, Training
from tests.training_case import StopAt, final_bytes, rows, run

STEPS = int(PRETRAIN["steps"])  # type: ignore[call-overload]  # of mixed values
Undisturbed = Callable[[str], tuple[Shards, Path]]


@pytest.fixture(scope="module", name="undisturbed")
def undisturbed_fixture(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Training -> its shards, and a run that nobody stopped."""

    @lru_cache
    def made(name: str) -> tuple[Shards, Path]:
        shards = TRAININGS[name].shards(tmp_path_factory.mktemp(name))
        folder = tmp_path_factory.mktemp(f"{name}-undisturbed")
        run(TRAININGS[name].job(shards, folder))
        return shards, folder

    return made


def stop_at(
    training: Training, shards: Shards, folder: Path, step: int, num_workers: int = 0
) -> None:
    job, stop = training.job(shards, folder, num_workers=num_workers), StopRequest()
    with pytest.raises(StoppedError):
        train(replace(job, data=StopAt(job, stop, step, signal.SIGTERM)), stop)


def assert_same_run(folder: Path, undisturbed: Path) -> None:
    assert rows(folder) == rows(undisturbed)
    assert final_bytes(folder, STEPS) == final_bytes(undisturbed, STEPS)


@pytest.fixture(params=TRAININGS, name="name")
def name_fixture(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_run__has_batches_of_several_sizes_and_every_random_part(
    undisturbed: Undisturbed, tmp_path: Path, name: str
) -> None:
    shards, folder = undisturbed(name)
    job = TRAININGS[name].job(shards, tmp_path)
    batches = job.data.iterate(0)
    read = [next(batches)[0] for _ in range(STEPS * job.cut.accumulation)]
    assert job.cut.accumulation > 1
    assert job.horizon.steps_per_epoch < STEPS
    ragged = not name.startswith("vision")
    assert (len({len(batch) for batch in read}) > 1) == ragged
    assert (len({batch.inputs.shape[1] for batch in read}) > 1) == ragged
    padded = ragged and not name.endswith("crop")
    assert any(batch.padding is not None for batch in read) == padded
    assert len({row["loss"] for row in rows(folder)}) == STEPS
    run(replace(job, seed=1))  # of the dropout alone
    assert rows(tmp_path)[-1]["loss"] != rows(folder)[-1]["loss"]


def test_run__stopped_at_every_step_is_the_undisturbed_one(
    undisturbed: Undisturbed, tmp_path: Path, name: str
) -> None:
    shards, folder = undisturbed(name)
    for step in range(1, STEPS):
        torch.manual_seed(step)  # nothing may hang on the global generator
        stop_at(TRAININGS[name], shards, tmp_path, step)
        assert (tmp_path / "checkpoints" / f"step-{step:09d}").is_dir()
    run(TRAININGS[name].job(shards, tmp_path))
    assert_same_run(tmp_path, folder)


def test_run__continued_with_other_numbers_of_workers_is_the_undisturbed_one(
    undisturbed: Undisturbed, tmp_path: Path, name: str
) -> None:
    shards, folder = undisturbed(name)
    stop_at(TRAININGS[name], shards, tmp_path, 3, num_workers=2)
    stop_at(TRAININGS[name], shards, tmp_path, 4, num_workers=0)
    run(TRAININGS[name].job(shards, tmp_path, num_workers=2))
    assert_same_run(tmp_path, folder)
