"""Proves: labels that are numbers are stored as such, make no classes, and nonsense is rejected."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from d2v.data.numbers import encode_numbered, numbered
from d2v.data.shards import Shards
from d2v.modalities.base import SourceSettings
from d2v.samples import SourceItem, StoredSample
from d2v.types import NUMBER
from tests.prepare_case import SMALL, digests, lines, run


def items(*labels: str | None) -> list[SourceItem]:
    return [
        SourceItem(name=f"{place}", content=b"content of %d" % place, label=label)
        for place, label in enumerate(labels)
    ]


@pytest.mark.parametrize(
    ("label", "stored"),
    [("5.000", b"5.0"), ("3", b"3.0"), (" -0.25 ", b"-0.25"), ("1e-3", b"0.001"), (".5", b"0.5"),
     ("+2.", b"2.0"), ("0.1", b"0.1"), ("1E5", b"100000.0")],
)  # fmt: skip
def test_number__is_stored_as_python_writes_it(tmp_path: Path, label: str, stored: bytes) -> None:
    run(numbered(lambda: items(label)), tmp_path)
    (split,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    shards = Shards.open(split)
    assert shards.read(0)[NUMBER] == stored
    assert shards.labels.tolist() == [-1]
    assert shards.classes == []


@pytest.mark.parametrize(
    "label", ["nan", "NaN", "inf", "-Infinity", "1e999", "high", "3,5", "1_000", "0x10", "١", "-"]
)
def test_what_is_no_finite_number__is_rejected_with_the_reason(tmp_path: Path, label: str) -> None:
    summary = run(numbered(lambda: items("1", label)), tmp_path)
    assert (summary.stored, summary.rejected) == (1, 1)
    (entry,) = lines(tmp_path / "rejected.jsonl")
    assert entry["reason"] == f"its label {label!r} is not a finite number"


def test_a_long_label__is_repeated_in_part() -> None:
    (item,) = numbered(lambda: items("x" * 1000))
    assert item.problem is not None
    assert len(item.problem) < 100


def test_item_without_label__has_no_number(tmp_path: Path) -> None:
    run(numbered(lambda: items(None, "2")), tmp_path)
    shards = Shards.open(tmp_path / "train")
    assert [shards.read(i).get(NUMBER) for i in range(2)] == [None, b"2.0"]
    assert shards.having(NUMBER).tolist() == [1]


def test_item_with_a_problem__keeps_it() -> None:
    sick = SourceItem(name="a", label="nonsense", problem="it is sick")
    (item,) = numbered(lambda: [sick])
    assert item.problem == "it is sick"


def test_draw_of_splits__does_not_see_the_numbers(tmp_path: Path) -> None:
    # Every number once: stratified by them, all would stay in train.
    summary = run(numbered(lambda: items(*map(str, range(50)))), tmp_path)
    counts = {name: split.num_samples for name, split in summary.splits.items()}
    assert counts == {"train": 35, "val": 10, "test": 5}


def test_bytes__are_the_same_with_workers(tmp_path: Path) -> None:
    for workers in (0, 2):
        settings = SMALL.model_copy(update={"workers": workers})
        run(numbered(lambda: items("1", "x", "2.5", None)), tmp_path / str(workers), settings)
    assert digests(tmp_path / "0") == digests(tmp_path / "2")


def test_encoder__is_given_the_number_as_a_label() -> None:
    seen = []

    def encode(item: SourceItem) -> list[StoredSample]:
        seen.append(item.label)
        return [StoredSample(members={"txt": b"a"}), StoredSample(members={"txt": b"b"})]

    (item,) = numbered(lambda: items("1.50"))
    assert item.label is None
    samples = encode_numbered(encode, item)
    assert seen == ["1.5"]
    assert [sample.members for sample in samples] == [
        {"txt": b"a", NUMBER: b"1.5"},
        {"txt": b"b", NUMBER: b"1.5"},
    ]


def test_speakers__are_no_numbers() -> None:
    with pytest.raises(ValidationError, match="exclude each other"):
        SourceSettings(label_kind="number", label_from="speaker")
