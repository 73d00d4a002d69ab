"""Proves: what fine-tunes another run's encoder encodes its texts with that run's tokenizer."""

import json
import shutil
from pathlib import Path

import pytest

from d2v.data.shards import Shards
from tests.glue_case import RECIPE, SHORT, books, glue
from tests.hostile_case import d2v, left, refused, worked

COLA = ("prepare", "text/glue/cola", "data.finetune.source=GLUE/CoLA", *SHORT)
START = "finetune.checkpoint=runs/tiny"
SIZES = ("modality.frontend.max_tokens=32", "modality.tokenizer={size: 300, mask_id: null}")
OURS = Path("runs/text/glue/cola/prepare")
THEIRS = Path("runs/tiny/prepare")


@pytest.fixture(scope="module", name="desk_with_a_run")
def desk_with_a_run_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A desk with tables of GLUE and an encoder that was trained for one step."""
    desk = tmp_path_factory.mktemp("desk")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(desk)
        (desk / "tiny.yaml").write_text(RECIPE)
        books(desk / "books")
        glue(desk / "GLUE", "CoLA")
        worked(d2v("run", "tiny.yaml"))
    return desk


@pytest.fixture(name="desk")
def desk_fixture(desk_with_a_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, to be spoilt."""
    shutil.copytree(desk_with_a_run, tmp_path / "desk")
    monkeypatch.chdir(tmp_path / "desk")
    return tmp_path / "desk"


def sha(split: Path) -> object:
    return Shards.open(split).about["tokenizer_sha256"]


@pytest.mark.parametrize("part", ["", "pretrain", "pretrain/checkpoints/step-000000001"])
def test_tokenizer__is_that_of_the_run_and_kept_here(desk: Path, part: str) -> None:
    worked(d2v(*COLA, f"{START}/{part}", *SIZES))
    copied = (OURS / "learned/tokenizer.json").read_bytes()
    assert copied == (THEIRS / "learned/tokenizer.json").read_bytes()
    theirs = sha(THEIRS / "shards/common/train")
    for split in ("train", "val", "test"):
        assert sha(OURS / "shards/finetune" / split) == theirs


def test_architecture__comes_with_from(desk: Path) -> None:
    worked(d2v(*COLA, "--from", "runs/tiny"))
    assert sha(OURS / "shards/finetune/train") == sha(THEIRS / "shards/common/train")


def test_prepared_texts__stand_alone(desk: Path) -> None:
    worked(d2v(*COLA, START, *SIZES))
    shutil.rmtree("runs/tiny")
    worked(d2v(*COLA, START, *SIZES), "already finished")
    assert (OURS / "learned/tokenizer.json").exists()


def test_continuation__needs_the_other_run_no_more(desk: Path) -> None:
    worked(d2v(*COLA, START, *SIZES))
    (OURS / "result.json").unlink()
    shutil.rmtree("runs/tiny")
    worked(d2v(*COLA, START, *SIZES))


@pytest.mark.parametrize("named", [True, False])
def test_run_on_shards_made_elsewhere__has_its_tokenizer_beside_them(
    desk: Path, named: bool
) -> None:
    """Either its settings name the shards, or they lie where its own preparing left them."""
    theirs = sha(THEIRS / "shards/common/train")
    shutil.rmtree(THEIRS / "learned")
    if named:
        shutil.move(THEIRS / "shards/common", "elsewhere")
        shutil.rmtree(THEIRS)
        config = Path("runs/tiny/pretrain/config.yaml")
        text = config.read_text()
        assert text.count("\n  shards: null") == 1
        config.write_text(text.replace("\n  shards: null", f"\n  shards: {desk / 'elsewhere'}"))
    worked(d2v(*COLA, START, *SIZES))
    assert sha(OURS / "shards/finetune/train") == theirs


def test_run_without_a_tokenizer__is_refused_with_the_way_out(desk: Path) -> None:
    tokenizer = shutil.copy(THEIRS / "learned/tokenizer.json", "kept.json")
    shutil.rmtree(THEIRS)
    refused(d2v(*COLA, START, *SIZES), "finetune.checkpoint is runs/tiny", "prepare/learned",
            "modality.tokenizer.path")  # fmt: skip
    assert left(OURS) == []
    worked(d2v(*COLA, START, *SIZES, f"modality.tokenizer.path={tokenizer}"))


def test_tokenizer_of_another_size__is_refused(desk: Path) -> None:
    refused(d2v(*COLA, START), "300 tokens", "modality.tokenizer.size=300")
    assert left(OURS) == []


def test_recipe_that_pretrains_itself__learns_from_its_own_data(desk: Path) -> None:
    text = RECIPE.replace("name: tiny", "name: own").replace("size: 300", "size: 301")
    tuned = "finetune: {task: {name: classify}, steps: 1, batch_size: 2, checkpoint: runs/tiny}\n"
    Path("own.yaml").write_text(text + tuned)
    worked(d2v("prepare", "own.yaml"))
    vocabulary = json.loads(Path("runs/own/prepare/learned/tokenizer.json").read_text())
    assert len(vocabulary["model"]["vocab"]) in (300, 301)
    assert sha(Path("runs/own/prepare/shards/common/train")) != sha(THEIRS / "shards/common/train")
