"""Proves: a checkpoint is whole or not there, and what is damaged is known and passed over."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from d2v.data.shards import Shards
from d2v.engine.checkpoint import load_checkpoint, load_latest, prune, save_checkpoint
from d2v.errors import D2VError, UsageError
from tests.training_case import final_bytes, make_job, make_shards, rows, run

FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


@pytest.fixture(scope="module", name="shards")
def shards_fixture(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return make_shards(tmp_path_factory.mktemp("pictures"), 42)


def save(folder: Path, step: int) -> Path:
    generator = torch.Generator().manual_seed(step)
    tensors = {
        "model": {"b": torch.randn(3, 2, generator=generator), "a": torch.tensor(step)},
        "optimizer": {"step/a": torch.tensor(1.5)},
    }
    return save_checkpoint(folder, step, tensors, {"note": [step, None]})


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# Writing and reading


def test_checkpoint__comes_back_as_it_was(tmp_path: Path) -> None:
    found = load_checkpoint(save(tmp_path, 7))
    assert (found.step, found.state) == (7, {"note": [7, None]})
    assert set(found.tensors) == {"model", "optimizer"}
    assert found.tensors["model"]["a"].dtype == torch.int64
    expected = torch.randn(3, 2, generator=torch.Generator().manual_seed(7))
    assert torch.equal(found.tensors["model"]["b"], expected)
    latest = json.loads((tmp_path / "latest.json").read_text())
    assert latest == {"checkpoint": "step-000000007", "step": 7}
    assert names(tmp_path) == {"latest.json", "step-000000007"}
    assert names(found.path) == set(FILES)


def test_checkpoint__of_the_same_content_has_the_same_bytes(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        save(folder, 3)
    for name in FILES:
        a, b = (folder / "step-000000003" / name for folder in folders)
        assert a.read_bytes() == b.read_bytes()
    assert load_checkpoint(a.parent).digest == load_checkpoint(b.parent).digest


def test_no_checkpoint__is_none_and_no_error(tmp_path: Path) -> None:
    assert load_latest(tmp_path / "nowhere") == (None, [])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink], ids=["flip", "cut", "unlink"])
@pytest.mark.parametrize("name", FILES)
def test_damage__is_noticed_named_and_the_previous_checkpoint_used(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    save(tmp_path, 10)
    damage(save(tmp_path, 20) / name)
    found, messages = load_latest(tmp_path)
    assert found is not None
    assert found.step == 10
    assert len(messages) == 1
    assert str(tmp_path / "step-000000020") in messages[0]
    assert "Passed over" in messages[0]


def test_manifest__of_another_step_is_damage(tmp_path: Path) -> None:
    save(tmp_path, 10)
    path = save(tmp_path, 20) / "manifest.json"
    path.write_text(path.read_text().replace('"step": 20', '"step": 28'))
    found, [message] = load_latest(tmp_path)
    assert found is not None
    assert found.step == 10
    assert "it is of step 28" in message


def test_damage__of_all_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    for step in (10, 20):
        cut(save(tmp_path, step) / "model.safetensors")
    with pytest.raises(D2VError, match=r"step-000000020.*step-000000010.*--fresh") as caught:
        load_latest(tmp_path)
    assert caught.value.exit_code == 1


def test_newer_format__is_refused_and_not_passed_over(tmp_path: Path) -> None:
    save(tmp_path, 10)
    path = save(tmp_path, 20) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 2}))
    with pytest.raises(UsageError, match=r"format 2\. Expected: at most 1.*Install a newer d2v"):
        load_latest(tmp_path)


# What stays and what goes


def test_prune__keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        newest = save(tmp_path, step)
    prune(newest, keep_last=2, best="step-000000002")
    assert names(tmp_path) == {"latest.json", *(f"step-00000000{n}" for n in (2, 4, 5))}


def test_prune__removes_the_damaged_ones_that_the_run_went_back_behind(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save(tmp_path, step)
    prune(save(tmp_path, 15), keep_last=2, best=None)
    assert names(tmp_path) == {"latest.json", "step-000000010", "step-000000015"}


def test_left_overs__of_a_kill_are_removed_by_the_next_checkpoint(tmp_path: Path) -> None:
    (tmp_path / ".partial-step-000000001").mkdir()
    (tmp_path / ".partial-step-000000001" / "model.safetensors").write_bytes(b"half")
    (tmp_path / ".partial-latest.json").write_bytes(b"{")
    save(tmp_path, 2)
    assert names(tmp_path) == {"latest.json", "step-000000002"}


@pytest.mark.parametrize("call", range(5))
def test_full_disk__leaves_the_earlier_checkpoint_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    before = final_bytes(save(tmp_path / "checkpoints", 1).parents[1], 1)
    count = iter(range(100))

    def fsync(descriptor: int) -> None:
        if next(count) == call:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(D2VError, match="No space left on device.*Earlier checkpoints are unt"):
        save(tmp_path / "checkpoints", 2)
    left = names(tmp_path / "checkpoints") - {"step-000000002"}  # whole where latest.json failed
    assert left == {"latest.json", "step-000000001"}
    assert final_bytes(tmp_path, 1) == before
    assert load_latest(tmp_path / "checkpoints")[1] == []


# In a run


def copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target, dirs_exist_ok=True)
    return target


@pytest.fixture(scope="module", name="finished")
def finished_fixture(shards: Shards, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    run(make_job(shards, folder, keep_checkpoints=3))
    return folder


def test_run__goes_back_behind_damaged_checkpoints_and_ends_the_same(
    shards: Shards, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy(finished, tmp_path)
    for step in (8, 12):
        flip(folder / "checkpoints" / f"step-{step:09d}" / "model.safetensors")
    run(make_job(shards, folder, keep_checkpoints=1))
    said = capsys.readouterr().out
    assert said.count("Passed over") == 2  # although the run is a quiet one
    assert rows(folder) == rows(finished)
    assert final_bytes(folder, 12) == final_bytes(finished, 12)
    assert names(folder / "checkpoints") == {"latest.json", "step-000000012"}


def test_run__refuses_a_checkpoint_of_another_architecture(
    shards: Shards, finished: Path, tmp_path: Path
) -> None:
    folder = copy(finished, tmp_path)
    other: dict[str, Any] = {"dim": 16, "depth": 3}
    with pytest.raises(UsageError, match="another architecture") as caught:
        run(make_job(shards, folder, encoder=other))
    text = str(caught.value)
    assert "encoder.dim is 8 in the checkpoint and 16 in the recipe" in text
    assert "encoder.depth is 2 in the checkpoint and 3 in the recipe" in text
    assert "encoder.num_heads" not in text


def test_run__keeps_the_best_scored_checkpoint_beside_the_newest(
    shards: Shards, tmp_path: Path
) -> None:
    scores = iter([0.3, 0.9, float("nan"), 0.5, 0.8])

    def evaluate() -> dict[str, float]:
        return {"knn": next(scores)}

    job = make_job(shards, tmp_path, evaluate=evaluate, score_every="0.4 epochs",
                   keep_checkpoints=1, checkpoint_every=5, steps=10)  # fmt: skip
    run(job)
    assert names(tmp_path / "checkpoints") == {"latest.json", "step-000000004", "step-000000010"}
    state = load_checkpoint(tmp_path / "checkpoints" / "step-000000010").state["progress"]
    assert (state["best_score"], state["best_checkpoint"]) == (0.9, "step-000000004")
    assert [row["knn"] for row in rows(tmp_path) if "knn" in row] == [0.3, 0.9, None, 0.5, 0.8]


def test_run__takes_the_latest_of_equal_scores_for_the_best(shards: Shards, tmp_path: Path) -> None:
    scores = iter([0.3, 0.9, 0.5, 0.9, 0.2])
    job = make_job(shards, tmp_path, evaluate=lambda: {"knn": next(scores)},
                   score_every="0.4 epochs", keep_checkpoints=1, checkpoint_every=5,
                   steps=10)  # fmt: skip
    run(job)
    assert names(tmp_path / "checkpoints") == {"latest.json", "step-000000008", "step-000000010"}
    state = load_checkpoint(tmp_path / "checkpoints" / "step-000000010").state["progress"]
    assert (state["best_score"], state["best_checkpoint"]) == (0.9, "step-000000008")
    assert state["scores_since_best"] == 3
