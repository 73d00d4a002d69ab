"""The files that features are handed on in: .npy, .parquet, WebDataset shards."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from d2v.commands.embed_source import Floats, Row
from d2v.data.files import whole_file
from d2v.data.shardfile import ShardFile
from d2v.errors import UsageError

Rows = Iterable[tuple[Row, Floats]]

SHARD_SAMPLES = 10_000
SHARD_BYTES = 256 * 10**6
"""A shard that holds so much is full."""
_GROUP_ROWS = 1024
_GROUP_BYTES = 32 << 20
"""A row group of a .parquet that holds so much is full."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """One way to write features.

    Args:
        write: file or folder to write, rows, their number, shape of the first.
        ragged: whether samples may differ in their number of tokens.
        is_folder: whether it is a folder of files.
    """

    write: Callable[[Path, Rows, int, tuple[int, ...]], None]
    ragged: bool = True
    is_folder: bool = False


def format_of(out: Path) -> Format:
    """The format that a name asks for.

    Raises:
        UsageError: its ending says nothing, or what it needs is not installed.
    """
    if out.suffix not in FORMATS:
        raise UsageError(
            f"{out} ends in {out.suffix}",
            expected=".npy, .parquet, .tar (one WebDataset shard), or a name without an ending for "
            "a folder of shards",
        )
    if out.suffix == ".parquet":
        _pyarrow()
    return FORMATS[out.suffix]


def index_of(out: Path) -> Path:
    """Where line n says what row n of a .npy is of."""
    return out.with_name(f"{out.name}.index.jsonl")


def _write_npy(out: Path, rows: Rows, count: int, shape: tuple[int, ...]) -> None:
    """(N, F), or (N, T, F) per token, float32."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (count, *shape)}
    with whole_file(out) as file, whole_file(index_of(out)) as index:
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, header)
        file.write(head.getvalue())
        for row, features in rows:
            file.write(features.astype("<f4").tobytes())
            index.write(json.dumps(row).encode() + b"\n")


def _write_parquet(out: Path, rows: Rows, count: int, shape: tuple[int, ...]) -> None:
    """A row a sample; features are a list of numbers, or of a list for each token."""
    arrow, parquet = _pyarrow()
    numbers = arrow.list_(arrow.float32())
    texts = {name: arrow.string() for name in ("input", "split", "label")}
    columns = {
        "input": texts["input"], "split": texts["split"], "start": arrow.float64(),
        "end": arrow.float64(), "label": texts["label"],
        "features": numbers if len(shape) == 1 else arrow.list_(numbers),
    }  # fmt: skip
    schema = arrow.schema(list(columns.items()))
    with out.open("wb") as file, parquet.ParquetWriter(file, schema) as writer:
        for group in _row_groups(rows):
            values: dict[str, Any] = {
                name: [_storable(row.get(name)) for row, _ in group] for name in columns
            }
            values["features"] = _lists(arrow, [features for _, features in group])
            writer.write_table(arrow.table(values, schema=schema))


def _lists(arrow: Any, features: list[Floats]) -> Any:
    """Arrow's lists around the numbers as they lie in memory: Python floats would take long."""
    array = arrow.array(np.concatenate([one.ravel() for one in features]))
    width = features[0].shape[-1]
    if features[0].ndim == 2:
        tokens = sum(len(one) for one in features)
        array = arrow.ListArray.from_arrays(_offsets([width] * tokens), array)
        return arrow.ListArray.from_arrays(_offsets([len(one) for one in features]), array)
    return arrow.ListArray.from_arrays(_offsets([width] * len(features)), array)


def _offsets(lengths: list[int]) -> Any:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def _storable(value: object) -> object:
    """File names may hold bytes that are no text, and Arrow's strings may not."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value


def _row_groups(rows: Rows) -> Iterator[list[tuple[Row, Floats]]]:
    group: list[tuple[Row, Floats]] = []
    size = 0
    for row, features in rows:
        group.append((row, features))
        size += features.nbytes
        if len(group) == _GROUP_ROWS or size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _write_tar(out: Path, rows: Rows, count: int, shape: tuple[int, ...]) -> None:
    """One shard: KEY.features.npy and KEY.json of each sample."""
    shard = ShardFile(out)
    try:
        for number, (row, features) in enumerate(rows):
            shard.add(f"{number:09d}", _members(row, features))
        shard.commit()
    except BaseException:
        shard.discard()
        raise


def _write_shards(out: Path, rows: Rows, count: int, shape: tuple[int, ...]) -> None:
    """Shards of a limited size."""
    out.mkdir()
    shard: ShardFile | None = None
    num_shards = 0
    try:
        for number, (row, features) in enumerate(rows):
            if shard is not None and _is_full(shard):
                shard.commit()
                shard = None
            if shard is None:
                shard = ShardFile(out / f"features-{num_shards:06d}.tar")
                num_shards += 1
            shard.add(f"{number:09d}", _members(row, features))
        if shard is not None:
            shard.commit()
    except BaseException:
        if shard is not None:
            shard.discard()
        raise


def _is_full(shard: ShardFile) -> bool:
    return shard.num_samples >= SHARD_SAMPLES or shard.data_bytes >= SHARD_BYTES


def _members(row: Row, features: Floats) -> dict[str, bytes]:
    content = io.BytesIO()
    np.lib.format.write_array(content, features, allow_pickle=False)
    return {"features.npy": content.getvalue(), "json": json.dumps(row).encode()}


def _pyarrow() -> tuple[Any, Any]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise UsageError(
            "A .parquet is written by pyarrow, which is not installed",
            remedy="Run pip install 'd2v[parquet]', or write a .npy or a folder of shards.",
        ) from error


FORMATS = {
    ".npy": Format(write=_write_npy, ragged=False),
    ".parquet": Format(write=_write_parquet),
    ".tar": Format(write=_write_tar),
    "": Format(write=_write_shards, is_folder=True),
}
"""How a file's name ends -> how it is written."""
