"""Proves: what a run writes while it trains can be read at any moment and is true."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing import (  # type: ignore[import-untyped]  # has none
    event_accumulator,
)

from d2v.data.shards import Shards
from d2v.engine.job import Job
from d2v.engine.plots import plot_curves
from d2v.engine.run_directory import opened
from d2v.engine.tracking import Tracker, read_metrics
from d2v.errors import UsageError
from d2v.types import Batch, Mask
from tests.training_case import make_job, make_shards, rows, run


@pytest.fixture(scope="module", name="shards")
def shards_fixture(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return make_shards(tmp_path_factory.mktemp("pictures"), 42)


def tracker(folder: Path, start_step: int = 0, verbosity: int = -1) -> Tracker:
    return Tracker(folder, "pretrain", total_steps=100, start_step=start_step, verbosity=verbosity)


def log(folder: Path, steps: range) -> None:
    with tracker(folder, steps.start - 1) as open_tracker:
        for step in steps:
            open_tracker.log(step, {"loss": 1 / step})


# metrics.jsonl


@pytest.mark.parametrize("torn", ['{"step": 4, "lo', "{", '{"step": 4, "loss": 0.25', "\0\0\0"])
def test_metrics__torn_last_line_is_left_out_and_written_over(tmp_path: Path, torn: str) -> None:
    log(tmp_path, range(1, 4))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3]
    log(tmp_path, range(4, 6))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5]


def test_metrics__steps_after_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    log(tmp_path, range(1, 8))
    log(tmp_path, range(4, 6))
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4, 5]
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "tensorboard"}


def test_metrics__are_json_whatever_the_figures(tmp_path: Path) -> None:
    with tracker(tmp_path) as open_tracker:
        open_tracker.log(1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.123456789})
    text = (tmp_path / "metrics.jsonl").read_text()
    row = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert row == {"step": 1, "a": None, "b": None, "c": None, "d": 0.1234568}


def test_loss__is_the_mean_since_the_last_logged_step(shards: Shards, tmp_path: Path) -> None:
    run(make_job(shards, tmp_path / "each", log_every=1))
    run(make_job(shards, tmp_path / "some", log_every=5, checkpoint_every=2))
    each = [row["loss"] for row in rows(tmp_path / "each")]
    some = {row["step"]: row["loss"] for row in rows(tmp_path / "some")}
    assert list(some) == [1, 5, 10, 12]
    for first, last in ((0, 1), (1, 5), (5, 10), (10, 12)):
        assert some[last] == pytest.approx(sum(each[first:last]) / (last - first), rel=1e-5)


class Slow:
    """Micro-batches that come late."""

    def __init__(self, job: Job, seconds: float) -> None:
        self.job, self.seconds = job, seconds

    def iterate(self, start_step: int) -> Iterator[tuple[Batch, Mask | None]]:
        for pair in self.job.data.iterate(start_step):
            time.sleep(self.seconds)
            yield pair


def test_waiting_for_data__is_logged_as_a_share_of_the_time(shards: Shards, tmp_path: Path) -> None:
    job = make_job(shards, tmp_path, log_every=12)
    run(replace(job, data=Slow(job, 0.2)))
    last = read_metrics(tmp_path)[-1]
    assert 0.6 < last["data_wait_share"] <= 1
    assert 8 < last["samples_per_second"] < 40  # at most 8 / 0.2
    timed = [row["seconds"] for row in read_metrics(tmp_path)]
    assert len(timed) == 2
    assert sum(timed) >= 12 * 0.2


# TensorBoard, plots, the terminal


def test_tensorboard__has_every_logged_figure(shards: Shards, tmp_path: Path) -> None:
    run(make_job(shards, tmp_path))
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    logged = rows(tmp_path)
    for name in ("loss", "tau", "learning_rate", "target_spread"):
        points = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in points] == [row["step"] for row in logged]
        for (_, value), row in zip(points, logged, strict=True):
            assert value == pytest.approx(row[name], rel=1e-5)


def test_tensorboard__has_what_was_logged_before_a_checkpoint_even_after_a_kill(
    tmp_path: Path,
) -> None:
    open_tracker = tracker(tmp_path)
    open_tracker.log(1, {"loss": 0.5})
    open_tracker.flush()
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1]
    open_tracker.__exit__(None, None, None)


@pytest.mark.parametrize(
    "drawn", [[{"step": 1, "loss": 0.5}], [{"step": n, "loss": None, "knn": 0.1} for n in (1, 2)]]
)
def test_curves__are_drawn_from_few_and_missing_figures(
    tmp_path: Path, drawn: list[dict[str, float]]
) -> None:
    plot_curves(drawn, tmp_path / "curves.png", "title")
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_curves__of_nothing_are_not_drawn(tmp_path: Path) -> None:
    plot_curves([{"step": 1}], tmp_path / "curves.png", "title")
    assert not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize(("verbosity", "lines"), [(-1, 0), (0, 20), (1, 100)])
def test_pipe__gets_as_many_lines_as_were_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verbosity: int, lines: int
) -> None:
    with tracker(tmp_path, verbosity=verbosity) as open_tracker:
        for step in range(1, 101):
            open_tracker.log(step, {"loss": 0.5})
        open_tracker.say("[a warning]")
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "[a warning]"  # quiet or not, and not taken for markup
    assert abs(len(said) - 1 - lines) <= 1


# The run directory


def test_result__is_json_whatever_the_figures(tmp_path: Path) -> None:
    with opened(tmp_path / "stage", fresh=False) as stage:
        stage.finish({"figures": {"loss": math.nan, "all": [1.0, math.inf]}, "path": Path("x")})
        assert stage.result() == {"figures": {"loss": None, "all": [1.0, None]}, "path": "x"}


def test_owner__is_one_at_a_time_and_fresh_empties_the_folder(tmp_path: Path) -> None:
    with opened(tmp_path / "stage", fresh=False) as stage:
        stage.finish({})
        with pytest.raises(UsageError, match="Another process is using"):
            opened(tmp_path / "stage", fresh=True).__enter__()
        assert stage.result() == {}
    with opened(tmp_path / "stage", fresh=True) as stage:
        assert stage.result() is None
        assert list(stage.path.iterdir()) == []
