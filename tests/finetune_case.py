"""A desk with labelled pictures, a recipe that pre-trains and fine-tunes on them, and questions."""

import csv
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from d2v.commands import trials
from d2v.engine.checkpoint import load_checkpoint
from d2v.tasks import classify
from tests.glue_case import RECIPE as TEXT_RECIPE
from tests.glue_case import WORDS, books
from tests.hostile_case import d2v, photos, worked

RECIPE = """\
# @package _global_
name: my
device: cpu
modality:
  name: vision
  frontend: {image_size: 8, patch_size: 4, positions: learned, cls_token: false}
  mask: {min_block: 1}
  augment: {crop: none, hflip: 0, color_jitter: [0, 0, 0]}
encoder: {dim: 16, depth: 2, num_heads: 2, layer_scale: null, drop_path: 0.1}
objective: {top_k: 1}
data: {source: list.csv, workers: 0}
prepare: {val_fraction: 0, subsets: {few: 3 a class}}
pretrain: {steps: 2, batch_size: 8, log_every: 1, checkpoint_every: 1, score_every: null}
finetune:
  task: {name: classify, head: {norm: true}}
  steps: 4
  batch_size: 8
  log_every: 1
  checkpoint_every: 2
  score_every: 2
  optimizer: {learning_rate: 0.003, schedule: {warmup: 1}}
"""
CLASSES = ("cat", "cow", "dog")
SPLITS = ("train",) * 8 + ("val",) * 2 + ("test",) * 2
"""Of the pictures of each class."""
STAGE = Path("runs/my/finetune")
PRETRAINED = Path("runs/my/pretrain")
PREPARED = Path("runs/my/prepare")
TRIAL = "pretrained-all-lr0.003-seed0"
TEXT_TUNING = """\
finetune:
  task: {name: classify, head: {pool: mean, hidden: true, dropout: 0.1}}
  steps: 9
  batch_size: 4
  log_every: 1
  score_every: 3
  optimizer: {learning_rate: 0.02, schedule: {warmup: 1}}
"""


def listed(*, labels: tuple[str, ...] = CLASSES, empty: tuple[str, ...] = ()) -> list[list[str]]:
    """Rows for list.csv: path, class, a number that goes with it, split.

    `empty`: splits without labels.
    """
    rows = [["path", "label", "number", "split"]]
    for place, name in enumerate(labels):
        for number, split in enumerate(SPLITS):
            known = split not in empty
            value = f"{0.3 * place + 0.01 * number:.2f}"
            rows.append([f"photos/{name}/{number}.png", name * known, value * known, split])
    return rows


def said(count: int = 30) -> list[list[str]]:
    """The same for texts: each class has words of its own."""
    generator, rows = random.Random(0), [["text", "label", "number", "split"]]
    for number in range(count):
        kind = number % 2
        words = generator.choices(WORDS[8 * kind : 8 * kind + 8], k=generator.randrange(3, 9))
        split = ("train", "train", "train", "val", "test")[number // 2 % 5]
        rows.append([" ".join(words), f"kind {kind}", f"{kind + number / 1000:g}", split])
    return rows


def write_list(rows: list[list[str]], name: str = "list.csv") -> None:
    with Path(name).open("w", newline="") as file:
        csv.writer(file, delimiter="\t" if name.endswith("tsv") else ",").writerows(rows)


@pytest.fixture(name="pretrained_desk", scope="session")
def pretrained_desk_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A desk on which prepare and pretrain are done."""
    desk = tmp_path_factory.mktemp("pretrained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(desk)
        patch.delenv("RANK", raising=False)
        Path("my.yaml").write_text(RECIPE)
        photos(desk / "photos", *CLASSES)
        write_list(listed())
        worked(d2v("run", "my.yaml", "--stages", "prepare,pretrain"))
    return desk


@pytest.fixture(name="text_desk", scope="session")
def text_desk_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A desk with a table of labelled texts, and an encoder of texts in `runs/tiny`."""
    desk = tmp_path_factory.mktemp("texts")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(desk)
        patch.delenv("RANK", raising=False)
        Path("tiny.yaml").write_text(TEXT_RECIPE)
        books(desk / "books")
        worked(d2v("run", "tiny.yaml"))
        own = TEXT_RECIPE.replace("name: tiny", "name: my").partition("pretrain:")[0]
        own = own.replace("source: books", "finetune: {source: list.tsv, whole_texts: true}")
        Path("my.yaml").write_text(own + TEXT_TUNING)
        write_list(said(), "list.tsv")
    return desk


@pytest.fixture(name="texts")
def texts_fixture(text_desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it; this process is in it."""
    shutil.copytree(text_desk, tmp_path / "texts")
    monkeypatch.chdir(tmp_path / "texts")
    monkeypatch.delenv("RANK", raising=False)
    return tmp_path / "texts"


@pytest.fixture(name="drawn_desk")
def drawn_desk_fixture(
    pretrained_desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A copy of it, to be spoilt; this process is in it."""
    shutil.copytree(pretrained_desk, tmp_path / "desk")
    monkeypatch.chdir(tmp_path / "desk")
    monkeypatch.delenv("RANK", raising=False)
    return tmp_path / "desk"


@pytest.fixture(name="desk")
def desk_fixture(drawn_desk: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same without plots, which take longer than all the rest."""
    monkeypatch.setattr(trials, "plot_curves", lambda rows, path, title: None)
    monkeypatch.setattr(classify, "draw_confusion", lambda guesses, truth, names, path: None)
    return drawn_desk


def finetune(*overrides: str) -> Any:
    return d2v("finetune", "my.yaml", *overrides)


def result(stage: Path = STAGE) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((stage / "result.json").read_text())
    return found


def scores(stage: Path = STAGE) -> dict[str, Any]:
    """What must be the same however a run came to its end."""
    found = result(stage)
    return {"trials": found["trials"], "chosen": found["chosen"]}


def weights(folder: Path, step: int) -> dict[str, Tensor]:
    return load_checkpoint(folder / "checkpoints" / f"step-{step:09d}").tensors["model"]
