"""Damaged shards and indexes are noticed, and the bad member is named with its offset."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from d2v.data import index as index_module
from d2v.data import shards as module
from d2v.data.shards import Problem, Shards, check
from d2v.errors import BadSampleError, D2VError, UsageError
from tests.shards_case import COUNT, edit_index, flip, make_folder, member


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


def test_open__explains_what_is_not_there(folder: Path) -> None:
    with pytest.raises(UsageError, match="Run d2v prepare first"):
        Shards.open(folder.parent / "val")
    (folder / "train-000001.tar").unlink()
    with pytest.raises(UsageError, match=r"train-000001.tar is missing"):
        Shards.open(folder)


def test_open__notices_a_truncated_shard(folder: Path) -> None:
    path = folder / "train-000001.tar"
    os.truncate(path, 3000)
    with pytest.raises(UsageError, match=r"train-000001.tar has 3000 bytes, and its index says"):
        Shards.open(folder)


def test_open__refuses_a_newer_format(folder: Path) -> None:
    edit_index(folder, version=2)
    with pytest.raises(UsageError, match="version 2.*this d2v reads up to version 1"):
        Shards.open(folder)


@pytest.mark.parametrize("part", [0, 0.001, 0.02, 0.3, 0.6, 0.95, 0.9999])
def test_open__refuses_an_index_that_breaks_off(folder: Path, part: float) -> None:
    path = folder / "index.json"
    os.truncate(path, int(path.stat().st_size * part))
    with pytest.raises(UsageError, match=r"index.json is damaged"):
        Shards.open(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "other"},
        {"version": "1"},
        {"num_samples": 24},
        {"classes": None},
        {"shards": 3},
        {"shards": [{"name": "a.tar"}]},
    ],
)
def test_open__refuses_a_contradictory_index(folder: Path, changes: dict[str, Any]) -> None:
    edit_index(folder, **changes)
    with pytest.raises(UsageError, match=r"index.json is damaged"):
        Shards.open(folder)


@pytest.mark.parametrize("place", [[-1, 5, 0], [0, 10**15, 0], [10**6, 1, 0], [1, 2]])
def test_open__refuses_members_outside_of_their_shard(folder: Path, place: list[int]) -> None:
    index = json.loads((folder / "index.json").read_text())
    index["shards"][0]["samples"][0]["members"]["txt"] = place
    edit_index(folder, **index)
    with pytest.raises(UsageError, match=r"index.json is damaged"):
        Shards.open(folder)


def test_open__refuses_names_that_lead_elsewhere(folder: Path) -> None:
    index = json.loads((folder / "index.json").read_text())
    index["shards"][0]["name"] = "../train/train-000000.tar"
    edit_index(folder, **index)
    with pytest.raises(UsageError, match="not a plain file name"):
        Shards.open(folder)


def test_large_member__is_refused_before_it_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_MEMBER_BYTES", 100)
    with pytest.raises(BadSampleError, match="more than 100"):
        Shards.open(folder).read(24)


@pytest.mark.parametrize("sample", [0, 13, 24])
def test_flipped_byte__is_found_with_member_and_offset(folder: Path, sample: int) -> None:
    path, offset, size = member(folder, sample, "txt")
    flip(path, offset + size // 2)
    name = f"{sample:09d}.txt"
    assert check(folder) == [
        Problem(shard=path.name, member=name, offset=offset, what="its content differs")
    ]
    where = rf"{path.name}, member {name} at offset {offset}"
    with pytest.raises(BadSampleError, match=where):
        Shards.open(folder).read(sample)
    with pytest.raises(UsageError, match=rf"{path.name} is damaged.*{name}, offset {offset}"):
        Shards.open(folder, verify="hash")
    assert Shards.open(folder).read((sample + 1) % COUNT)["txt"]


def test_flipped_byte__anywhere_in_a_shard_is_found(folder: Path) -> None:
    path = folder / "train-000000.tar"
    original = path.read_bytes()
    _, first, size = member(folder, 0, "txt")
    exact = [first - 512, first - 300, first + size, len(original) - 1]  # header, padding, end
    for offset in (*exact, *range(0, len(original), 701)):
        flip(path, offset)
        (problem,) = check(folder)
        assert problem.offset is not None
        assert problem.offset <= offset
        if offset in exact:
            assert problem.offset == offset
        path.write_bytes(original)
    assert check(folder) == []


def test_check__reports_missing_truncated_and_unlisted_shards(folder: Path) -> None:
    (folder / "train-000000.tar").unlink()
    os.truncate(folder / "train-000001.tar", 3000)
    (folder / "train-000007.tar").write_bytes(b"")
    seen: list[tuple[int, int]] = []
    problems = check(folder, lambda done, total: seen.append((done, total)))
    texts = [str(problem) for problem in problems]
    assert texts[0].startswith("train-000000.tar: cannot be read: No such file")
    assert texts[1].startswith("train-000001.tar: has 3000 bytes instead of")
    assert texts[2].startswith("train-000001.tar, member 000000010.txt, offset 3000: the shard br")
    assert texts[3].startswith("train-000007.tar: not in the index")
    assert len(texts) == 4
    assert seen[-1][0] == seen[-1][1]


def test_shard_that_vanishes_later__is_explained(folder: Path) -> None:
    shards = Shards.open(folder)
    (folder / "train-000001.tar").unlink()
    with pytest.raises(D2VError, match="cannot be read: No such file"):
        shards.read(15)


def test_index__of_many_samples_is_small_in_memory(tmp_path: Path) -> None:
    samples = [
        {"key": f"{n:09d}", "source": f"folder/{n}.x", "label": 1, "members": {"x": [n, 1, 7]}}
        for n in range(5000)
    ]
    shard = {"name": "a.tar", "bytes": 5001, "sha256": "", "num_samples": 5000, "samples": samples}
    head = {"format": "d2v-shards", "version": 1, "split": "train", "num_samples": 5000}
    record = {**head, "classes": ["a", "b"], "shards": [shard]}
    (tmp_path / "index.json").write_text(json.dumps(record))
    index = index_module.read_index(tmp_path / "index.json")
    assert len(pickle.dumps(index)) < 110 * 5000
    assert (index.keys[4999], index.sources[1]) == ("000004999", "folder/1.x")
