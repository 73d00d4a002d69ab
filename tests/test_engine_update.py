"""Proves: one update does what it says and no hidden work, and never waits for the device."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from d2v.data.shards import Shards
from d2v.data2vec import Data2Vec
from d2v.engine.job import BatchCut, Job
from d2v.engine.update import BAD, COUNT, LOSS, NORM, Updater
from d2v.errors import UsageError
from tests.training_case import make_job, make_shards


@pytest.fixture(scope="module", name="shards")
def shards_fixture(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return make_shards(tmp_path_factory.mktemp("pictures"), 42)


def student(job: Job) -> Data2Vec:
    assert isinstance(job.objective, Data2Vec)
    return job.objective


def update(updater: Updater, step: int, *, monitor: bool = False) -> None:
    batches = updater.job.data.iterate(step)
    updater.update(step, batches, monitor=monitor, stopping=False)


class Syncs(TorchDispatchMode):
    """Notes every operator that would make a GPU's host wait for a number or a shape."""

    WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no types
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in self.WAITING or (name == "index" and any(_is_bool(i) for i in args[1])):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def _is_bool(index: Tensor | None) -> bool:
    return index is not None and index.dtype == torch.bool


@pytest.mark.parametrize("limit", [None, 4])
@pytest.mark.parametrize("monitor", [False, True])
def test_update__never_waits_for_the_device(
    shards: Shards, tmp_path: Path, limit: int | None, monitor: bool
) -> None:
    updater = Updater(make_job(shards, tmp_path, max_batch_per_device=limit))
    batches = list(islice(updater.job.data.iterate(0), 6))  # loading happens elsewhere
    update(updater, 0)  # the optimiser makes its state
    with Syncs() as syncs:
        updater.update(1, iter(batches), monitor=monitor, stopping=False)
        updater.job.objective.after_update(2)
    assert syncs.seen == []
    with Syncs() as syncs:
        float(updater.rows[-1][LOSS])
    assert syncs.seen == ["_local_scalar_dense"], "the test would not have noticed"


@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_frontend_features__are_computed_once_a_micro_batch_for_each_network(
    shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: int
) -> None:
    job = make_job(shards, tmp_path, max_batch_per_device=8 // pieces)
    calls: list[nn.Module] = []
    original = type(student(job).frontend).features

    def counting(self: Any, batch: Any) -> Tensor:
        calls.append(self)
        features: Tensor = original(self, batch)
        return features

    monkeypatch.setattr(type(student(job).frontend), "features", counting)
    updater = Updater(job)
    update(updater, 0, monitor=True)
    own = [module for module in calls if module is student(job).frontend]
    teachers = [module for module in calls if module is student(job).teacher["frontend"]]
    assert (len(own), len(teachers), len(calls)) == (pieces, pieces, 2 * pieces)


def test_teacher__stands_still_during_the_update_and_moves_once_after_it(
    shards: Shards, tmp_path: Path
) -> None:
    job = make_job(shards, tmp_path, max_batch_per_device=2, objective={"tau": {"tau_e": 0.75}},
                   optimizer={"schedule": {"warmup": 0}})  # fmt: skip
    updater, model = Updater(job), student(job)
    before = [p.clone() for p in model.teacher["encoder"].parameters()]
    start = [p.clone() for p in model.encoder.parameters()]
    update(updater, 0)
    assert all(map(torch.equal, before, model.teacher["encoder"].parameters()))
    assert not all(map(torch.equal, start, model.encoder.parameters()))
    model.after_update(1)
    for old, new, now in zip(
        before, model.teacher["encoder"].parameters(), model.encoder.parameters(), strict=True
    ):
        torch.testing.assert_close(new.detach(), 0.75 * old + 0.25 * now.detach())


@pytest.mark.parametrize("limit", [4, 2, 1])
def test_accumulation__gives_the_gradient_of_the_whole_batch(
    shards: Shards, tmp_path: Path, limit: int
) -> None:
    """One step of AdamW at eps 1: the weights' change is nearly the gradient itself."""
    moved, sums = [], []
    for pieces in (None, limit):
        job = make_job(shards, tmp_path, max_batch_per_device=pieces,
                       optimizer={"schedule": {"warmup": 0}, "eps": 1.0, "weight_decay": 0,
                                  "learning_rate": 1.0, "clip_norm": None})  # fmt: skip
        updater = Updater(job)
        start = [p.detach().clone() for p in updater.parameters]
        update(updater, 0)
        moved.append([p.detach() - s for p, s in zip(updater.parameters, start, strict=True)])
        sums.append(updater.rows[-1])
    torch.testing.assert_close(sums[0], sums[1], rtol=1e-5, atol=1e-6)
    for whole, cut in zip(*moved, strict=True):
        torch.testing.assert_close(whole, cut, rtol=1e-4, atol=1e-6)
    assert max(float(change.abs().max()) for change in moved[0]) > 1e-3


def test_clipping__bounds_the_step_and_reports_the_norm_before_it(
    shards: Shards, tmp_path: Path
) -> None:
    norms, lengths = [], []
    for clip in (None, 1e-3):
        job = make_job(shards, tmp_path, optimizer={
            "schedule": {"warmup": 0}, "eps": 1.0, "weight_decay": 0, "learning_rate": 1.0,
            "clip_norm": clip})  # fmt: skip
        updater = Updater(job)
        start = nn.utils.parameters_to_vector(updater.parameters).detach().clone()
        update(updater, 0)
        norms.append(float(updater.rows[-1][NORM]))
        now = nn.utils.parameters_to_vector(updater.parameters).detach()
        lengths.append(float((now - start).norm()))
    assert norms[0] == norms[1] > 0.05
    assert lengths[1] == pytest.approx(1e-3, rel=0.01)
    assert lengths[0] > 20 * lengths[1]


def test_sums__count_tokens_and_missing_samples(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "pictures", 8, bad={1, 6})
    job = make_job(shards, tmp_path / "run", max_batch_per_device=4)
    vars(job.data)["max_bad"] = 8
    updater = Updater(job)
    update(updater, 0)
    row = updater.rows[-1]
    assert (row[COUNT].item(), row[BAD].item()) == (6 * 8, 2)  # 8 of 16 patches are masked


# How a batch is cut


@pytest.mark.parametrize(
    ("batch", "devices", "limit", "micro", "pieces"),
    [(8, 1, None, 8, 1), (8, 2, None, 4, 1), (12, 2, 4, 3, 2), (12, 1, 5, 4, 3), (7, 1, 3, 1, 7),
     (2048, 16, 64, 64, 2), (6, 6, 100, 1, 1)],
)  # fmt: skip
def test_cut__is_the_fewest_equal_pieces_that_fit(
    batch: int, devices: int, limit: int | None, micro: int, pieces: int
) -> None:
    cut = BatchCut.of(batch, devices, limit)
    assert (cut.micro, cut.accumulation) == (micro, pieces)
    assert cut.micro * cut.accumulation * devices == batch


@pytest.mark.parametrize(("batch", "devices"), [(7, 2), (1, 2), (30, 4)])
def test_cut__of_a_batch_that_does_not_divide_is_refused(batch: int, devices: int) -> None:
    with pytest.raises(UsageError, match=f"{batch} cannot be divided over {devices} devices"):
        BatchCut.of(batch, devices, None)
