"""An item may give several samples: they stay together, and lengths, totals and warnings add up."""

import gc
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import webdataset

from d2v.data.journal import PartWriter
from d2v.data.prepare import PrepareSettings, clear
from d2v.data.shards import Shards, check
from d2v.errors import UsageError
from d2v.samples import SourceItem, StoredSample
from tests.prepare_case import SMALL, digests, encode_several, lines, make_items, run, stored_names

ABOUT = {"rate": 16_000, "names": ["a", "b"]}


def encoded(items: list[SourceItem], names: list[str]) -> list[StoredSample]:
    by_name = {item.name: item for item in items}
    return [sample for name in names for sample in encode_several(by_name[name])]


def totals_file(totals: Mapping[str, Mapping[str, float]]) -> dict[str, bytes]:
    return {"totals.json": json.dumps(totals).encode(), "note.txt": b"n"}


# What is stored


def test_samples_of_an_item__lie_side_by_side_under_keys_of_their_own(tmp_path: Path) -> None:
    items = make_items(60, same=9)
    summary = run(items, tmp_path, encoder=encode_several)
    for split, part in summary.splits.items():
        shards = Shards.open(tmp_path / split)
        assert check(tmp_path / split) == []
        names = list(dict.fromkeys(shards.source(i) for i in range(len(shards))))
        assert len(names) == part.num_items
        samples = encoded(items, names)
        assert len(samples) == len(shards) == part.num_samples > part.num_items
        keys = []
        for name in names:
            number, count = int(name.removesuffix(".txt")), len(encoded(items, [name]))
            keys += [f"{number:09d}"] if count == 1 else [
                f"{number:09d}-{place:05d}" for place in range(count)
            ]  # fmt: skip
        assert [shards.key(i) for i in range(len(shards))] == keys
        for i, sample in enumerate(samples):
            read = shards.read(i)
            assert read.pop("cls") == str(shards.labels[i]).encode()
            assert read == sample.members


def test_samples_of_an_item__are_in_one_shard(tmp_path: Path) -> None:
    items = make_items(60)
    settings = PrepareSettings(shard_samples=4, val_fraction=0)
    run(items, tmp_path, settings, encoder=encode_several)
    index = json.loads((tmp_path / "train" / "index.json").read_text())
    sources = [{sample["source"] for sample in shard["samples"]} for shard in index["shards"]]
    assert sum(map(len, sources)) == len(set.union(*sources)) == 60
    assert all(shard["num_samples"] <= 4 for shard in index["shards"])


def test_item_with_more_samples_than_a_shard__has_a_shard_of_its_own(tmp_path: Path) -> None:
    def nine(item: SourceItem) -> list[StoredSample]:
        count = 9 if item.name == "3.txt" else 1
        return [StoredSample(members={"txt": item.read()})] * count

    settings = PrepareSettings(shard_samples=4, val_fraction=0)
    run(make_items(6), tmp_path, settings, encoder=nine)
    index = json.loads((tmp_path / "train" / "index.json").read_text())
    assert [shard["num_samples"] for shard in index["shards"]] == [3, 9, 2]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves files to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the same
def test_webdataset__tells_the_samples_of_an_item_apart(tmp_path: Path) -> None:
    items = make_items(20)
    settings = PrepareSettings(shard_samples=9, val_fraction=0)
    run(items, tmp_path, settings, encoder=encode_several)
    urls = sorted(str(path) for path in (tmp_path / "train").glob("*.tar"))
    read = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    expected = encoded(items, [item.name for item in items])
    assert [sample["txt"] for sample in read] == [sample.members["txt"] for sample in expected]
    gc.collect()


# Sums


def test_inputs__add_up_however_many_samples_they_give(tmp_path: Path) -> None:
    items = make_items(200, same=6, bad=11)
    settings = SMALL.model_copy(update={"duplicates": "drop"})
    summary = run(items, tmp_path, settings, encoder=encode_several)
    stored = {name for split in summary.splits for name in stored_names(tmp_path, split)}
    assert summary.stored == len(stored)
    assert summary.total == 200 == summary.stored + summary.rejected + summary.dropped
    assert (summary.rejected, summary.dropped) == (
        len(lines(tmp_path / "rejected.jsonl")),
        len(lines(tmp_path / "duplicates.jsonl")),
    )
    assert min(summary.rejected, summary.dropped) > 10


def test_totals__add_up_over_each_split(tmp_path: Path) -> None:
    items = make_items(60)
    summary = run(items, tmp_path, encoder=encode_several)
    for split, part in summary.splits.items():
        samples = encoded(items, list(dict.fromkeys(stored_names(tmp_path, split))))
        assert part.totals == {
            "bytes": sum(len(sample.members["txt"]) for sample in samples),
            "tenths": pytest.approx(0.1 * len(samples)),
        }


def test_warnings__are_listed_and_counted_once_an_input(tmp_path: Path) -> None:
    def odd(item: SourceItem) -> list[StoredSample]:
        number = int(item.name.removesuffix(".txt"))
        texts = (*["loud"] * (number % 2 == 0), *["cut"] * (number % 3 == 0))
        return [StoredSample(members={"txt": item.read()}, warnings=texts)] * (number % 4 + 1)

    settings = SMALL.model_copy(update={"duplicates": "drop"})
    summary = run(make_items(60, same=20, bad=7), tmp_path, settings, encoder=odd)
    found = lines(tmp_path / "warnings.jsonl")
    stored = {name for split in summary.splits for name in stored_names(tmp_path, split)}
    numbers = [int(name.removesuffix(".txt")) for name in stored]
    expected = Counter(loud=sum(n % 2 == 0 for n in numbers), cut=sum(n % 3 == 0 for n in numbers))
    assert summary.warnings == expected
    assert list(summary.warnings) == ["loud", "cut"]
    assert Counter(entry["warning"] for entry in found) == expected
    assert set(found[0]) == {"source", "split", "warning"}
    for entry in found:
        assert entry["source"] in stored_names(tmp_path, entry["split"])


# Files beside the splits


def test_files__are_written_from_the_totals_and_removed_with_the_rest(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_bytes(b"precious")
    summary = run(make_items(60), tmp_path, encoder=encode_several, summarise=totals_file)
    found = json.loads((tmp_path / "totals.json").read_text())
    assert found == {split: part.totals for split, part in summary.splits.items()}
    assert (tmp_path / "note.txt").read_bytes() == b"n"
    clear(tmp_path)
    assert list(digests(tmp_path)) == ["mine.txt"]


def test_files__of_somebody_else_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_bytes(b"precious")
    for _ in range(2):
        with pytest.raises(UsageError, match=r"note.txt is already there"):
            run(make_items(60), tmp_path, summarise=totals_file)
    assert (tmp_path / "note.txt").read_bytes() == b"precious"
    (tmp_path / "note.txt").unlink()
    run(make_items(60), tmp_path, summarise=totals_file)
    assert (tmp_path / "note.txt").read_bytes() == b"n"


def test_files__named_in_a_summary_lead_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    dest = tmp_path / "out"
    run(make_items(60), dest)
    record = json.loads((dest / "summary.json").read_text())
    names = ["../precious", str(tmp_path / "precious"), "..", ".", "", "train", 7]
    (dest / "summary.json").write_text(json.dumps({**record, "files": names}))
    clear(dest)
    assert list(digests(tmp_path)) == ["precious"]


# Stopped in the middle of an item


@pytest.mark.parametrize("stores", [0, 9, 30, 34])
def test_stopped_between_two_samples_of_an_item__goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stores: int
) -> None:
    def prepared(name: str) -> dict[str, str]:
        run(make_items(60, same=9, bad=13), tmp_path / name, encoder=encode_several,
            about=ABOUT, summarise=totals_file)  # fmt: skip
        return digests(tmp_path / name)

    whole, original, begun = prepared("whole"), PartWriter.store, iter(range(stores))

    def store(part: PartWriter, key: str, sample: StoredSample, note: dict[str, Any]) -> None:
        original(part, key, sample, note)
        if key.endswith("-00000") and next(begun, None) is None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PartWriter, "store", store)
        with pytest.raises(KeyboardInterrupt):
            prepared("cut")
    assert prepared("cut") == whole
