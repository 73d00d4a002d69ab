"""Proves: one command takes mixed pictures to scores, and a second call does nothing."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from d2v.config import ShippedRecipe, shipped_recipes
from tests.hostile_case import d2v, desk_fixture, refused, worked

__all__ = ["desk_fixture"]


SHAPES = ("disc", "frame", "bar")
KINDS = ("jpg", "png", "webp", "bmp", "tif", "rgba.png", "deep.png", "palette.png", "cmyk.jpg")
EACH = 2 * len(KINDS)
STAGES = ("prepare", "pretrain", "probe")
PLANNED = {
    "pretrain": ("parameters", "tokens", "global batch", "steps", "learning rate", "weight decay",
                 "tau", "memory", "FLOP"),
    "probe": ("features",),
    "finetune": ("task", "parameters", "length", "trials", "optimiser"),
}  # fmt: skip
"""Stage -> what a plan of it tells."""


def shape(name: str, generator: np.random.Generator) -> Image.Image:
    """A bright shape somewhere on a dark ground, of any size and proportion."""
    width, height = (int(side) for side in generator.integers(17, 40, 2))
    image = Image.new("RGB", (width, height), tuple(generator.integers(0, 60, 3).tolist()))
    colour = tuple(generator.integers(160, 256, 3).tolist())
    left, top = (int(place) for place in generator.integers(1, 6, 2))
    box = (left, top, left + 11, top + 11)
    draw = ImageDraw.Draw(image)
    if name == "disc":
        draw.ellipse(box, fill=colour)
    elif name == "frame":
        draw.rectangle(box, outline=colour, width=2)
    else:
        draw.rectangle((left, top + 4, left + 11, top + 7), fill=colour)
    return image


def save(image: Image.Image, path: Path) -> None:
    """As JPEG, PNG, WebP, BMP or TIFF; with transparency, 16 bits, a palette or CMYK."""
    special = path.name.split(".")[1]
    if special == "rgba":
        image.putalpha(200)
    elif special == "deep":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    elif special == "palette":
        image = image.quantize(16)
    elif special == "cmyk":
        image = image.convert("CMYK")
    image.save(path)


@pytest.fixture(name="shapes")
def shapes_fixture(desk: Path) -> Path:
    generator = np.random.default_rng(0)
    for name in SHAPES:
        (desk / "shapes" / name).mkdir(parents=True)
        for number in range(EACH):
            path = desk / "shapes" / name / f"{number}.{KINDS[number % len(KINDS)]}"
            save(shape(name, generator), path)
    return desk


def contents(folder: Path) -> dict[str, str]:
    return {
        path.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_run__goes_from_pictures_to_scores_and_then_has_nothing_to_do(shapes: Path) -> None:
    command = ["run", "my.yaml", "data.source=shapes", "prepare.test_fraction=0.2"]
    first = worked(d2v(*command), "54 inputs = 54 stored", "3 classes", "Frozen-feature scores")
    for words in ("raw pixels", "untrained", "pre-trained encoder", "1 label a class"):
        assert words in first.output
    result = json.loads(Path("runs/my/probe/result.json").read_text())
    assert result["features"] == "frozen"
    assert result["scored_on"] == "test"
    assert sum(result["samples"].values()) == 54
    assert len(result["scores"]) == 3
    for stage in STAGES:
        for name in ("config.yaml", "environment.json", "result.json"):
            assert Path("runs/my", stage, name).stat().st_size > 0
    made = contents(Path("runs"))
    assert {"runs/my/pretrain/plots/masks.png", "runs/my/pretrain/plots/curves.png"} <= set(made)

    second = worked(d2v(*command), "All stages of my (prepare, pretrain, probe)", "nothing was")
    assert contents(Path("runs")) == made
    table = [line for line in first.output.splitlines() if line.startswith("pre-trained encoder")]
    assert table
    assert all(line in second.output for line in table)  # the scores are shown again

    refused(d2v(*command, "seed=1"), "seed 0, now it is 1", "--fresh")
    assert contents(Path("runs")) == made


def test_check__names_every_split_and_the_first_byte_that_is_wrong(shapes: Path) -> None:
    command = ["prepare", "my.yaml", "data.source=shapes"]
    worked(d2v(*command))
    checked = worked(d2v(*command, "--check"), "Every hash is right")
    assert [line.split()[:2] for line in checked.stdout.splitlines()[-2:]] == [
        ["common", "train"],
        ["common", "val"],
    ]
    shard = Path("runs/my/prepare/shards/common/train/train-000000.tar")
    content = bytearray(shard.read_bytes())
    content[2000] ^= 1
    shard.write_bytes(content)
    refused(d2v(*command, "--check"), "train-000000.tar", "member", "offset", code=1)


@pytest.mark.parametrize("shipped", shipped_recipes(), ids=lambda shipped: str(shipped.name))
def test_dry_run__of_a_shipped_recipe_shows_the_plan_and_touches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shipped: ShippedRecipe
) -> None:
    monkeypatch.chdir(tmp_path)
    name = shipped.name
    config = d2v("run", name, "--print-config").stdout
    is_suite = "\nsuite:\n" in config
    command = "finetune" if is_suite else "run"
    result = d2v(command, name, "data.num_train_samples=50000", "--dry-run")
    worked(result, "Plan of prepare", f"Plan of the suite {name}" if is_suite else "")
    for stage, figures in PLANNED.items():
        planned = f"Plan of {stage}" in result.stdout
        assert planned == (f"\n{stage}:\n" in config)
        assert not planned or all(figure in result.stdout for figure in figures)
    assert list(tmp_path.iterdir()) == []


def test_print_config__says_where_each_value_comes_from(desk: Path) -> None:
    shown = worked(d2v("pretrain", "my.yaml", "encoder=vit-mini", "seed=7", "--print-config"))
    for line in (
        "seed: 7  # command line",
        "  mlp_ratio: 4.0  # conf/encoder/vit-mini.yaml",
        "  top_k: 1  # my.yaml",
        "  beta: 2.0  # default",
    ):
        assert line in shown.stdout.splitlines()
    Path("again.yaml").write_text(shown.stdout)
    again = worked(d2v("pretrain", "again.yaml", "--print-config"))
    assert plain(again.stdout) == plain(shown.stdout)
    assert not Path("runs").exists()


def plain(text: str) -> list[str]:
    return [line.partition("  # ")[0] for line in text.splitlines()]


def test_recipe__can_be_copied_changed_and_run(desk: Path) -> None:
    worked(d2v("recipes", "copy", "vision/digits", "mine.yaml"), "Next: d2v run mine.yaml")
    refused(d2v("recipes", "copy", "vision/digits", "mine.yaml"), "mine.yaml exists already")
    shown = worked(d2v("prepare", "mine.yaml", "--print-config"), "name: mine  # mine.yaml")
    assert "  name: vision  # mine.yaml" in shown.stdout.splitlines()
