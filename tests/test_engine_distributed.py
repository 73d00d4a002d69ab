"""Proves: two processes do what one does, stop together, and fail with one message."""

import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator

from d2v.data.shards import Shards
from d2v.engine.checkpoint import load_checkpoint
from d2v.engine.distributed import World, joined
from d2v.engine.loop import train
from d2v.engine.signals import StopRequest
from d2v.errors import D2VError
from d2v.modalities.vision.modality import Vision
from d2v.types import Batch, Mask
from tests.process_case import server
from tests.training_case import VISION, StopAt, make_job, make_shards, rows, run


@pytest.fixture(scope="module", name="shards")
def shards_fixture(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return make_shards(tmp_path_factory.mktemp("pictures"), 42)


class Uneven(Vision):
    """Masks of 1 to 8 patches: a mean over devices of means would be another number."""

    def sample_mask(self, batch: Batch, generators: Sequence[Generator]) -> Mask:
        whole = super().sample_mask(batch, generators).predict
        for row, generator in zip(whole, generators, strict=True):
            kept = row.nonzero()[: int(torch.randint(1, 9, (), generator=generator))]
            row.zero_()
            row[kept] = True
        return Mask.of(whole)


class Recorded:
    """Micro-batches, and which samples they held, on file."""

    def __init__(self, data: Any, path: Path) -> None:
        self.data, self.path = data, path

    def iterate(self, start_step: int) -> Iterator[tuple[Batch, Mask | None]]:
        for batch, mask in self.data.iterate(start_step):
            assert batch.samples is not None
            with self.path.open("a") as file:
                file.write(json.dumps(batch.samples.tolist()) + "\n")
            yield batch, mask


Work = Callable[[World, Shards, Path, dict[str, Any]], None]


def rank_of_two(work: Work, rank: int, port: int, shards: Shards, folder: Path,
                settings: dict[str, Any]) -> None:  # fmt: skip
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    error = folder / f"error-{rank}"
    try:
        with joined(rank=rank, size=2, local_rank=rank, device="cpu") as world:
            work(world, shards, folder, settings)
    except D2VError as problem:
        error.write_text(str(problem))
        raise SystemExit(problem.exit_code) from None


def in_two(work: Work, shards: Shards, folder: Path, **settings: Any) -> list[int | None]:
    """The exit codes of both ranks."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [
        server().Process(target=rank_of_two, args=(work, rank, port, shards, folder, settings))
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
        process.kill()
    return [process.exitcode for process in ranks]


def plain(world: World, shards: Shards, folder: Path, settings: dict[str, Any]) -> None:
    own = folder if world.writes else folder / "elsewhere"  # rank 1 must not write
    run(make_job(shards, own, world=world, reader=Uneven(VISION), **settings))


TWENTY: dict[str, Any] = {"steps": 20, "log_every": 1, "checkpoint_every": 5}


MANY_MASKS = {
    "name": "data2vec2", "masks_per_sample": 3, "prefix_weight": 2.56,
    "decoder": {"layers": 2, "groups": 4, "noise_std": 0.0},
}  # fmt: skip
"""Without noise, which is another on each process."""


@pytest.mark.parametrize(
    ("limit", "objective"),
    [(None, {}), (2, {}), (None, {"target_norm": "batch"}), (None, MANY_MASKS), (2, MANY_MASKS)],
)
def test_two_processes__have_the_losses_of_one(
    shards: Shards, tmp_path: Path, limit: int | None, objective: dict[str, Any]
) -> None:
    settings = TWENTY | {"objective": objective}
    pieces = {"max_batch_per_device": limit}
    assert in_two(plain, shards, tmp_path / "two", **settings, **pieces) == [0, 0]
    run(make_job(shards, tmp_path / "one", reader=Uneven(VISION), **settings))
    two, one = rows(tmp_path / "two"), rows(tmp_path / "one")
    assert [row["step"] for row in two] == list(range(1, 21))
    for name in ("loss", "gradient_norm"):
        difference = max(abs(a[name] - b[name]) for a, b in zip(two, one, strict=True))
        assert difference < 1e-5
    assert one[0]["loss"] - one[-1]["loss"] > 0.01, "nothing was learned: the test proves nothing"
    assert list((tmp_path / "two" / "elsewhere").iterdir()) == []


def test_two_processes__share_batches_of_one_length_unevenly(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "pictures", 90, length=lambda number: 3 + number % 10)
    settings = TWENTY | {"batch_size": None, "batch_length": 60, "max_length_per_device": 25}
    assert in_two(plain, shards, tmp_path / "two", **settings) == [0, 0]
    whole = settings | {"max_length_per_device": None}
    run(make_job(shards, tmp_path / "one", reader=Uneven(VISION), **whole))
    for a, b in zip(rows(tmp_path / "two"), rows(tmp_path / "one"), strict=True):
        assert abs(a["loss"] - b["loss"]) < 1e-5
        assert abs(a["gradient_norm"] - b["gradient_norm"]) < 1e-5


def skipping(world: World, shards: Shards, folder: Path, settings: dict[str, Any]) -> None:
    job = make_job(shards, folder / str(world.rank), world=world, **settings)
    run(job)
    weights = torch.cat([p.detach().flatten() for p in job.objective.parameters()])
    (folder / f"weights-{world.rank}").write_text(weights.numpy().tobytes().hex())


@pytest.mark.parametrize("limit", [None, 2])
def test_layerdrop__of_different_blocks_keeps_the_processes_equal(
    shards: Shards, tmp_path: Path, limit: int | None
) -> None:
    settings = TWENTY | {"encoder": {"layerdrop": 0.5}, "max_batch_per_device": limit}
    assert in_two(skipping, shards, tmp_path, **settings) == [0, 0]
    assert (tmp_path / "weights-0").read_text() == (tmp_path / "weights-1").read_text()


def stopping(world: World, shards: Shards, folder: Path, settings: dict[str, Any]) -> None:
    """Rank 1 alone is asked to stop, in update 7."""
    job, stop = make_job(shards, folder, world=world, **settings), StopRequest()
    if not world.writes:
        job = replace(job, data=StopAt(job, stop, 7, 15))
    train(replace(job, data=Recorded(job.data, folder / f"seen-{world.rank}")), stop)


def test_stopped_in_two__and_continued_in_one_sees_the_samples_that_were_left(
    shards: Shards, tmp_path: Path
) -> None:
    folder = tmp_path / "two"
    assert in_two(stopping, shards, folder, **TWENTY) == [75, 75]
    job = make_job(shards, folder, **TWENTY)
    run(replace(job, data=Recorded(job.data, folder / "seen-later")))
    whole = make_job(shards, tmp_path / "one", **TWENTY)
    run(replace(whole, data=Recorded(whole.data, tmp_path / "seen-whole")))

    def seen(path: Path) -> list[list[int]]:
        return [json.loads(line) for line in path.read_text().splitlines()]

    first, second = seen(folder / "seen-0"), seen(folder / "seen-1")
    together = [a + b for a, b in zip(first, second, strict=True)] + seen(folder / "seen-later")
    assert together == seen(tmp_path / "seen-whole")
    assert len(first) == 8  # rank 0 learns of it in the update after
    for a, b in zip(rows(folder), rows(tmp_path / "one"), strict=True):
        assert abs(a["loss"] - b["loss"]) < 1e-5


def scored(world: World, shards: Shards, folder: Path, settings: dict[str, Any]) -> None:
    scores = iter([0.2, 0.8, 0.5, 0.9])

    def evaluate() -> dict[str, float]:
        return {"knn": next(scores)} if world.writes else {}

    run(make_job(shards, folder, world=world, evaluate=evaluate, **settings))


def test_score__of_rank_0_picks_the_best_for_all(shards: Shards, tmp_path: Path) -> None:
    # 5 steps an epoch: scores after 2, 4, 6 and 8; checkpoints only where one is the best
    settings = {"steps": 8, "score_every": "0.4 epochs", "checkpoint_every": 8, "log_every": 8}
    assert in_two(scored, shards, tmp_path, **settings) == [0, 0]
    state = load_checkpoint(tmp_path / "checkpoints" / "step-000000008").state["progress"]
    assert (state["best_score"], state["best_checkpoint"]) == (0.9, "step-000000008")


# Failing


def broken(world: World, shards: Shards, folder: Path, settings: dict[str, Any]) -> None:
    class Breaks:
        def iterate(self, start_step: int) -> Iterator[tuple[Batch, Mask | None]]:
            for step, pair in enumerate(job.data.iterate(start_step)):
                if step == 3 and world.rank == settings["breaks"]:
                    raise D2VError("The data of one rank are bad")
                yield pair

    job = make_job(shards, folder, world=world, **TWENTY)
    run(replace(job, data=Breaks()))


@pytest.mark.parametrize("rank", [0, 1])
def test_error__of_one_rank_ends_both_and_is_told_by_it_alone(
    shards: Shards, tmp_path: Path, rank: int
) -> None:
    codes = in_two(broken, shards, tmp_path, breaks=rank)
    assert (codes[rank], codes[1 - rank]) == (1, 70)
    assert "are bad" in (tmp_path / f"error-{rank}").read_text()
    assert "Another process" in (tmp_path / f"error-{1 - rank}").read_text()


def test_overflow__is_the_same_guard_on_every_rank(shards: Shards, tmp_path: Path) -> None:
    optimizer = {"learning_rate": 1e30, "schedule": {"warmup": 0}}
    assert in_two(plain, shards, tmp_path, optimizer=optimizer) == [3, 3]
    texts = {(tmp_path / f"error-{rank}").read_text() for rank in range(2)}
    assert len(texts) == 1
    assert "Step 2: loss" in texts.pop()


def test_checkpoints__that_one_rank_cannot_see_are_an_error(shards: Shards, tmp_path: Path) -> None:
    run(make_job(shards, tmp_path, **TWENTY))
    assert in_two(plain, shards, tmp_path, **TWENTY) == [1, 1]
    text = (tmp_path / "error-1").read_text()
    assert "different checkpoints: of steps [0, 20]" in text
    assert "all machines share" in text
