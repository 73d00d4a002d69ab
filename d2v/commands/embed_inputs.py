"""What a person names to be embedded: prepared shards, or raw inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from d2v.build import check_samples
from d2v.commands.embed_model import Embedder
from d2v.commands.embed_source import PreparedSplits, RawInputs, Source
from d2v.commands.stage import open_split, spare_workers
from d2v.data.index import FORMAT
from d2v.data.shards import Shards
from d2v.errors import UsageError

_SPLITS = ("train", "val", "test")


def open_source(
    embedder: Embedder, inputs: Sequence[Path | bytes], split: str | None, batch_size: int
) -> Source:
    """Prepared splits where the inputs are that, else raw inputs.

    Args:
        embedder: what reads them.
        inputs: files, folders, prepared splits or sets; bytes are what came through standard input.
        split: of prepared sets; None for all.
        batch_size: samples at once.

    Raises:
        UsageError: both kinds, no such split, two of one name, nothing in the inputs, or shards
            that the encoder cannot read.
    """
    prepared = {given: _splits(given) for given in inputs if isinstance(given, Path)}
    raw = [given for given in inputs if isinstance(given, bytes) or not prepared[given]]
    workers = spare_workers(embedder.recipe)
    if len(raw) == len(inputs):
        if split is not None:
            raise UsageError(f"--split {split} is of prepared shards, and the inputs are none")
        return RawInputs(embedder, inputs, batch_size, workers)
    if raw:
        raise UsageError(
            "Prepared shards and raw inputs are named together",
            expected="one kind: samples of shards have a split, and raw inputs have none",
            remedy="Embed them one after the other, each to a file of its own.",
        )
    splits: dict[str, Shards] = {}
    for given, found in prepared.items():
        for folder in _chosen(given, found, split):
            if folder.name in splits:
                raise UsageError(
                    f"Two of the inputs have a split {folder.name}",
                    remedy="Embed them one after the other, each to a file of its own.",
                )
            splits[folder.name] = _opened(folder, embedder)
    return PreparedSplits(embedder, splits, batch_size, workers)


def _splits(given: Path) -> dict[str, Path]:
    """The splits of prepared shards that a folder is or holds, by name, training data first."""
    if _is_split(given):
        return {given.resolve().name: given.resolve()}
    if not given.is_dir():
        return {}
    found = {path.parent.name: path.parent for path in given.glob("*/index.json")}
    names = [name for name in _SPLITS if name in found] + sorted(found.keys() - {*_SPLITS})
    return {name: found[name] for name in names if _is_split(found[name])}


def _is_split(folder: Path) -> bool:
    """Whether its index.json is of ours: a folder of pictures may have another one."""
    path = folder / "index.json"
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return FORMAT.encode() in file.read(4096)


def _chosen(given: Path, found: dict[str, Path], split: str | None) -> list[Path]:
    if split is None:
        return list(found.values())
    if split not in found:
        raise UsageError(
            f"There is no split {split} in {given}", expected=f"one of {', '.join(found)}"
        )
    return [found[split]]


def _opened(folder: Path, embedder: Embedder) -> Shards:
    shards = open_split(embedder.recipe, folder.parent, folder.name)
    check_samples(embedder.recipe, shards, embedder.trained_on, str(embedder.place))
    return shards
