"""A user's folder of pictures, a small recipe, and the command line in this process."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from d2v.cli import app

RECIPE = """\
device: cpu
modality:
  name: vision
  frontend: {image_size: 8, patch_size: 2, positions: learned, cls_token: false}
  mask: {min_block: 2}
  augment: {crop: none, hflip: 0, color_jitter: [0, 0, 0]}
encoder: {dim: 16, depth: 1, num_heads: 2, layer_scale: null}
objective: {top_k: 1}
data: {source: photos, workers: 0}
prepare: {val_fraction: 0.25}
pretrain: {steps: 4, batch_size: 8, log_every: 2, checkpoint_every: 2, score_every: 2 epochs}
probe: {labels_per_class: [1, all], draws: 2}
"""
SHARDS = Path("runs/my/prepare/shards/common")
PRETRAINED = Path("runs/my/pretrain")


def photos(folder: Path, *classes: str, count: int = 12) -> Path:
    """Noisy pictures of 10 x 12 pixels; each class has its own brightness, no picture a twin."""
    generator = np.random.default_rng(len(classes))
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for picture in range(count):
            noise = generator.integers(0, 80, (12, 10, 3), dtype=np.uint8)
            Image.fromarray(noise + np.uint8(80 * number)).save(folder / name / f"{picture}.png")
    return folder


@pytest.fixture(name="desk")
def desk_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own folder: a recipe and 24 pictures of two classes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    (tmp_path / "my.yaml").write_text(RECIPE)
    photos(tmp_path / "photos", "cat", "dog")
    return tmp_path


@pytest.fixture(name="finished", scope="module")
def finished_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A desk on which prepare and pretrain are done."""
    desk = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(desk)
        patch.delenv("RANK", raising=False)
        Path("my.yaml").write_text(RECIPE)
        photos(desk / "photos", "cat", "dog")
        worked(d2v("run", "my.yaml", "--stages", "prepare,pretrain"))
    return desk


@pytest.fixture(name="trained")
def trained_fixture(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that desk, to be spoilt."""
    desk = tmp_path / "desk"
    shutil.copytree(finished, desk)
    monkeypatch.chdir(desk)
    monkeypatch.delenv("RANK", raising=False)
    return desk


def d2v(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="d2v")


def refused(result: Any, *words: str, code: int = 2) -> None:
    """The command ended with one message that holds all these words, and without a traceback."""
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    assert result.stderr.count("Error:") == 1, result.output
    missing = [word for word in words if word not in result.stderr]
    assert not missing, f"{missing} not in: {result.stderr}"


def worked(result: Any, *words: str) -> Any:
    assert result.exit_code == 0, result.output
    assert all(word in result.output for word in words), result.output
    return result


def left(folder: Path) -> list[str]:
    """Everything below a folder except locks, which are empty and stay."""
    found = folder.rglob("*") if folder.exists() else []
    return sorted(
        path.relative_to(folder).as_posix()
        for path in found
        if path.is_file() and path.stat().st_size
    )


def flip_bytes(path: Path, places: Sequence[int]) -> None:
    content = bytearray(path.read_bytes())
    for place in places:
        content[place] ^= 1
    path.write_bytes(content)


def png_places(path: Path) -> list[int]:
    """A place inside the pixels of each PNG in a shard."""
    content, places, at = path.read_bytes(), [], -1
    while (at := content.find(b"\x89PNG", at + 1)) >= 0:
        places.append(at + 45)
    return places
