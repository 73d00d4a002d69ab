"""Proves: d2v prepare writes subsets and further test sets, and what may be changed later."""

import json
from pathlib import Path

import numpy as np
import pytest

from d2v.data.shards import Shards
from d2v.data.subsets import subset_numbers
from tests.hostile_case import d2v, desk_fixture, left, photos, refused, worked
from tests.prepare_case import digests

__all__ = ["desk_fixture"]

SETS = Path("runs/my/prepare/shards")
TABLE = """\
# @package _global_
device: cpu
modality: {name: vision, frontend: {image_size: 8, patch_size: 2}}
encoder: {dim: 16, depth: 1, num_heads: 2}
data: {source: photos, workers: 0}
prepare: {val_fraction: 0.25, subsets: {few: 2 a class, third: 30 %}}
finetune: {task: {name: classify}, steps: 2, batch_size: 4}
"""


@pytest.fixture(name="mine")
def mine_fixture(desk: Path) -> Path:
    """A recipe that fine-tunes, and 24 pictures of two classes."""
    (desk / "my.yaml").write_text(TABLE)
    return desk


def numbers(name: str, folder: Path = SETS / "common") -> list[int]:
    return [int(i) for i in subset_numbers(folder, name, Shards.open(folder / "train"))]


def test_subsets__are_written_and_told(mine: Path) -> None:
    worked(d2v("prepare", "my.yaml"), "subset few (2 a class): 4 of train", "subset third (30 %)")
    labels = Shards.open(SETS / "common/train").labels
    assert sorted(labels[numbers("few")].tolist()) == [0, 0, 1, 1]
    assert len(numbers("third")) == 5
    assert set(numbers("few")) <= set(numbers("third"))


def test_subsets__can_be_added_and_changed_when_all_is_prepared(mine: Path) -> None:
    worked(d2v("prepare", "my.yaml"))
    before = digests(SETS)
    few = numbers("few")
    result = d2v("prepare", "my.yaml", "prepare.subsets.half=50 %", "prepare.subsets.third=40 %")
    worked(result, "already finished", "subset half (50 %): 9 of train", "subset third (40 %)")
    assert numbers("few") == few
    assert len(numbers("third")) == 7
    after = digests(SETS)
    assert {name for name in after if after[name] != before.get(name)} == {"common/subsets.json"}
    worked(d2v("prepare", "my.yaml"))
    assert digests(SETS) == before


def test_subset_beyond_the_data__is_refused_and_what_is_stored_stays(mine: Path) -> None:
    much = "prepare.subsets.much=10 a class"
    refused(d2v("prepare", "my.yaml", much), "10 a class", "has 9 in train", "stays")
    stored = digests(SETS)
    assert "common/train/index.json" in stored
    worked(d2v("prepare", "my.yaml"))
    assert stored.items() <= digests(SETS).items()
    refused(d2v("prepare", "my.yaml", much), "10 a class", "has 9 in train")


def test_subset_in_another_unit__is_refused_before_anything_is_made(mine: Path) -> None:
    seconds = "prepare.subsets.short=600 seconds"
    refused(d2v("prepare", "my.yaml", seconds), "600 seconds", "'600 pictures'")
    assert left(Path("runs")) == []
    refused(d2v("prepare", "my.yaml", seconds, "--dry-run"), "600 seconds")
    worked(
        d2v("prepare", "my.yaml", "--dry-run"), "subsets of train: few (2 a class), third (30 %)"
    )


def test_subsets__are_of_the_set_that_finetuning_reads(mine: Path) -> None:
    photos(Path("others"), "a", "b", "c")
    worked(d2v("prepare", "my.yaml", "data.finetune.source=others", "probe={}"))
    assert sorted(path.parent.name for path in SETS.glob("*/subsets.json")) == ["finetune"]
    assert len(numbers("few", SETS / "finetune")) == 6


def test_further_test_set__holds_all_of_a_folder_without_splits(mine: Path) -> None:
    photos(Path("others"), "cat")
    worked(d2v("prepare", "my.yaml", "data.tests.strange.source=others"), "tests-strange")
    assert [path.name for path in (SETS / "tests-strange").iterdir() if path.is_dir()] == ["test"]
    shards = Shards.open(SETS / "tests-strange/test")
    assert (len(shards), shards.classes) == (12, ["cat"])


@pytest.mark.parametrize("labelled", [True, False])
def test_further_test_set__may_come_from_a_single_table(mine: Path, labelled: bool) -> None:
    rows = [f"cat/{number}.png" + "\tcat" * labelled for number in range(5)]
    head = "path" + "\tlabel" * labelled
    Path("photos/odd.tsv").write_text("\n".join([head, *rows]))
    more = ["data.tests.odd.source=photos", "data.tests.odd.files={test: odd.tsv}"]
    worked(d2v("prepare", "my.yaml", *more))
    shards = Shards.open(SETS / "tests-odd/test")
    assert np.unique(shards.labels).tolist() == [0 if labelled else -1]
    assert len(shards) == 5
    with pytest.raises(Exception, match="does not exist"):
        Shards.open(SETS / "tests-odd/val")


def test_further_test_set__needs_samples_for_test_and_leaves_out_the_others(mine: Path) -> None:
    for name in ("train", "val"):
        photos(Path("others") / name, "cat", count=3)
    source = "data.tests.odd.source=others"
    refused(d2v("prepare", "my.yaml", source), "data.tests.odd.source", "none for test",
            "data.tests.odd.files={test: NAME}")  # fmt: skip
    photos(Path("others/test"), "cat", count=2)
    worked(d2v("prepare", "my.yaml", source))
    summary = json.loads((SETS / "tests-odd/summary.json").read_text())["summary"]
    assert summary["total"] == 2


def test_further_test_set__without_a_source_is_refused_by_its_own_name(mine: Path) -> None:
    source = "data.tests.odd.files={test: odd.tsv}"
    refused(d2v("prepare", "my.yaml", source), "data.tests.odd.source is not set")


@pytest.mark.parametrize("name", ["a/b", "..", "a b"])
def test_further_test_set__has_a_plain_name(mine: Path, name: str) -> None:
    Path("my.yaml").write_text(
        TABLE.replace("workers: 0", f"tests: {{{name}: {{source: photos}}}}")
    )
    refused(d2v("prepare", "my.yaml"), "cannot name a test set")


def test_numbers__are_stored_whatever_the_modality(mine: Path) -> None:
    rows = [f"cat/{number}.png\t{number / 4}" for number in range(12)]
    Path("photos/scores.csv").write_text("\n".join(["path,label", *rows]).replace("\t", ","))
    worked(d2v("prepare", "my.yaml", "data.source=photos/scores.csv", "data.label_kind=number",
               "prepare.subsets=null", "prepare.subsets={}"), "no classes")  # fmt: skip
    shards = Shards.open(SETS / "common/train")
    assert shards.labels.tolist() == [-1] * 9
    for i in range(9):
        number = int(Path(shards.source(i)).stem)
        assert float(shards.read(i)["number"]) == number / 4
