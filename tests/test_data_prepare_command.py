"""Proves: the prepare command, killed or stopped at any moment, goes on to the very same bytes."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL.PngImagePlugin import PngImageFile

from d2v.data.files import WholeFile
from d2v.modalities.vision.store import StoreSettings, encode_image
from d2v.samples import SourceItem
from tests.hostile_case import SHARDS, d2v, desk_fixture, left, refused, worked
from tests.prepare_case import digests, lines
from tests.process_case import Preparing, after_parts
from tests.training_case import picture

__all__ = ["desk_fixture"]

RECIPE = """\
# @package _global_
name: tiny
device: cpu
modality: {name: vision, frontend: {image_size: 8, patch_size: 2}}
encoder: {dim: 16, depth: 1, num_heads: 2}
objective: {top_k: 1}
data: {source: PHOTOS}
prepare: {val_fraction: 0.2, test_fraction: 0.1, shard_samples: 3}
"""
COUNT = 120


@pytest.fixture(scope="module", name="recipe")
def recipe_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe and its pictures; every 9th is the same one, every 13th is no picture."""
    folder = tmp_path_factory.mktemp("source")
    for number in range(COUNT):
        path = folder / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = picture(0 if number % 9 == 0 else number)
        path.write_bytes(b"not a picture" if number % 13 == 1 else content)
    recipe = folder / "tiny.yaml"
    recipe.write_text(RECIPE.replace("PHOTOS", str(folder / "photos")))
    return recipe


@pytest.fixture(scope="module", name="undisturbed")
def undisturbed_fixture(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Name and hash of every file of a run that nobody disturbed."""
    run = Preparing(recipe, tmp_path_factory.mktemp("whole") / "out")
    code, text = run.started.wait()
    assert (code, f"{COUNT} inputs" in text) == (0, True), text
    found = digests(run.dest)
    assert len([name for name in found if name.endswith(".tar")]) > 30
    assert {"rejected.jsonl", "duplicates.jsonl", "train/index.json"} < set(found)
    assert len(lines(run.dest / "rejected.jsonl")) == 10
    assert len(lines(run.dest / "duplicates.jsonl")) > 10
    return found


# kill -9


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_ten_times__the_command_ends_with_the_same_bytes(
    recipe: Path, undisturbed: dict[str, str], tmp_path: Path, workers: int
) -> None:
    draws, killed_at = random.Random(workers), [0]
    for attempt in range(10):
        # Ten times three of its 40 parts: however fast the machine, it is never done before.
        run = Preparing(
            recipe, tmp_path / "out", f"prepare.workers={workers}", brake=partial(after_parts, 3)
        )
        if attempt % 3:  # most starts get somewhere, others die while they start
            run.wait_for(killed_at[-1] + 1 + draws.randrange(3))
            time.sleep(draws.uniform(0, 0.02))
        else:
            time.sleep(draws.uniform(0, 0.5))
        run.kill()
        killed_at.append(run.finished_parts())
    assert killed_at == sorted(killed_at), "finished shards were done again"
    assert len(set(killed_at)) > 5, killed_at
    run = Preparing(recipe, tmp_path / "out", f"prepare.workers={workers}")
    code, text = run.started.wait()
    assert code == 0, text
    assert digests(run.dest) == undisturbed


# SIGTERM


@pytest.mark.parametrize("workers", [0, 2])
def test_sigterm__ends_with_code_75_leaves_whole_files_and_the_same_command_continues(
    recipe: Path, undisturbed: dict[str, str], tmp_path: Path, workers: int
) -> None:
    run = Preparing(recipe, tmp_path / "out", f"prepare.workers={workers}")
    run.wait_for(5)
    run.started.send(signal.SIGTERM)
    code, text = run.started.wait()
    assert code == 75, text
    assert "Stopped: " in text
    assert "SIGTERM" in text
    assert "same command continues" in text
    assert "Traceback" not in text
    assert run.finished_parts() >= 5
    found = digests(run.dest)
    assert not [name for name in found if name.endswith(".tmp") or "index.json" in name]
    shards = {name: digest for name, digest in found.items() if name.endswith(".tar")}
    assert shards.items() < undisturbed.items()
    run = Preparing(recipe, tmp_path / "out", f"prepare.workers={workers}")
    assert run.started.wait()[0] == 0
    assert digests(run.dest) == undisturbed


def at_picture(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], None]) -> None:
    """Do something once, in the middle of decoding the picture of that number."""
    original, calls = PngImageFile.load, iter(range(10_000))

    def load(image: PngImageFile) -> Any:
        if next(calls) == number:
            act()
        return original(image)

    monkeypatch.setattr(PngImageFile, "load", load)


def test_sigterm__inside_a_picture_is_not_taken_for_a_bad_picture(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Decoders turn whatever goes wrong into "damaged": a stop must not be caught there.
    at_picture(monkeypatch, 7, lambda: os.kill(os.getpid(), signal.SIGTERM))
    result = d2v("prepare", "my.yaml", "prepare.shard_samples=3")
    assert result.exit_code == 75, result.output
    assert "same command continues" in result.stderr
    worked(d2v("prepare", "my.yaml", "prepare.shard_samples=3"), "24 stored + 0 rejected")


def test_sigterm__at_an_unlucky_moment_leaves_no_temporary_file(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unlucky(WholeFile):
        """Stopped when the file is there and nobody has been given it yet."""

        def __init__(self, path: Path) -> None:
            super().__init__(path)
            if path.name == "part-000003.jsonl":
                self._file.close()  # nobody will
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("d2v.data.journal.WholeFile", Unlucky)
    assert d2v("prepare", "my.yaml", "prepare.shard_samples=3").exit_code == 75
    assert len([name for name in left(SHARDS) if name.endswith(".tar")]) == 3
    assert not list(SHARDS.rglob("*.tmp"))


# Continued with other settings


@pytest.fixture(name="cut")
def cut_fixture(desk: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A desk whose preparation was stopped by Ctrl-C after a few shards."""
    worked(d2v("prepare", "my.yaml", "prepare.shard_samples=3", "--out", "whole"))
    calls = iter(range(13))

    def interrupted(item: SourceItem, settings: StoreSettings) -> dict[str, bytes]:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return encode_image(item, settings)

    with monkeypatch.context() as patch:
        patch.setattr("d2v.modalities.vision.modality.encode_image", interrupted)
        assert d2v("prepare", "my.yaml", "prepare.shard_samples=3").exit_code == 130
    assert len([name for name in left(SHARDS) if name.endswith(".tar")]) == 4
    shutil.copytree("photos", "others")
    return desk


@pytest.mark.parametrize(
    "change",
    ["data.workers=1", "data.verify=size", "data.num_train_samples=5", "data.max_bad_fraction=0.5",
     "prepare.workers=1", "encoder.depth=2", "modality.augment.hflip=0.5"],
)  # fmt: skip
def test_continued__with_a_setting_that_does_not_matter_goes_on(cut: Path, change: str) -> None:
    worked(d2v("prepare", "my.yaml", "prepare.shard_samples=3", change), "24 stored")
    whole = digests(Path("whole/my/prepare/shards/common"))
    assert digests(SHARDS) == whole


@pytest.mark.parametrize(
    "change",
    ["modality.store.quality=50", "modality.store.shorter_side=4", "prepare.val_fraction=0.5",
     "prepare.shard_samples=4", "prepare.duplicates=drop", "data.source=others", "seed=1"],
)  # fmt: skip
def test_continued__with_a_setting_that_matters_is_refused(cut: Path, change: str) -> None:
    before = digests(SHARDS)
    result = d2v("prepare", "my.yaml", "prepare.shard_samples=3", change)
    refused(result, change.partition("=")[0], "--fresh")
    assert digests(SHARDS) == before
    fresh = d2v("prepare", "my.yaml", "prepare.shard_samples=3", change, "--fresh")
    worked(fresh, "24 stored")
