"""Proves: damaged pictures, shards and checkpoints are counted or refused, never just used."""

import fcntl
import json
import os
import resource
import shutil
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile_case import (
    PRETRAINED,
    SHARDS,
    d2v,
    desk_fixture,
    finished_fixture,
    flip_bytes,
    left,
    photos,
    png_places,
    refused,
    trained_fixture,
    worked,
)
from tests.prepare_case import lines
from tests.store_case import png_of

__all__ = ["desk_fixture", "finished_fixture", "trained_fixture"]


TRAIN = SHARDS / "train/train-000000.tar"
VAL = SHARDS / "val/val-000000.tar"
BY_SIZE = "data.verify=size"


# Pictures


def test_bad_pictures__are_listed_with_their_reasons_and_the_rest_is_used(desk: Path) -> None:
    whole = Path("photos/cat/0.png").read_bytes()
    bomb = png_of(struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0), b"")
    bad = {"cut.jpg": whole[:200], "none.jpg": b"", "text.jpg": b"Dear diary", "bomb.png": bomb}
    for name, content in bad.items():
        Path("photos/cat", name).write_bytes(content)
    Path("photos/dog/gone.png").symlink_to("nowhere")
    os.mkfifo("photos/dog/pipe.png")
    Path("photos/readme.md").write_text("x")
    worked(d2v("prepare", "my.yaml"), "31 inputs = 24 stored + 7 rejected", "rejected 2: for other")
    reasons = {entry["source"]: entry["reason"] for entry in lines(SHARDS / "rejected.jsonl")}
    assert reasons["cat/cut.jpg"].startswith(("truncated", "damaged"))
    assert reasons["cat/none.jpg"] == "empty file"
    assert reasons["cat/text.jpg"].startswith("not a picture")
    assert reasons["cat/bomb.png"].startswith("too large")
    assert reasons["dog/gone.png"].startswith("cannot be read")
    assert reasons["dog/pipe.png"] == "not a regular file"
    assert reasons["readme.md"].startswith("not a supported kind")


def test_names__may_hold_spaces_newlines_and_bytes_that_are_no_text(desk: Path) -> None:
    photos(desk / "odd", "a cat", "hünd 猫", "x=y, [z]", count=6)
    content = Path("photos/cat/0.png").read_bytes()
    for name in (b"new\nline.png", b"\xff\xfe.png", b"\x1b[31m.png", b"a.b.png", b"-'\".png"):
        Path(os.fsdecode(b"odd/a cat/" + name)).write_bytes(content)
    (desk / os.fsdecode(b"odd/\xff")).mkdir()
    Path(os.fsdecode(b"odd/\xff/bad\n\xff.jpg")).write_bytes(b"")
    shutil.copy("photos/cat/1.png", os.fsdecode(b"odd/\xff/1.png"))
    worked(d2v("prepare", "my.yaml", "data.source=odd"), "25 inputs = 24 stored + 1 rejected")
    worked(d2v("prepare", "my.yaml", "data.source=odd", "--check"), "good")
    worked(d2v("pretrain", "my.yaml", "data.source=odd"))


def test_names__are_shown_without_control_codes(desk: Path) -> None:
    folder = Path(os.fsdecode(b"weird/\x1b[31m\xff"))
    folder.mkdir(parents=True)
    shutil.copy("photos/cat/0.png", folder)
    worked(d2v("prepare", "my.yaml", "data.source=weird"), r"only one class (\x1b[31m\udcff)")


# Shards


def test_shard__that_is_missing_cut_or_altered_is_refused_with_its_place(trained: Path) -> None:
    whole = TRAIN.read_bytes()
    cases = {"is missing": None, "has 700 bytes": whole[:700]}
    for words, content in cases.items():
        TRAIN.unlink() if content is None else TRAIN.write_bytes(content)
        for command in ("prepare", "pretrain", "probe"):
            refused(d2v(command, "my.yaml"), "train-000000.tar", words, "--fresh")
    TRAIN.write_bytes(whole)
    flip_bytes(TRAIN, png_places(TRAIN)[:1])
    place = ("train-000000.tar", ".png", "offset 1536", "content differs", "--fresh")
    refused(d2v("pretrain", "my.yaml"), *place)
    refused(d2v("prepare", "my.yaml", "--check"), *place, code=1)
    assert not Path("runs/my/probe").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "is damaged"), ("[]", "is damaged"), ('{"version": 99, ', "format version 99")],
)
def test_index__that_is_torn_or_newer_is_refused(trained: Path, content: str, words: str) -> None:
    index = SHARDS / "train/index.json"
    old = index.read_text()
    newer = old.replace('"version": 1', '"version": 99')
    index.write_text(newer if "version" in content else content)
    for command in (["pretrain"], ["probe"], ["prepare", "--check"]):
        refused(d2v(command[0], "my.yaml", *command[1:]), "train/index.json", words, "d2v")


def test_bad_sample__is_counted_and_skipped_up_to_the_limit(trained: Path) -> None:
    shutil.rmtree(PRETRAINED)
    flip_bytes(TRAIN, png_places(TRAIN)[:1])
    refused(d2v("pretrain", "my.yaml", BY_SIZE), "1 of 18 samples", "data.max_bad_fraction", code=1)
    worked(d2v("pretrain", "my.yaml", BY_SIZE, "data.max_bad_fraction=0.2"), "bad_samples.txt")
    told = (PRETRAINED / "bad_samples.txt").read_text()
    assert told.count("Sample 0 (cat/0.png) cannot be used") == 1  # once, for all its epochs
    assert "the content has changed" in told


def test_bad_sample__is_reported_by_the_probe(trained: Path) -> None:
    flip_bytes(VAL, png_places(VAL)[:1])  # the very first one
    refused(d2v("probe", "my.yaml", BY_SIZE), "1 of 6 samples", "max_bad_fraction", code=1)
    worked(d2v("probe", "my.yaml", BY_SIZE, "data.max_bad_fraction=0.5"), "1 of 6 samples")
    result = json.loads(Path("runs/my/probe/result.json").read_text())
    assert result["unusable"] == [f"1 of 6 samples in {SHARDS}/val cannot be used"]


def test_bad_samples__may_not_be_all_there_is(trained: Path) -> None:
    flip_bytes(VAL, png_places(VAL))
    arguments = [BY_SIZE, "data.max_bad_fraction=1"]
    refused(d2v("probe", "my.yaml", *arguments), "6 of 6 samples", code=1)


def test_fewer_samples_than_a_batch__are_refused_and_the_next_try_is_free(desk: Path) -> None:
    worked(d2v("prepare", "my.yaml"))
    result = d2v("pretrain", "my.yaml", "pretrain.batch_size=19")
    refused(result, "18 training samples", "one batch takes 19", "pretrain.batch_size")
    assert left(PRETRAINED) == []
    worked(d2v("pretrain", "my.yaml", "pretrain.batch_size=18"))


def test_val__that_is_missing_is_said_by_the_probe(desk: Path) -> None:
    for command in ("prepare", "pretrain"):
        worked(d2v(command, "my.yaml", "prepare.val_fraction=0"))
    result = d2v("probe", "my.yaml", "prepare.val_fraction=0")
    refused(result, "no val split", "prepare.val_fraction", "--fresh")


# Checkpoints and run directories


def test_probe__before_pretrain_says_so(trained: Path) -> None:
    shutil.rmtree(PRETRAINED)
    refused(d2v("probe", "my.yaml"), "no checkpoint in runs/my/pretrain", "d2v pretrain first")
    refused(d2v("probe", "my.yaml", "pretrain=null"), "no checkpoint in runs/my/pretrain")
    refused(d2v("probe", "my.yaml", "pretrain.checkpoint=x"), "in x", "pretrain.checkpoint")
    assert left(Path("runs/my/probe")) == []


def test_checkpoint__of_another_architecture_says_which_settings_differ(trained: Path) -> None:
    changes = ["encoder.dim=32", "modality.frontend.positions=sincos_2d"]
    words = ("encoder.dim is 16 in the checkpoint and 32", "'learned'", "'sincos_2d'")
    refused(d2v("probe", "my.yaml", *changes), *words)
    assert not Path("runs/my/probe").exists()
    arguments = [f"data.shards={SHARDS}", f"pretrain.init_from={PRETRAINED}", "--out", "other"]
    refused(d2v("pretrain", "my.yaml", *changes, *arguments), *words)
    refused(d2v("pretrain", "my.yaml", *changes), "encoder.dim 16, now it is 32", "--fresh")


def test_checkpoint__that_was_tampered_with_is_not_used(trained: Path) -> None:
    last, first = sorted(PRETRAINED.glob("checkpoints/step-*"), reverse=True)
    flip_bytes(last / "model.safetensors", [-1])
    named = d2v("probe", "my.yaml", f"pretrain.checkpoint={last}")
    refused(named, "step-000000004/model.safetensors", "sha256", code=1)
    worked(d2v("probe", "my.yaml"), "step-000000002", "(step-000000004) is missing or damaged")
    flip_bytes(first / "model.safetensors", [-1])
    shutil.rmtree("runs/my/probe")
    refused(d2v("probe", "my.yaml"), "step-000000002/model.safetensors", "--fresh", code=1)


@pytest.mark.parametrize("stage", ["prepare", "pretrain"])
def test_run_directory__in_use_is_refused(trained: Path, stage: str) -> None:
    with Path(f"runs/my/.{stage}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(d2v(stage, "my.yaml"), f"using runs/my/{stage}", "another --out")


def test_batch__not_divisible_by_the_devices_is_refused(trained: Path) -> None:
    result = d2v("pretrain", "my.yaml", "--nproc", "3", "--dry-run")
    refused(result, "batch_size 8", "3 devices", "a multiple of 3", "pretrain.batch_size")


def test_nan__stops_the_run_with_its_own_exit_code(trained: Path) -> None:
    arguments = ["pretrain.optimizer.learning_rate=1e30", "--out", "other"]
    warmup = "pretrain.optimizer.schedule.warmup=0"
    result = d2v("pretrain", "my.yaml", f"data.shards={SHARDS}", warmup, *arguments)
    refused(result, "not finite", "Lower the learning rate", code=3)
    assert not Path("other/my/pretrain/result.json").exists()


# A full disk


@pytest.fixture(name="small_files")
def small_files_fixture() -> Iterator[None]:
    """No file may grow beyond 100 kB: what a full disk does, for this process alone."""
    limit, old = resource.RLIMIT_FSIZE, signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(limit)
    resource.setrlimit(limit, (100_000, before[1]))
    yield
    resource.setrlimit(limit, before)
    signal.signal(signal.SIGXFSZ, old)


def test_full_disk__leaves_no_half_shard(desk: Path, small_files: None) -> None:
    photos(desk / "photos", "cat", "dog", count=60)
    refused(d2v("prepare", "my.yaml"), "train-000000.tar", "Make room", "same command", code=1)
    assert not [name for name in left(Path("runs")) if "train" in name or "index" in name]


def test_full_disk__leaves_no_half_checkpoint(trained: Path, small_files: None) -> None:
    arguments = [f"data.shards={SHARDS}", "encoder.dim=64", "--out", "other"]
    result = d2v("pretrain", "my.yaml", *arguments)
    refused(result, "step-000000002 could not be written", "Make room", code=1)
    assert not [name for name in left(Path("other")) if "checkpoints" in name]
