"""Proves: weights meet only data that mean the same to them as those that they were trained on."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from d2v.engine.checkpoint import load_latest, save_checkpoint
from tests.hostile_case import SHARDS, d2v, left, refused, worked
from tests.modality_cases import sentence
from tests.prepare_case import digests
from tests.ragged_desk_case import TEXT, at_desk, table

OTHER = Path("other") / SHARDS.relative_to("runs")
"""The same texts, prepared with another tokenizer of the same size."""
LONGER = Path("longer") / SHARDS.relative_to("runs")
"""The same texts and tokenizer, room for longer samples."""
PRETRAINED = Path("runs/my/pretrain")
CHECKPOINTS = PRETRAINED / "checkpoints"
WORDS = ("was prepared otherwise than the training data of", "tokenizer_sha256 is", "Expected: all")


@pytest.fixture(scope="module", name="trained")
def trained_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A desk on which pre-training is done, and the same texts in two other sets of shards."""
    with pytest.MonkeyPatch.context() as patch:
        desk = at_desk(tmp_path_factory.mktemp("trained"), patch, TEXT)
        rows = [[sentence(n, 5), "ab"[n % 2]] for n in range(40)]
        table(desk / "notes.tsv", ["text", "label"], *rows)
        (desk / "my.yaml").write_text(TEXT.replace("notes", "notes.tsv"))
        worked(d2v("run", "my.yaml", "--stages", "prepare,pretrain"), "40 stored")
        own = Path("runs/my/prepare/learned/tokenizer.json")
        tokenizer = json.loads(own.read_text())
        ids = tokenizer["model"]["vocab"]
        ids["t"], ids["a"] = ids["a"], ids["t"]
        Path("swapped.json").write_text(json.dumps(tokenizer))
        path = "modality.tokenizer.path="
        worked(d2v("prepare", "my.yaml", f"{path}swapped.json", "--out", "other"))
        length = "modality.store.block_tokens=40"
        worked(d2v("prepare", "my.yaml", f"{path}{own}", length, "--out", "longer"))
    return desk


@pytest.fixture(name="desk")
def desk_fixture(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that desk, to be spoilt."""
    desk = tmp_path / "desk"
    shutil.copytree(trained, desk)
    monkeypatch.chdir(desk)
    return desk


def make_older(**changes: Any) -> None:
    """The run's last checkpoint as if it was written before `about` was kept."""
    newest, _ = load_latest(CHECKPOINTS)
    assert newest is not None
    state = {key: value for key, value in newest.state.items() if key != "about"}
    state["identity"] = dict(state["identity"]) | changes
    del state["identity"]["encoder.input_norm"]  # nor was this
    save_checkpoint(CHECKPOINTS, newest.step, newest.tensors, state)


def test_probe__of_another_tokenizer_is_refused_and_keeps_what_is_there(desk: Path) -> None:
    probe = ["probe", "my.yaml", f"data.pretrain.shards={SHARDS}"]
    worked(d2v(*probe, f"data.probe.shards={SHARDS}"), "Frozen-feature scores")
    before = digests(Path("runs/my/probe"))
    other = [*probe, f"data.probe.shards={OTHER}", "--fresh"]
    refused(d2v(*other), *WORDS, str(OTHER / "train"), str(CHECKPOINTS / "step-000000006"))
    assert digests(Path("runs/my/probe")) == before


def test_probe__compares_a_named_checkpoint_with_its_own_data(desk: Path) -> None:
    """Only the checkpoint knows what it was trained on: nothing of its run is in the recipe."""
    named = ["probe", "my.yaml", "--out", "new", f"pretrain.checkpoint={PRETRAINED}"]
    refused(d2v(*named, f"data.shards={OTHER}"), *WORDS)
    assert left(Path("new")) == []
    worked(d2v(*named, f"data.shards={LONGER}"), "Frozen-feature scores")


def test_pretrain__from_weights_of_another_tokenizer_is_refused(desk: Path) -> None:
    start = ["pretrain", "my.yaml", "--out", "new", f"pretrain.init_from={PRETRAINED}"]
    refused(d2v(*start, f"data.shards={OTHER}"), *WORDS, str(CHECKPOINTS))
    assert left(Path("new")) == []
    worked(d2v(*start, f"data.shards={LONGER}"), "Pre-trained")


def test_pretrain__scores_no_data_of_another_tokenizer(desk: Path) -> None:
    train = ["pretrain", "my.yaml", "--fresh", f"data.pretrain.shards={SHARDS}"]
    before = digests(PRETRAINED)
    refused(d2v(*train, f"data.probe.shards={OTHER}"), *WORDS, f"this recipe ({SHARDS}/train)")
    assert digests(PRETRAINED) == before
    worked(d2v(*train, f"data.probe.shards={LONGER}"), "Pre-trained")


def test_older_checkpoint__is_not_compared_by_what_it_does_not_tell(desk: Path) -> None:
    make_older()
    named = ["--out", "new", f"data.shards={OTHER}"]
    probe = ["probe", "my.yaml", f"pretrain.checkpoint={PRETRAINED}", *named]
    worked(d2v(*probe), "Frozen-feature scores")
    worked(d2v("pretrain", "my.yaml", f"pretrain.init_from={PRETRAINED}", *named), "Pre-trained")
    changed = ["encoder.input_norm=true", "--fresh"]
    refused(d2v(*probe, *changed), "encoder.input_norm is False in the checkpoint and True in")
