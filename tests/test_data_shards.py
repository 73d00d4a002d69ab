"""Shards give back what was written, by number, in any process or thread."""

import gc
import hashlib
import json
import multiprocessing
import os
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import webdataset

from d2v.data import shards as module
from d2v.data.shards import Shards
from tests.shards_case import COUNT, content, edit_index, make_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


def test_read__gives_any_sample_in_any_order(folder: Path) -> None:
    shards = Shards.open(folder)
    assert len(shards) == COUNT
    for number in np.random.default_rng(0).permutation(COUNT).tolist():
        sample = shards.read(number)
        assert sample["txt"] == content(number)
        assert set(sample) == {"txt", "meta.json"} | ({"cls"} if number % 3 != 2 else set())
        assert shards.source(number) == f"s{number}"


def test_labels__are_class_ids_and_minus_one_where_there_is_none(folder: Path) -> None:
    shards = Shards.open(folder)
    assert shards.classes == ["a", "b"]
    assert shards.labels.dtype == np.int64
    assert shards.labels.tolist() == [(0, 1, -1)[number % 3] for number in range(COUNT)]


def test_fingerprint__is_the_hash_of_the_index(folder: Path) -> None:
    shards = Shards.open(folder)
    digest = hashlib.sha256((folder / "index.json").read_bytes()).hexdigest()
    assert shards.fingerprint == digest
    assert shards.num_bytes == sum(path.stat().st_size for path in folder.glob("*.tar"))


def test_numbers_beyond_the_end__are_refused(folder: Path) -> None:
    shards = Shards.open(folder)
    for number in (-1, COUNT):
        with pytest.raises(IndexError, match=f"sample {number} of {COUNT}"):
            shards.read(number)


def test_index__is_public_json_with_the_agreed_fields(folder: Path) -> None:
    index = json.loads((folder / "index.json").read_text())
    assert index["format"] == "d2v-shards"
    assert (index["version"], index["split"], index["num_samples"]) == (1, "train", COUNT)
    shard = index["shards"][0]
    assert set(shard) == {"name", "bytes", "sha256", "num_samples", "samples"}
    data = (folder / shard["name"]).read_bytes()
    assert shard["sha256"] == hashlib.sha256(data).hexdigest()
    sample = shard["samples"][2]
    assert (sample["key"], sample["source"], sample["label"]) == ("000000002", "s2", None)
    offset, size, _ = sample["members"]["txt"]
    assert data[offset : offset + size] == content(2)


def test_index__written_by_another_hand_reads_the_same(folder: Path) -> None:
    before = Shards.open(folder)
    edit_index(folder)  # reformatted over many lines
    after = Shards.open(folder)
    assert [after.read(n) for n in range(COUNT)] == [before.read(n) for n in range(COUNT)]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves files to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the same
def test_webdataset__reads_the_shards(folder: Path) -> None:
    urls = sorted(str(path) for path in folder.glob("*.tar"))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert [sample["txt"] for sample in samples] == [content(n) for n in range(COUNT)]
    assert [sample["__key__"] for sample in samples] == [f"{n:09d}" for n in range(COUNT)]
    assert samples[1]["cls"] == b"1"
    gc.collect()


# Processes


def test_pickle__carries_no_descriptors_and_few_bytes_a_sample(folder: Path) -> None:
    shards = Shards.open(folder)
    shards.read(0)
    copy = pickle.loads(pickle.dumps(shards))
    shards.close()
    assert copy.read(24)["txt"] == content(24)


def test_fork__opens_the_shards_anew_even_while_another_thread_reads(folder: Path) -> None:
    shards = Shards.open(folder)
    shards.read(0)
    with shards._files._lock:  # as if a thread were reading right now
        context = multiprocessing.get_context("fork")
        with context.Pool(1) as pool:
            samples = pool.apply(_read_all, (shards,))
    assert samples == [content(number) for number in range(COUNT)]
    assert shards.read(24)["txt"] == content(24)


def _read_all(shards: Shards) -> list[bytes]:
    return [shards.read(number)["txt"] for number in range(len(shards))]


def test_threads__may_share_shards_with_few_open_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_OPEN_FILES", 1)
    shards, wrong = Shards.open(folder), []

    def read(seed: int) -> None:
        for number in np.random.default_rng(seed).integers(0, COUNT, 300).tolist():
            if shards.read(number)["txt"] != content(number):
                wrong.append(number)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(shards._files._open) == 1


def test_descriptors__are_closed_with_the_shards(folder: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    shards = Shards.open(folder)
    _read_all(shards)
    assert len(os.listdir("/proc/self/fd")) == before + 3
    del shards
    assert len(os.listdir("/proc/self/fd")) == before
