"""Every sample's length and what a reader must know come back from an index, or make sense."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from d2v.data.prepare import PrepareSettings
from d2v.data.shards import Shards
from d2v.errors import UsageError
from tests.prepare_case import encode_several, make_items, run, stored_names
from tests.shards_case import edit_index

ABOUT = {"rate": 16_000, "names": ["a", "b"]}


def test_lengths__come_back_for_every_sample(tmp_path: Path) -> None:
    by_name = {item.name: item for item in make_items(60)}
    summary = run(by_name.values(), tmp_path, encoder=encode_several)
    for split, part in summary.splits.items():
        shards = Shards.open(tmp_path / split)
        names = dict.fromkeys(stored_names(tmp_path, split))
        expected = [sample.length for name in names for sample in encode_several(by_name[name])]
        assert shards.lengths.dtype == np.int64
        assert shards.lengths.tolist() == expected
        assert part.length == sum(expected)


def test_lengths__are_one_where_the_index_says_nothing(tmp_path: Path) -> None:
    summary = run(make_items(20), tmp_path, PrepareSettings(val_fraction=0))
    assert "length" not in (tmp_path / "train" / "index.json").read_text().replace("num_", "")
    assert Shards.open(tmp_path / "train").lengths.tolist() == [1] * 20
    assert summary.splits["train"].length == 20


@pytest.mark.parametrize("length", [0, -3, 2.5, "7", None, 2**63])
def test_lengths__that_make_no_sense_are_refused(tmp_path: Path, length: Any) -> None:
    run(make_items(5), tmp_path, PrepareSettings(val_fraction=0))
    index = json.loads((tmp_path / "train" / "index.json").read_text())
    index["shards"][0]["samples"][2]["length"] = length
    edit_index(tmp_path / "train", **index)
    with pytest.raises(UsageError, match=r"index.json is damaged"):
        Shards.open(tmp_path / "train")


def test_about__comes_back_from_every_split(tmp_path: Path) -> None:
    run(make_items(60), tmp_path, about={**ABOUT, "names": ("a", "b")})
    for split in ("train", "val", "test"):
        assert Shards.open(tmp_path / split).about == ABOUT


def test_about__is_empty_in_an_index_without_it(tmp_path: Path) -> None:
    run(make_items(20), tmp_path, PrepareSettings(val_fraction=0))
    path = tmp_path / "train" / "index.json"
    index = json.loads(path.read_text())
    assert index.pop("about") == {}
    path.write_text(json.dumps(index))
    assert Shards.open(tmp_path / "train").about == {}
    edit_index(tmp_path / "train", about=[1])
    with pytest.raises(UsageError, match=r"index.json is damaged"):
        Shards.open(tmp_path / "train")


def test_about__binds_a_preparation(tmp_path: Path) -> None:
    run(make_items(20), tmp_path, about=ABOUT)
    run(make_items(20), tmp_path, about=ABOUT)
    with pytest.raises(UsageError, match="--fresh"):
        run(make_items(20), tmp_path, about={**ABOUT, "rate": 8000})
