"""Proves: features read back from .npy, .parquet and shards are the same, ragged ones too."""

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from d2v.commands import embed_formats
from d2v.commands.embed_formats import format_of
from d2v.errors import UsageError
from tests.embed_case import (
    Floats,
    Run,
    Runs,
    contents,
    embedded,
    index,
    lines,
    npy,
    runs_fixture,
)

__all__ = ["runs_fixture"]


def parquet(path: Path) -> Any:
    return pytest.importorskip("pyarrow.parquet").ParquetFile(path)


def in_shards(out: Path) -> list[tuple[str, dict[str, Any], Floats]]:
    """Key, row and features of each sample, as anybody's WebDataset reader finds them."""
    urls = [str(path) for path in sorted(out.glob("*.tar"))] if out.is_dir() else str(out)
    samples = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode()
    found = [(one["__key__"], one["json"], one["features.npy"]) for one in samples]
    gc.collect()
    return found


def reading_shards(test: Callable[..., None]) -> Any:
    """Webdataset leaves files to the collector."""
    ignored = ("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
    return pytest.mark.filterwarnings(ignored[0])(pytest.mark.filterwarnings(ignored[1])(test))


@reading_shards
@pytest.mark.parametrize("per_token", [False, True])
def test_formats__hold_the_same_rows_and_numbers(
    runs: Runs, tmp_path: Path, per_token: bool
) -> None:
    run = runs("vision")
    asked = {"per_token": per_token}
    expected = npy(run, run.shards, out=tmp_path, **asked)
    rows = index(tmp_path)
    embedded(run, run.shards, out=tmp_path / "f.parquet", **asked)
    table = parquet(tmp_path / "f.parquet").read()
    assert table.column_names == ["input", "split", "start", "end", "label", "features"]
    assert np.array_equal(np.array(table["features"].to_pylist(), np.float32), expected)
    missing = {"start": None, "end": None}
    assert table.drop_columns("features").to_pylist() == [{**row, **missing} for row in rows]
    for name in ("f.tar", "shards"):
        embedded(run, run.shards, out=tmp_path / name, **asked)
        found = in_shards(tmp_path / name)
        assert [(key, row) for key, row, _ in found] == [
            (f"{number:09d}", row) for number, row in enumerate(rows)
        ]
        assert np.array_equal(np.stack([features for _, _, features in found]), expected)


@reading_shards
def test_ragged_features__are_lists_in_parquet_and_arrays_in_shards(
    runs: Runs, tmp_path: Path
) -> None:
    run = runs("speech-convolution")
    embedded(run, *run.files, out=tmp_path / "f.parquet", per_token=True)
    embedded(run, *run.files, out=tmp_path / "f.tar", per_token=True)
    file = parquet(tmp_path / "f.parquet")
    assert str(file.schema_arrow.field("features").type) == ("list<element: list<element: float>>")
    lists = file.read()["features"].to_pylist()
    arrays = [features for _, _, features in in_shards(tmp_path / "f.tar")]
    assert [len(one) for one in lists] == [21, 29, 9, 16]
    assert all(np.array_equal(np.float32(one), two) for one, two in zip(lists, arrays, strict=True))


def test_parquet__is_written_in_row_groups_of_a_limited_size(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed_formats, "_GROUP_ROWS", 3)
    run = runs("vision")
    embedded(run, *run.files, run.files[0], out=tmp_path / "f.parquet", batch_size=2)
    file = parquet(tmp_path / "f.parquet")
    sizes = [file.metadata.row_group(n).num_rows for n in range(file.metadata.num_row_groups)]
    assert sizes == [3, 2]
    monkeypatch.setattr(embed_formats, "_GROUP_BYTES", 2 * 16 * 4)
    embedded(run, *run.files, run.files[0], out=tmp_path / "g.parquet", batch_size=2)
    assert parquet(tmp_path / "g.parquet").metadata.num_row_groups == 3


@reading_shards
def test_shards__end_where_they_are_full(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs("vision")
    monkeypatch.setattr(embed_formats, "SHARD_SAMPLES", 3)
    embedded(run, *run.files, out=tmp_path / "few")
    monkeypatch.setattr(embed_formats, "SHARD_SAMPLES", 1000)
    monkeypatch.setattr(embed_formats, "SHARD_BYTES", 2500)
    embedded(run, *run.files, out=tmp_path / "small")
    for name in ("few", "small"):
        shards = [f"features-{n:06d}.tar" for n in range(2)]
        assert sorted(contents(tmp_path / name)) == [*shards, "features.json"]
        assert len(in_shards(tmp_path / name)) == 4


def test_record__says_how_features_were_made(runs: Runs, tmp_path: Path) -> None:
    run = runs("vision")
    embedded(run, run.shards, out=tmp_path / "f.npy", block=1)
    record = json.loads((tmp_path / "f.npy.json").read_text())
    assert record["weights"].endswith("step-000000007")
    assert (record["rows"], record["errors"], record["shape"]) == (4, 0, [16])
    settings = record["settings"]
    assert (settings["pool"], settings["block"], settings["network"]) == ("mean", 1, "student")
    assert sorted(path.name for path in tmp_path.glob("*f.npy*")) == [
        "f.npy", "f.npy.index.jsonl", "f.npy.json",
    ]  # fmt: skip


@reading_shards
def test_inputs_that_cannot_be_used__are_listed_beside_the_others(
    runs: Runs, tmp_path: Path
) -> None:
    run = runs("vision")
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    for name, listed in (("f.npy", "f.npy.errors.jsonl"), ("shards", "shards/errors.jsonl")):
        outcome = embedded(run, run.files[0], bad, *run.files[1:], out=tmp_path / name)
        assert (outcome.num_inputs, outcome.num_bad) == (5, 1)
        (row,) = lines(tmp_path / listed)
        assert row == {"input": str(bad), "error": row["error"]}
        assert "not a picture" in row["error"]
    assert len(np.load(tmp_path / "f.npy")) == len(in_shards(tmp_path / "shards")) == 4


def test_samples_of_shards_that_cannot_be_used__are_listed_with_their_reason(
    runs: Runs, tmp_path: Path
) -> None:
    run = runs("vision", data={"verify": "size"})
    spoil(run, 1)
    found = npy(run, run.shards, out=tmp_path)
    assert [row["input"] for row in index(tmp_path)] == ["0.png", "2.png", "3.png"]
    assert len(found) == 3
    (row,) = lines(tmp_path / "f.npy.errors.jsonl")
    assert (row["input"], row["split"]) == ("1.png", "train")
    assert "changed since it was written" in row["error"]


def spoil(run: Run, place: int) -> None:
    """Change a pixel of one stored picture."""
    tar = run.shards / "train" / "train-000000.tar"
    content, at = bytearray(tar.read_bytes()), -1
    for _ in range(place + 1):
        at = content.index(b"\x89PNG", at + 1)
    content[at + 45] ^= 1
    tar.write_bytes(content)


def test_parquet__without_pyarrow_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pyarrow, which is not installed.*d2v\[parquet\]"):
        format_of(Path("f.parquet"))
