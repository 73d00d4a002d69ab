"""Proves: a run that is stopped and continued is, byte for byte, the run that was not."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from d2v.data.shards import Shards
from d2v.engine.checkpoint import load_checkpoint
from d2v.engine.loop import train
from d2v.engine.progress import Progress
from d2v.engine.signals import StopRequest, stop_requests
from d2v.engine.update import Updater
from d2v.errors import InterruptedRunError, StoppedError, UsageError
from tests.training_case import NOISY, StopAt, final_bytes, make_job, make_shards, rows, run

SETTINGS: dict[str, Any] = {"encoder": NOISY, "max_batch_per_device": 4}
"""Dropout, drop-path, and two micro-batches an update."""


@pytest.fixture(scope="module", name="shards")
def shards_fixture(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return make_shards(tmp_path_factory.mktemp("pictures"), 42)


@pytest.fixture(scope="module", name="undisturbed")
def undisturbed_fixture(shards: Shards, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    run(make_job(shards, folder, **SETTINGS))
    return folder


def stop_at(
    shards: Shards, folder: Path, step: int, number: int = signal.SIGTERM, **settings: Any
) -> None:
    job, stop = make_job(shards, folder, **{**SETTINGS, **settings}), StopRequest()
    with pytest.raises(StoppedError if number == signal.SIGTERM else InterruptedRunError):
        train(replace(job, data=StopAt(job, stop, step, number)), stop)


def assert_same_run(folder: Path, undisturbed: Path, step: int = 12) -> None:
    assert rows(folder) == rows(undisturbed)
    assert final_bytes(folder, step) == final_bytes(undisturbed, step)


def test_run__twice_is_the_same_bytes(shards: Shards, undisturbed: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)  # nothing may hang on the global generator
    run(make_job(shards, tmp_path, **SETTINGS))
    assert_same_run(tmp_path, undisturbed)


def test_run__with_another_seed_is_not(shards: Shards, undisturbed: Path, tmp_path: Path) -> None:
    run(replace(make_job(shards, tmp_path, **SETTINGS), seed=1))  # of the dropout alone
    assert rows(tmp_path)[-1]["loss"] != rows(undisturbed)[-1]["loss"]


@pytest.mark.parametrize("steps", [[1], [3], [4], [7, 8], [2, 5, 6, 11]])
def test_continued_run__is_the_undisturbed_one(
    shards: Shards, undisturbed: Path, tmp_path: Path, steps: list[int]
) -> None:
    for step in steps:
        stop_at(shards, tmp_path, step)
        assert (tmp_path / "checkpoints" / f"step-{step:09d}").is_dir()
    run(make_job(shards, tmp_path, **SETTINGS))
    assert_same_run(tmp_path, undisturbed)


def test_continued_run__may_use_another_number_of_workers(
    shards: Shards, undisturbed: Path, tmp_path: Path
) -> None:
    stop_at(shards, tmp_path, 5, num_workers=1)
    stop_at(shards, tmp_path, 9, num_workers=2)
    run(make_job(shards, tmp_path, num_workers=1, **SETTINGS))
    assert_same_run(tmp_path, undisturbed)


def test_continued_run__may_save_and_keep_other_checkpoints(
    shards: Shards, undisturbed: Path, tmp_path: Path
) -> None:
    stop_at(shards, tmp_path, 5, checkpoint_every=1)
    run(make_job(shards, tmp_path, checkpoint_every=5, keep_checkpoints=9, **SETTINGS))
    assert_same_run(tmp_path, undisturbed)


def test_signal__in_the_middle_of_an_update_is_heeded_after_it(
    shards: Shards, undisturbed: Path, tmp_path: Path
) -> None:
    def send(number: int, frame: object) -> None:
        os.kill(os.getpid(), number)

    job = make_job(shards, tmp_path, **SETTINGS)
    data = StopAt(job, send, 6, signal.SIGTERM)
    with stop_requests() as stop, pytest.raises(StoppedError, match="Stopped after step 6 of 12"):
        train(replace(job, data=data), stop)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    run(make_job(shards, tmp_path, **SETTINGS))
    assert_same_run(tmp_path, undisturbed)


def test_ctrl_c__is_told_apart_and_twice_means_at_once(shards: Shards, tmp_path: Path) -> None:
    stop_at(shards, tmp_path, 2, signal.SIGINT)
    request = StopRequest()
    request(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        request(signal.SIGINT, None)


def test_signal__during_the_last_update_lets_the_run_finish(
    shards: Shards, undisturbed: Path, tmp_path: Path
) -> None:
    job, stop = make_job(shards, tmp_path, **SETTINGS), StopRequest()
    train(replace(job, data=StopAt(job, stop, 12, signal.SIGTERM)), stop)
    assert_same_run(tmp_path, undisturbed)


def test_run__that_is_complete_already_returns_its_last_figures(
    shards: Shards, tmp_path: Path
) -> None:
    first = run(make_job(shards, tmp_path, **SETTINGS))
    again = run(make_job(shards, tmp_path, **SETTINGS))  # killed before it wrote its result
    assert again["loss"] == pytest.approx(first["loss"], rel=1e-6)
    assert len(rows(tmp_path)) == 5  # steps 1, 3, 6, 9, 12


def test_run__without_a_step_is_refused(shards: Shards, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="less than one update"):
        run(make_job(shards, tmp_path, steps="0.001 epochs"))


# What a checkpoint holds


def test_restore__brings_back_weights_and_every_optimiser_tensor(
    shards: Shards, undisturbed: Path, tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(undisturbed / "checkpoints" / "step-000000012")
    updater = Updater(make_job(shards, tmp_path, **SETTINGS))
    updater.restore(checkpoint)
    kept = updater.optimizer_tensors()
    trained = {name for name, p in updater.model.named_parameters() if p.requires_grad}
    assert {key.split("/", 1)[0] for key in kept} == {"step", "exp_avg", "exp_avg_sq"}
    assert {key.split("/", 1)[1] for key in kept} == trained
    for key, value in kept.items():
        saved = checkpoint.tensors["optimizer"][key]
        assert (value.dtype, value.shape) == (saved.dtype, saved.shape)
        assert torch.equal(value, saved)
        if key.startswith("step/"):
            assert value.item() == 12
    weights = updater.model.state_dict()
    assert all(torch.equal(weights[name], t) for name, t in checkpoint.tensors["model"].items())
    assert any(name.startswith("teacher.") for name in weights)


def test_state__is_plain_json_even_without_a_finite_loss(undisturbed: Path) -> None:
    state = (undisturbed / "checkpoints" / "step-000000012" / "state.json").read_text()
    assert json.loads(state)["progress"]["step"] == 12
    progress = Progress(step=3, best_score=0.5, strikes={"target_std": 2})
    progress.count([1.0, float("inf")], [0.5, 0.25], 1)
    text = json.dumps(progress.as_json(), allow_nan=False)
    back = Progress.of(json.loads(text))
    assert (back.step, back.best_score, back.strikes) == (3, 0.5, {"target_std": 2})
    assert back.loss_since_log != back.loss_since_log
    assert back.gradient_norm_since_log == 0.75
