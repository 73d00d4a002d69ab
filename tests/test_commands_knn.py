"""Proves: the held-out kNN score is logged where both splits have labels, and nowhere else."""

from pathlib import Path

import pytest

from d2v.commands.knn import held_out, knn_score
from d2v.commands.options import Options
from d2v.config import load_recipe
from d2v.data.prepare import PrepareSettings, prepare
from d2v.data.shards import Shards
from d2v.data2vec import Data2Vec
from d2v.engine.distributed import World
from d2v.recipe import Recipe
from d2v.samples import SourceItem, StoredSample
from tests.training_case import make_job, picture, write_recipe


def made(folder: Path, unlabelled: str) -> Shards:
    """24 pictures of two classes in train and in val; one of the splits may go without labels."""

    def encode(item: SourceItem) -> list[StoredSample]:
        return [StoredSample(members={"png": item.read()})]

    items = [
        SourceItem(
            name=f"{split}/{number}.png", content=picture(number + 100 * (split == "val")),
            split=split, label=None if split == unlabelled else "ab"[number % 2],
        )
        for split in ("train", "val")
        for number in range(24)
    ]  # fmt: skip
    prepare(lambda: items, encode, folder, PrepareSettings(), seed=0)
    return Shards.open(folder / "train")


@pytest.mark.parametrize("unlabelled", ["", "train", "val"])
def test_knn_score__needs_labels_in_both_splits(tmp_path: Path, unlabelled: str) -> None:
    shards = made(tmp_path / "shards", unlabelled)
    loaded = load_recipe(str(write_recipe(tmp_path, shards)), [], Recipe)
    model = make_job(shards, tmp_path / "job").objective
    told: list[str] = []
    splits = held_out(loaded, Options(out=tmp_path), shards)
    if unlabelled:
        assert splits is None
    else:
        assert splits is not None
        assert isinstance(model, Data2Vec)
        score = knn_score(loaded.settings, splits, model, World(), told.append)
        assert 0 <= score()["knn"] <= 1
    assert told == []
