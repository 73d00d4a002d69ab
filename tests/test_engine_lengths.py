"""Proves: a training whose micro-batches differ in size is exact, continues, and begins once."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from d2v.commands import pretrain
from d2v.commands.options import Options
from d2v.commands.training import calibration_batches
from d2v.config import load_recipe
from d2v.data.shards import Shards
from d2v.data2vec import Data2Vec
from d2v.engine.job import Job
from d2v.engine.loop import train
from d2v.engine.signals import StopRequest
from d2v.engine.update import BAD, Updater
from d2v.errors import D2VError, StoppedError
from d2v.modalities.vision.frontend import VisionFrontend
from d2v.recipe import Recipe
from tests.training_case import (
    NOISY,
    StopAt,
    final_bytes,
    make_job,
    make_shards,
    modality,
    rows,
    run,
    write_recipe,
)

MEASURED: dict[str, Any] = {"batch_size": None, "batch_length": 60, "log_every": 1}
"""Pictures of length 3 to 12: batches of 5 to 17 of them."""


def length(number: int) -> int:
    return 3 + number % 10


@pytest.fixture(scope="module", name="shards")
def shards_fixture(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return make_shards(tmp_path_factory.mktemp("pictures"), 90, length=length)


def test_update__is_the_same_however_its_batch_is_cut(shards: Shards, tmp_path: Path) -> None:
    run(make_job(shards, tmp_path / "whole", **MEASURED))
    job = make_job(shards, tmp_path / "cut", max_length_per_device=25, **MEASURED)
    assert job.cut.accumulation == 3
    run(job)
    for whole, cut in zip(rows(tmp_path / "whole"), rows(tmp_path / "cut"), strict=True):
        assert whole["loss"] == pytest.approx(cut["loss"], abs=1e-5)
        assert whole["gradient_norm"] == pytest.approx(cut["gradient_norm"], rel=1e-3)
    losses = [row["loss"] for row in rows(tmp_path / "whole")]
    assert len(set(losses)) == 12


@pytest.mark.parametrize("steps", [[4], [1, 8, 11]])
def test_continued_run__by_length_is_the_undisturbed_one(
    shards: Shards, tmp_path: Path, steps: list[int]
) -> None:
    settings = {"encoder": NOISY, "max_length_per_device": 25, **MEASURED}
    run(make_job(shards, tmp_path / "undisturbed", **settings))
    for step in steps:
        job, stop = make_job(shards, tmp_path / "stopped", **settings), StopRequest()
        with pytest.raises(StoppedError):
            train(replace(job, data=StopAt(job, stop, step, signal.SIGTERM)), stop)
    run(make_job(shards, tmp_path / "stopped", num_workers=1, **settings))
    assert rows(tmp_path / "stopped") == rows(tmp_path / "undisturbed")
    assert final_bytes(tmp_path / "stopped", 12) == final_bytes(tmp_path / "undisturbed", 12)


def test_bad_samples__are_counted_where_micro_batches_differ(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "pictures", 90, bad={7, 30, 61}, length=length)
    job = make_job(shards, tmp_path / "run", max_length_per_device=25, **MEASURED)
    vars(job.data)["max_bad"] = 3
    updater, steps = Updater(job), round(job.horizon.steps_per_epoch)
    batches = job.data.iterate(0)
    for step in range(steps):
        updater.update(step, batches, monitor=False, stopping=False)
    bad = vars(job.data)["bad"]
    assert sum(row[BAD].item() for row in updater.rows) == len(bad) > 1


def test_cut__tells_the_mean_of_what_is_read(shards: Shards, tmp_path: Path) -> None:
    job = make_job(shards, tmp_path, max_length_per_device=25, **MEASURED)
    samples = job.cut.micro * job.cut.accumulation
    taken = [len(batch) for batch, _ in _first_epoch(job)]
    assert samples == pytest.approx(sum(taken) / job.horizon.steps_per_epoch)
    assert len(set(taken)) > 2


def _first_epoch(job: Job) -> Any:
    batches = job.data.iterate(0)
    count = round(job.horizon.steps_per_epoch) * job.cut.accumulation
    return [next(batches) for _ in range(count)]


# Before the first update


def begun(job: Job, calls: list[Job]) -> Job:
    """The job with a beginning that is noted and changes what the training starts from."""

    def begin() -> None:
        calls.append(job)
        assert isinstance(job.objective, Data2Vec)
        with torch.no_grad():
            for parameter in job.objective.encoder.parameters():
                parameter.mul_(1.5)

    return replace(job, begin=begin)


def test_begin__is_called_once_before_the_first_update(shards: Shards, tmp_path: Path) -> None:
    calls: list[Job] = []
    run(make_job(shards, tmp_path / "plain"))
    run(begun(make_job(shards, tmp_path / "whole"), calls))
    assert len(calls) == 1
    assert rows(tmp_path / "whole")[0]["loss"] != rows(tmp_path / "plain")[0]["loss"]
    job, stop = begun(make_job(shards, tmp_path / "stopped"), calls), StopRequest()
    with pytest.raises(StoppedError):
        train(replace(job, data=StopAt(job, stop, 5, signal.SIGTERM)), stop)
    assert len(calls) == 2
    run(begun(make_job(shards, tmp_path / "stopped"), calls))
    assert len(calls) == 2, "a run that goes on has begun already"
    assert final_bytes(tmp_path / "stopped", 12) == final_bytes(tmp_path / "whole", 12)


def recipe_of(folder: Path, shards: Shards, **pretrain: Any) -> Recipe:
    return load_recipe(str(write_recipe(folder, shards, **pretrain)), [], Recipe).settings


def test_calibration__reads_nothing_before_it_is_asked_for(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "pictures", 40)
    for path in shards.folder.glob("*.tar"):
        path.unlink()
    batches = calibration_batches(recipe_of(tmp_path, shards), shards)
    with pytest.raises(D2VError, match="cannot be read"):
        next(batches)


def test_calibration__reads_up_to_a_thousand_samples_over_the_whole_split(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "pictures", 1103)
    seen: list[int] = []
    for batch in calibration_batches(recipe_of(tmp_path, shards), shards):
        assert batch.samples is not None
        if not seen:
            assert torch.equal(batch.inputs[0], modality().decode(shards.read(0), None))
        seen += batch.samples.tolist()
    assert len(seen) == len(set(seen)) == 1000
    assert (seen[0], seen[-1]) == (0, 1102)
    steps = {after - before for before, after in zip(seen[:-1], seen[1:], strict=True)}
    assert steps == {1, 2}


def test_pretrain__takes_calibrated_figures_into_student_and_teacher(
    shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a frontend that has figures to take."""
    models: list[Data2Vec] = []

    def calibrate(self: VisionFrontend, batches: Any) -> None:
        total = sum(batch.inputs.double().sum() for batch in batches)
        assert self.positions is not None
        with torch.no_grad():
            self.positions.fill_(float(total) / 1e6)

    def look(job: Job, stop: StopRequest) -> dict[str, float]:
        assert isinstance(job.objective, Data2Vec)
        if job.begin is not None:
            job.begin()
        models.append(job.objective)
        raise StoppedError("seen enough")

    monkeypatch.setattr(VisionFrontend, "calibrate", calibrate)
    monkeypatch.setattr(pretrain, "train", look)
    path = str(write_recipe(tmp_path, shards))
    loaded = load_recipe(path, ["objective.teacher_averages=all"], Recipe)
    with pytest.raises(StoppedError):
        pretrain.run(loaded, Options(out=tmp_path / "runs", verbosity=-1))
    expected = sum(
        float(modality().decode(shards.read(n), None).double().sum()) for n in range(len(shards))
    )
    model = models[0]
    for frontend in (model.frontend, model.teacher["frontend"]):
        found = frontend.get_parameter("positions").detach()
        assert torch.allclose(found, torch.full_like(found, expected / 1e6))
