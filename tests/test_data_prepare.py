"""Preparing loses nothing, repeats to the byte, and draws splits and twins by clear rules."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from d2v.data.prepare import (
    PrepareSettings,
)
from d2v.data.shards import Shards
from d2v.errors import UsageError
from d2v.samples import SourceItem
from tests.prepare_case import SMALL, digests, lines, make_items, run, stored_names

# What is written


def test_prepare__writes_shards_indexes_and_lists_and_nothing_else(tmp_path: Path) -> None:
    run(make_items(50), tmp_path)
    assert list(digests(tmp_path)) == [
        "duplicates.jsonl",
        "rejected.jsonl",
        "summary.json",
        "test/index.json",
        "test/test-000000.tar",
        *("train/index.json", *(f"train/train-00000{number}.tar" for number in range(5))),
        *("val/index.json", "val/val-000000.tar", "val/val-000001.tar"),
        "warnings.jsonl",
    ]


def test_every_input__is_stored_rejected_or_dropped_exactly_once(tmp_path: Path) -> None:
    items = make_items(200, same=6, bad=11)
    summary = run(items, tmp_path, SMALL.model_copy(update={"duplicates": "drop"}))
    stored = [name for split in summary.splits for name in stored_names(tmp_path, split)]
    rejected = [entry["source"] for entry in lines(tmp_path / "rejected.jsonl")]
    dropped = [entry["source"] for entry in lines(tmp_path / "duplicates.jsonl")]
    assert Counter(stored + rejected + dropped) == Counter(item.name for item in items)
    assert (len(stored), len(rejected), len(dropped)) == (
        summary.stored,
        summary.rejected,
        summary.dropped,
    )
    assert summary.reasons == {"it is bad": len(rejected)}
    assert summary.total == 200


def test_samples__come_back_with_content_label_and_source(tmp_path: Path) -> None:
    items = {item.name: item for item in make_items(60)}
    summary = run(items.values(), tmp_path)
    for split in summary.splits:
        shards = Shards.open(tmp_path / split)
        for number in range(len(shards)):
            item, sample = items[shards.source(number)], shards.read(number)
            assert sample["txt"] == item.content
            assert shards.classes[shards.labels[number]] == item.label
            assert sample["cls"] == str(shards.labels[number]).encode()
            assert shards.key(number) == f"{int(item.name.removesuffix('.txt')):09d}"


def test_same_input__gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(make_items(80, same=9, bad=13), tmp_path / name)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_workers__do_not_change_the_bytes(tmp_path: Path) -> None:
    for workers in (0, 2):
        settings = SMALL.model_copy(update={"workers": workers})
        run(make_items(80, same=9, bad=13), tmp_path / str(workers), settings)
    assert digests(tmp_path / "0") == digests(tmp_path / "2")


def test_shards__close_at_their_number_of_samples(tmp_path: Path) -> None:
    run(make_items(50, labels=0), tmp_path, PrepareSettings(shard_samples=20, val_fraction=0))
    index = json.loads((tmp_path / "train" / "index.json").read_text())
    assert [shard["num_samples"] for shard in index["shards"]] == [20, 20, 10]


def test_shards__stay_below_their_size(tmp_path: Path) -> None:
    items = [
        SourceItem(name=str(number), content=bytes([number]) * size)
        for number, size in enumerate([9000, 9000, 90_000, 10, 10])
    ]
    run(items, tmp_path, PrepareSettings(shard_megabytes=0.030720, val_fraction=0))
    index = json.loads((tmp_path / "train" / "index.json").read_text())
    assert [shard["num_samples"] for shard in index["shards"]] == [2, 1, 2]
    assert [shard["bytes"] <= 30720 for shard in index["shards"]] == [True, False, True]


def test_classes__sort_as_numbers_where_all_are_numbers(tmp_path: Path) -> None:
    for name, labels, expected in (
        ("numbers", ["10", "9", "-1"], ["-1", "9", "10"]),
        ("words", ["10", "9", "a"], ["10", "9", "a"]),
    ):
        items = [SourceItem(name=label, content=label.encode(), label=label) for label in labels]
        summary = run(items, tmp_path / name, PrepareSettings(val_fraction=0))
        assert summary.classes == expected


def test_names__need_not_be_valid_unicode(tmp_path: Path) -> None:
    item = SourceItem(name="caf\udce9\n.txt", content=b"x", label="\udce9")
    run([item], tmp_path, PrepareSettings(val_fraction=0))
    shards = Shards.open(tmp_path / "train")
    assert (shards.source(0), shards.classes) == (item.name, [item.label])


# Splits


def test_val__has_the_exact_count_and_every_class_its_share(tmp_path: Path) -> None:
    sizes = {"a": 101, "b": 53, "c": 7, "d": 1}
    items = [
        SourceItem(name=f"{label}{number}", content=f"{label}{number}".encode(), label=label)
        for label, size in sizes.items()
        for number in range(size)
    ]
    settings = PrepareSettings(val_fraction=0.1, test_fraction=0.2)
    summary = run(items, tmp_path, settings)
    assert summary.splits["val"].num_samples == 16  # 16.2
    assert summary.splits["test"].num_samples == 32  # 32.4
    for split, fraction in (("val", 0.1), ("test", 0.2)):
        shards = Shards.open(tmp_path / split)
        for label, size in sizes.items():
            drawn = int((shards.labels == shards.classes.index(label)).sum())
            assert abs(drawn - fraction * size) < 1
    train = Shards.open(tmp_path / "train")
    assert sorted(set(train.labels.tolist())) == [0, 1, 2, 3]  # even "d", which has one item


def test_val__depends_on_the_seed_and_nothing_else(tmp_path: Path) -> None:
    items = make_items(100)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(items, tmp_path / name, seed=seed)
    assert stored_names(tmp_path / "a", "val") == stored_names(tmp_path / "b", "val")
    assert stored_names(tmp_path / "a", "val") != stored_names(tmp_path / "c", "val")


def test_splits_of_the_source__are_kept(tmp_path: Path) -> None:
    items = [
        replace(item, split=split)
        for item, split in zip(
            make_items(6), ["train", "val", None, "test", "val", None], strict=True
        )
    ]
    run(items, tmp_path, PrepareSettings(val_fraction=0.5, test_fraction=0.4))
    assert stored_names(tmp_path, "train") == ["0.txt", "2.txt", "5.txt"]
    assert stored_names(tmp_path, "val") == ["1.txt", "4.txt"]
    assert stored_names(tmp_path, "test") == ["3.txt"]


def test_val__is_drawn_where_the_source_only_lacks_val(tmp_path: Path) -> None:
    items = make_items(90, split="train") + [
        replace(item, name="t" + item.name, content=b"t" + item.read())
        for item in make_items(10, split="test")
    ]
    summary = run(items, tmp_path, SMALL)
    assert {name: split.num_samples for name, split in summary.splits.items()} == {
        "train": 72,
        "val": 18,
        "test": 10,
    }


def test_unknown_split__is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="split 'extra'"):
        run(make_items(3, split="extra"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_fractions__must_leave_something_for_train() -> None:
    with pytest.raises(ValueError, match="below 1"):
        PrepareSettings(val_fraction=0.5, test_fraction=0.5)


# Duplicates


def twins() -> list[SourceItem]:
    return [
        SourceItem(name=f"{split}/{number}", content=f"same {number}".encode(), split=split)
        for split in ("train", "val", "test")
        for number in (0, 0, 1)
    ]


def test_duplicates__are_listed_with_their_first_occurrence_and_kept(tmp_path: Path) -> None:
    summary = run(twins(), tmp_path)
    assert (summary.stored, summary.duplicates, summary.dropped) == (9, 7, 0)
    found = lines(tmp_path / "duplicates.jsonl")
    assert found[0] == {
        "source": "test/0",
        "split": "test",
        "first": "test/0",
        "first_split": "test",
        "dropped": False,
    }
    assert {entry["first_split"] for entry in found} == {"test"}


def test_dropping__keeps_test_whole_and_leaves_none_of_it_in_train(tmp_path: Path) -> None:
    settings = PrepareSettings(duplicates="drop")
    summary = run(twins(), tmp_path, settings)
    assert (summary.stored, summary.dropped) == (2, 7)
    assert stored_names(tmp_path, "test") == ["test/0", "test/1"]
    assert stored_names(tmp_path, "train") == []


def test_rejected_twins__are_no_duplicates(tmp_path: Path) -> None:
    items = [SourceItem(name=str(number), content=b"bad") for number in range(3)]
    summary = run([*items, *make_items(5)], tmp_path)
    assert (summary.rejected, summary.duplicates) == (3, 0)
