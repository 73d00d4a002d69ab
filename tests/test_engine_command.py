"""Proves: the pretrain command keeps its promises to a person: exit codes, going on, refusing."""

import json
import os
import signal
from pathlib import Path

import pytest

from d2v.data.shards import Shards
from tests.process_case import Started
from tests.training_case import make_shards, rows, write_recipe


@pytest.fixture(scope="module", name="shards")
def shards_fixture(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return make_shards(tmp_path_factory.mktemp("pictures"), 42)


class House:
    """A recipe and a place for its runs."""

    def __init__(self, folder: Path, shards: Shards) -> None:
        self.folder, self.stage = folder, folder / "runs" / "tiny" / "pretrain"
        self.recipe, self.starts = write_recipe(folder, shards), 0

    def start(self, *arguments: str, **environment: str) -> Started:
        self.starts += 1
        line = ["pretrain", str(self.recipe), "--out", str(self.folder / "runs"), *arguments]
        return Started(line, self.folder / f"output-{self.starts}", environment=environment)

    def run(self, *arguments: str) -> tuple[int | None, str]:
        return self.start(*arguments).wait()


@pytest.fixture(name="house")
def house_fixture(tmp_path: Path, shards: Shards) -> House:
    return House(tmp_path, shards)


def test_finished_run__left_everything_and_is_not_repeated(house: House) -> None:
    code, text = house.run()
    assert (code, "Pre-trained" in text) == (0, True)
    for name in ("config.yaml", "environment.json", "metrics.jsonl", "result.json"):
        assert (house.stage / name).stat().st_size > 100
    for name in ("curves.png", "masks.png"):
        assert (house.stage / "plots" / name).read_bytes()[:4] == b"\x89PNG"
    assert list((house.stage / "tensorboard").glob("events.out.tfevents.*"))
    result = json.loads((house.stage / "result.json").read_text())
    assert (result["steps"], result["checkpoint"]) == (12, "step-000000012")
    before = (house.stage / "result.json").stat().st_mtime_ns
    code, text = house.run()
    assert code == 0
    assert "already finished; nothing was done" in text
    assert (house.stage / "result.json").stat().st_mtime_ns == before
    code, text = house.run("--fresh")
    assert (code, "nothing was done" in text) == (0, False)
    assert (house.stage / "result.json").stat().st_mtime_ns != before
    assert (
        json.loads((house.stage / "result.json").read_text())["checkpoint_digest"]
        == (result["checkpoint_digest"])
    )


@pytest.mark.parametrize(
    ("number", "code", "workers", "whole_group"),
    [(signal.SIGTERM, 75, 1, True), (signal.SIGINT, 130, 0, False)],
)
def test_signal__leaves_a_checkpoint_and_the_same_command_continues(
    house: House, number: int, code: int, workers: int, whole_group: bool
) -> None:
    arguments = ("pretrain.steps=80", "pretrain.log_every=1", "data.workers=" + str(workers))
    started = house.start(*arguments)
    started.wait_for_step(house.stage, 10)
    assert started.process.pid is not None
    if whole_group:
        os.killpg(started.process.pid, number)  # as a terminal, `timeout` and Slurm do
    else:
        started.send(number)
    ended, text = started.wait()
    assert ended == code, text
    step = int(json.loads((house.stage / "checkpoints" / "latest.json").read_text())["step"])
    assert f"Stopped: Stopped after step {step} of 80" in text
    assert "the same command continues" in text
    assert "Traceback" not in text
    assert house.run(*arguments)[0] == 0
    assert [row["step"] for row in rows(house.stage)] == list(range(1, 81))


def test_second_process__on_the_same_run_is_refused(house: House) -> None:
    first = house.start("pretrain.steps=5000", "pretrain.log_every=1")
    first.wait_for_step(house.stage, 1)
    code, text = house.run("pretrain.steps=5000")
    assert (code, "Another process is using" in text) == (2, True)
    first.send(signal.SIGKILL)
    assert first.wait()[0] == -signal.SIGKILL


def test_killed_run__can_be_continued_at_once_although_its_worker_lingers(house: House) -> None:
    arguments = ("pretrain.steps=60", "pretrain.log_every=1", "data.workers=1")
    first = house.start(*arguments)
    first.wait_for_step(house.stage, 5)
    first.send(signal.SIGKILL)
    first.wait()
    code, text = house.run(*arguments)
    assert code == 0, text


def test_changed_setting__is_refused_with_both_values_unless_fresh_or_free(house: House) -> None:
    assert house.run()[0] == 0
    code, text = house.run("objective.beta=1", "pretrain.optimizer.betas=[0.8,0.9]")
    assert code == 2
    assert "was started with objective.beta 2.0, now it is 1.0" in text
    assert "pretrain.optimizer.betas [0.9, 0.999], now it is [0.8, 0.9]" in text
    assert "--fresh" in text
    code, text = house.run("pretrain.log_every=2", "data.workers=1", "pretrain.checkpoint_every=1",
                           "pretrain.guards.action=warn", "data.max_bad_fraction=0.5")  # fmt: skip
    assert (code, "nothing was done" in text) == (0, True)
    assert house.run("objective.beta=1", "--fresh")[0] == 0


def test_setting_that_came_with_a_newer_d2v__does_not_stop_a_run_begun_before(house: House) -> None:
    """As it was without it where it has its default; another value is another run."""
    assert house.run()[0] == 0
    path = house.stage / "started.json"
    started = json.loads(path.read_text())
    without = {
        kind: {key: value for key, value in said.items() if key != "modality.frontend.patch_init"}
        for kind, said in started.items()
    }
    assert without != started
    path.write_text(json.dumps(without))
    code, text = house.run()
    assert (code, "nothing was done" in text) == (0, True), text
    code, text = house.run("modality.frontend.patch_init=xavier")
    assert (code, "patch_init 'encoder', now it is 'xavier'" in text) == (2, True), text
    del without["settings"]["encoder.dim"]
    path.write_text(json.dumps(without))
    code, text = house.run()
    assert (code, "encoder.dim 768, now it is" in text) == (2, True), text


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        (["pretrain.batch_size=43"], {}, "42 training samples, and one batch takes 43"),
        (["pretrain.steps='0.01 epochs'"], {}, "less than one update"),
        (["device=cuda"], {"CUDA_VISIBLE_DEVICES": ""}, "no usable GPU"),
    ],
)
def test_mistake__ends_with_code_2_and_does_not_bind_the_next_try(
    house: House, arguments: list[str], environment: dict[str, str], expected: str
) -> None:
    code, text = house.start(*arguments, **environment).wait()
    assert (code, expected in text) == (2, True), text
    assert "Traceback" not in text
    assert not house.stage.exists()
    assert house.run()[0] == 0


def test_guard__stops_the_command_with_code_3_its_workers_and_curves(house: House) -> None:
    arguments = ("pretrain.optimizer.learning_rate=1e30", "pretrain.guards.action=stop",
                 "pretrain.optimizer.schedule.warmup=0", "data.workers=2")  # fmt: skip
    code, text = house.run(*arguments)
    assert code == 3, text
    assert text.count("Error:") == 1
    assert "Traceback" not in text
    assert (house.stage / "plots" / "curves.png").exists()


def test_bad_sample__is_skipped_and_reported(tmp_path: Path) -> None:
    house = House(tmp_path, make_shards(tmp_path / "pictures", 42, bad={5}))
    code, text = house.run("data.max_bad_fraction=0.03")
    assert code == 0
    assert "an unusable sample was skipped" in text
    told = (house.stage / "bad_samples.txt").read_text().splitlines()
    assert len(told) == 1
    assert "(5.png) cannot be used" in told[0]
    assert rows(house.stage)[-1]["bad_samples"] in (1, 2, 3)  # at most once an epoch
    code, text = house.run("data.max_bad_fraction=0", "--fresh")
    assert (code, "1 of 42 samples" in text) == (1, True)
