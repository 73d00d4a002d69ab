"""What makes an item that item: its bytes, its stretch of them, its part; and what rules it out."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from d2v.data import encoding
from d2v.data.encoding import encode_item
from d2v.data.plan import Plan
from d2v.data.prepare import PrepareSettings
from d2v.errors import UsageError
from d2v.samples import SourceItem, StoredSample
from tests.prepare_case import encode, interrupted, lines, make_items, run

TRAIN_ONLY = PrepareSettings(val_fraction=0)


@pytest.fixture(name="file")
def file_fixture(tmp_path: Path) -> Path:
    path = tmp_path / "raw" / "all.txt"
    path.parent.mkdir()
    path.write_bytes(b"one two one tw")
    return path


def whole_item(path: Path) -> SourceItem:
    return SourceItem(
        name="caf\udce9", path=path, offset=4, num_bytes=3, part="1.5 s", label="a\udce9",
        group="\udce9 and others", details={"said": "two \udce9"}, problem="odd \udce9",
    )  # fmt: skip


# Through the plan


def test_plan__gives_back_all_that_the_source_says(tmp_path: Path, file: Path) -> None:
    items = [whole_item(file), *make_items(3), SourceItem(name="file", path=file)]
    plan = Plan(tmp_path / "plan.sqlite")
    plan.fill(items, lambda count: None)
    found = [item for _, item in plan.items("train", plan.draw({}, 0, "sample"), 0)]
    plan.close()
    assert found == [replace(item, split="train") for item in items]


@pytest.mark.parametrize(
    "change",
    [{"name": "b"}, {"offset": 5}, {"num_bytes": 2}, {"num_bytes": None}, {"part": "2 s"},
     {"label": None}, {"split": "train"}, {"group": None}, {"details": {"said": "too"}},
     {"problem": None}],
)  # fmt: skip
def test_changed_source__is_noticed_in_everything_it_says(
    tmp_path: Path, file: Path, change: dict[str, Any]
) -> None:
    item = replace(whole_item(file), name="a")
    before, after, again = (
        [*make_items(30), given] for given in (item, replace(item, **change), replace(item))
    )
    interrupted(tmp_path / "out", before, after=20)
    with pytest.raises(UsageError, match="changed since"):
        run(after, tmp_path / "out")
    run(again, tmp_path / "out")


# Duplicates


def twins(items: list[SourceItem], dest: Path) -> dict[str, str]:
    """Name -> name of the first with the same identity."""
    summary = run(items, dest, TRAIN_ONLY)
    found = {entry["source"]: entry["first"] for entry in lines(dest / "duplicates.jsonl")}
    assert len(found) == summary.duplicates
    return found


def test_duplicates__are_found_by_their_stretch_of_a_file(tmp_path: Path, file: Path) -> None:
    cuts = {"one": (0, 3), "two": (4, 3), "one again": (8, 3), "tw": (12, None), "most": (4, None)}
    items = [
        SourceItem(name=name, path=file, offset=offset, num_bytes=size)
        for name, (offset, size) in cuts.items()
    ]
    items += [
        SourceItem(name="in memory", content=b"two"),
        SourceItem(name="whole", path=file),
        SourceItem(name="whole in memory", content=file.read_bytes()),
    ]
    assert twins(items, tmp_path / "out") == {
        "one again": "one",
        "in memory": "two",
        "whole in memory": "whole",
    }


def test_duplicates__parts_of_the_same_bytes_are_different(tmp_path: Path, file: Path) -> None:
    parts = {"a": "", "b": "0-1", "c": "1-2", "d": "0-1"}
    items = [SourceItem(name=name, path=file, part=part) for name, part in parts.items()]
    items.append(SourceItem(name="e", content=file.read_bytes(), part="1-2"))
    assert twins(items, tmp_path / "out") == {"d": "b", "e": "c"}


@pytest.mark.parametrize("part", ["", "1.5 s"])
@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 250, None])
def test_hash__is_of_what_reading_gives_however_it_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int | None, part: str
) -> None:
    monkeypatch.setattr(encoding, "CHUNK", 50)
    path = tmp_path / "raw"
    path.write_bytes(bytes(range(256)))
    item = SourceItem(name="a", path=path, offset=7, num_bytes=size, part=part)
    expected = hashlib.sha256(item.read()).digest()
    if part:
        expected = hashlib.sha256(expected + part.encode()).digest()
    found = encode_item(lambda item: [StoredSample(members={"txt": b""})], item)
    assert found.sha256 == expected


def test_hash__of_parts_follows_the_file_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "raw"
    item = SourceItem(name="a", path=path, part="1")
    hashes = set()
    for content in (b"first", b"second one"):
        path.write_bytes(content)
        hashes.add(encode_item(encode, item).sha256)
    assert len(hashes) == 2


# Ruled out


def test_problem__rejects_with_its_reason_and_nothing_is_read(tmp_path: Path) -> None:
    def reading(item: SourceItem) -> list[StoredSample]:
        assert item.problem is None
        return encode(item)

    items = make_items(5)
    items.append(SourceItem(name="ruled out", path=tmp_path / "gone", problem="named twice"))
    items.append(SourceItem(name="bytes of 0", content=items[0].content, problem="named twice"))
    summary = run(items, tmp_path / "out", TRAIN_ONLY, encoder=reading)
    assert summary.reasons == {"named twice": 2}
    assert (summary.stored, summary.duplicates, summary.total) == (5, 0, 7)
    rejected = lines(tmp_path / "out" / "rejected.jsonl")
    assert [entry["source"] for entry in rejected] == ["ruled out", "bytes of 0"]
