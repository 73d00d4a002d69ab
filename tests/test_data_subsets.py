"""Proves: subsets of train are what was asked for, fair to classes, nested, and always the same."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from d2v.data.amounts import parsed
from d2v.data.prepare import PrepareSettings, clear
from d2v.data.shards import Shards
from d2v.data.subsets import Unit, check_units, subset_numbers, subset_order, write_subsets
from d2v.errors import UsageError
from d2v.samples import SourceItem, StoredSample
from tests.prepare_case import digests, make_items, run

SECONDS = Unit("seconds", 10)
ALL_TRAIN = PrepareSettings(val_fraction=0, shard_samples=7)


def longer(item: SourceItem) -> list[StoredSample]:
    """One sample, 10 to 50 long."""
    return [StoredSample(members={"txt": item.read()}, length=10 * (len(item.read()) % 5 + 1))]


def prepared(folder: Path, count: int = 60, labels: int = 3) -> Shards:
    run(make_items(count, labels=labels), folder, ALL_TRAIN, encoder=longer)
    return Shards.open(folder / "train")


def written(folder: Path, seed: int = 0, /, **amounts: str) -> dict[str, list[int]]:
    """Name -> places, read back."""
    checked = PrepareSettings(subsets=amounts).subsets
    write_subsets(folder, checked, seed=seed, unit=SECONDS)
    train = Shards.open(folder / "train")
    return {name: subset_numbers(folder, name, train).tolist() for name in amounts}


# Amounts


@pytest.mark.parametrize(
    ("given", "kept", "number", "unit"),
    [("10 %", "10 %", 10.0, "%"), ("0.5%", "0.5 %", 0.5, "%"), ("20 a class", "20 a class", 20.0,
     "a class"), ("20  a  class", "20 a class", 20.0, "a class"), ("600 seconds", "600 seconds",
     600.0, "seconds"), ("360000 seconds", "360000 seconds", 360_000.0, "seconds")],
)  # fmt: skip
def test_amount__is_a_number_and_a_measure(given: str, kept: str, number: float, unit: str) -> None:
    settings = PrepareSettings(subsets={"few": given})
    assert settings.subsets == {"few": kept}
    assert parsed(kept) == (number, unit)
    assert PrepareSettings(subsets={"few": kept}) == settings


@pytest.mark.parametrize(
    ("name", "amount", "words"),
    [("a", "10", "none of"), ("a", "", "none of"), ("a", "-1 %", "none of"), ("a", "nan %", "none"),
     ("a", "0 %", "above 0"), ("a", "101 %", "up to 100"), ("a", "1.5 a class", "whole number"),
     ("a", "0 seconds", "above 0"), ("all", "1 %", "whole split"), ("a/b", "1 %", "letters"),
     ("", "1 %", "letters"), ("..", "1 %", "letters")],
)  # fmt: skip
def test_nonsense__is_refused(name: str, amount: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        PrepareSettings(subsets={name: amount})


def test_length_in_another_unit__is_refused() -> None:
    amounts = {"a": "10 %", "b": "5 a class", "c": "600 seconds"}
    check_units(amounts, SECONDS)
    with pytest.raises(UsageError, match=r"subsets\.c is '600 seconds'.*'600 tokens'"):
        check_units(amounts, Unit("tokens", 1))


# The order


def slow_order(labels: list[int], keys: list[str], seed: int) -> list[int]:
    """Written from the description, class by class."""
    tickets = {key: hashlib.sha256(f"d2v subset {seed} {key}".encode()).hexdigest() for key in keys}
    first: list[tuple[float, str, int]] = []
    rest: list[tuple[float, str, int]] = []
    for label in set(labels):
        members = [i for i in range(len(keys)) if labels[i] == label]
        members.sort(key=lambda i: tickets[keys[i]])
        for k, i in enumerate(members):
            (rest if k else first).append(((k + 0.5) / len(members), tickets[keys[i]], i))
    return [i for *_, i in sorted(first) + sorted(rest)]


@pytest.mark.parametrize("seed", range(5))
def test_order__is_that_of_the_description(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.integers(-1, 4, size=83)
    keys = [f"{number:09d}" for number in range(83)]
    assert subset_order(labels, keys, seed).tolist() == slow_order(labels.tolist(), keys, seed)


@pytest.mark.parametrize("seed", range(5))
def test_every_beginning_of_the_order__is_fair_to_classes(seed: int) -> None:
    sizes = {0: 100, 1: 30, 2: 5, -1: 15}
    labels = np.repeat(list(sizes), list(sizes.values()))
    order = subset_order(labels, [str(i) for i in range(150)], seed)
    for count in range(1, 151):
        found = Counter(labels[order[:count]].tolist())
        for label, size in sizes.items():
            share = count * size / 150
            assert abs(found[label] - share) <= 2.5, (count, label)
            assert found[label] >= (count >= len(sizes))


def test_order__is_drawn_anew_with_another_seed() -> None:
    labels, keys = np.zeros(50, np.int64), [str(i) for i in range(50)]
    orders = {tuple(subset_order(labels, keys, seed).tolist()) for seed in range(20)}
    assert len(orders) == 20


# What is chosen


def test_percent__is_that_part_of_the_samples(tmp_path: Path) -> None:
    prepared(tmp_path)
    found = written(tmp_path, a="10 %", b="0.1 %", c="100 %")
    assert [len(found[name]) for name in "abc"] == [6, 1, 60]
    assert found["a"] == sorted(found["a"])


def test_a_class__has_exactly_so_many_of_each(tmp_path: Path) -> None:
    shards = prepared(tmp_path, labels=4)
    found = written(tmp_path, few="3 a class")["few"]
    assert Counter(shards.labels[found].tolist()) == {0: 3, 1: 3, 2: 3, 3: 3}


def test_a_class__leaves_out_what_has_none(tmp_path: Path) -> None:
    items = make_items(20, labels=2) + make_items(20, labels=0)
    run([i for i in items if i.label] + [i for i in items if not i.label], tmp_path, ALL_TRAIN)
    shards = Shards.open(tmp_path / "train")
    assert (shards.labels == -1).sum() == 20
    found = written(tmp_path, few="4 a class")["few"]
    assert Counter(shards.labels[found].tolist()) == {0: 4, 1: 4}


@pytest.mark.parametrize("seed", range(4))
def test_length__is_not_exceeded_and_the_next_sample_would(tmp_path: Path, seed: int) -> None:
    shards = prepared(tmp_path)
    found = written(tmp_path, seed, few="30 seconds")["few"]
    total = int(shards.lengths[found].sum())
    assert total <= 300
    keys = [shards.key(i) for i in range(len(shards))]
    following = subset_order(shards.labels, keys, seed)[len(found)]
    assert total + int(shards.lengths[following]) > 300


def test_length__holds_one_sample_at_least(tmp_path: Path) -> None:
    prepared(tmp_path)
    assert len(written(tmp_path, few="0.01 seconds")["few"]) == 1


@pytest.mark.parametrize("seed", range(4))
def test_smaller_subsets__lie_in_larger_ones(tmp_path: Path, seed: int) -> None:
    prepared(tmp_path, count=90)
    percents = written(tmp_path, seed, a="1 %", b="10 %", c="30 %", d="70 %")
    classes = written(tmp_path, seed, a="1 a class", b="2 a class", c="9 a class")
    lengths = written(tmp_path, seed, a="9 seconds", b="60 seconds", c="100 seconds")
    for found in (percents, classes, lengths):
        chain = [set(numbers) for numbers in found.values()]
        assert all(small < large for small, large in zip(chain, chain[1:], strict=False))
    assert set(classes["b"]) < set(percents["d"])


@pytest.mark.parametrize(
    ("amount", "words"),
    [("31 a class", r"asks for 31 a class, and class 0 has 20 in train.*stays"),
     ("1e9 seconds", None), ("9999 seconds", r"asks for 9999 seconds, and train has .* seconds")],
)  # fmt: skip
def test_more_than_there_is__is_refused_and_nothing_written(
    tmp_path: Path, amount: str, words: str | None
) -> None:
    prepared(tmp_path)
    if words is None:
        with pytest.raises(ValidationError, match="none of"):
            PrepareSettings(subsets={"much": amount})
        return
    before = digests(tmp_path)
    with pytest.raises(UsageError, match=words):
        written(tmp_path, some="10 %", much=amount)
    assert digests(tmp_path) == before


def test_a_class__needs_classes(tmp_path: Path) -> None:
    prepared(tmp_path, labels=0)
    with pytest.raises(UsageError, match="no sample of train has a class"):
        written(tmp_path, few="1 a class")


# The file


def test_file__tells_amount_seed_samples_length_and_keys(tmp_path: Path) -> None:
    shards = prepared(tmp_path)
    numbers = written(tmp_path, 3, few="10 %")["few"]
    record = json.loads((tmp_path / "subsets.json").read_text())
    assert record == {
        "few": {
            "amount": "10 %",
            "seed": 3,
            "samples": 6,
            "length": int(shards.lengths[numbers].sum()),
            "train_sha256": shards.fingerprint,
            "keys": [shards.key(i) for i in numbers],
        }
    }


def test_file__has_the_same_bytes_whatever_the_workers_and_the_order_of_names(
    tmp_path: Path,
) -> None:
    for folder, amounts in (("0", {"a": "10 %", "b": "1 %"}), ("2", {"b": "1 %", "a": "10 %"})):
        settings = ALL_TRAIN.model_copy(update={"workers": int(folder)})
        run(make_items(60), tmp_path / folder, settings, encoder=longer)
        written(tmp_path / folder, **amounts)
    assert digests(tmp_path / "0") == digests(tmp_path / "2")


def test_file__is_left_alone_when_it_says_the_same_and_goes_with_the_last_subset(
    tmp_path: Path,
) -> None:
    prepared(tmp_path)
    path = tmp_path / "subsets.json"
    written(tmp_path, a="10 %")
    first = path.stat()
    written(tmp_path, a="10 %")
    assert path.stat().st_mtime_ns == first.st_mtime_ns
    written(tmp_path, a="10 %", b="20 %")
    assert set(json.loads(path.read_text())) == {"a", "b"}
    assert written(tmp_path) == {}
    assert not path.exists()


def test_clear__takes_the_file_away_with_the_shards(tmp_path: Path) -> None:
    prepared(tmp_path)
    written(tmp_path, a="10 %")
    (tmp_path / "note.txt").write_text("mine")
    clear(tmp_path)
    assert sorted(digests(tmp_path)) == ["note.txt"]


# The reader


def test_all__is_every_sample_without_any_file(tmp_path: Path) -> None:
    shards = prepared(tmp_path)
    assert subset_numbers(tmp_path, "all", shards).tolist() == list(range(60))


def test_unknown_name__is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    shards = prepared(tmp_path)
    with pytest.raises(UsageError, match=r"no subset '1h'.*Expected: all\..*prepare\.subsets\.1h"):
        subset_numbers(tmp_path, "1h", shards)
    written(tmp_path, percent10="10 %", few="1 %")
    with pytest.raises(UsageError, match=r"all, few, percent10.*Did you mean percent10\?"):
        subset_numbers(tmp_path, "percent1", shards)


@pytest.mark.parametrize("content", ["{", "[]", '{"a": {}}', '{"a": {"keys": 1}}', '{"a": 1}'])
def test_damaged_file__is_refused(tmp_path: Path, content: str) -> None:
    shards = prepared(tmp_path)
    (tmp_path / "subsets.json").write_text(content)
    with pytest.raises(UsageError, match=r"damaged.*prepare again"):
        subset_numbers(tmp_path, "a", shards)


def test_subset_of_other_shards__is_refused(tmp_path: Path) -> None:
    prepared(tmp_path / "a")
    written(tmp_path / "a", few="10 %")
    other = prepared(tmp_path / "b", count=61)
    with pytest.raises(UsageError, match="written for other shards"):
        subset_numbers(tmp_path / "a", "few", other)
