"""Proves: `--from RUN` names the run where each stage looks, and takes its architecture over."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from d2v.cli import app

RUN_SETTINGS = """
name: other
modality:
  name: vision
  frontend: {image_size: 8, patch_size: 4, channels: 1, positions: learned, cls_token: true,
             pixel_mean: [0.5], pixel_std: [0.25]}
encoder: {dim: 48, depth: 3, num_heads: 3, drop_path: 0.5}
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "other"
    (folder / "pretrain").mkdir(parents=True)
    (folder / "pretrain/config.yaml").write_text(RUN_SETTINGS)
    return folder


@pytest.mark.parametrize(
    ("stage", "setting"),
    [
        ("pretrain", "pretrain.init_from"),
        ("probe", "pretrain.checkpoint"),
        ("finetune", "finetune.checkpoint"),
    ],
)
def test_from__names_the_run_where_the_stage_looks(stage: str, setting: str, run: Path) -> None:
    arguments = [stage, "vision/digits", "objective.top_k=3", "--from", str(run), "--print-config"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    section, name = setting.split(".")
    body = re.search(rf"^{section}:\n((?:  .*\n)+)", result.output, re.M)
    assert body is not None
    assert f"  {name}: {run}  # --from {run}\n" in body[1]
    named = {"init_from", "checkpoint"} - {name}
    for line in body[1].splitlines():
        if line.strip().split(":")[0] in named:
            assert line.strip().split()[1] == "null", line


def test_from__takes_what_shapes_tensors_and_leaves_what_regularises(run: Path) -> None:
    arguments = ["probe", "vision/digits", "objective.top_k=3", "--from", str(run)]
    output = CliRunner().invoke(app, [*arguments, "--print-config"]).output
    for line in ("dim: 48", "depth: 3", "num_heads: 3", "patch_size: 4", "cls_token: true"):
        assert f"  {line}  # --from {run}\n" in output, line
    assert re.search(r"  drop_path: 0\.1  # .*digits\.yaml", output)


def test_from__a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["pretrain", "vision/digits", "--from", str(tmp_path)])
    assert result.exit_code == 2
    assert "there is no run" in " ".join(result.output.split())


def test_from__prepare_needs_no_task(run: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "probes.yaml"
    recipe.write_text("defaults: [/vision/digits, _self_]\nfinetune: null\nname: probes\n")
    recipe.write_text("# @package _global_\n" + recipe.read_text())
    arguments = ["prepare", str(recipe), "objective.top_k=3", "--from", str(run), "--print-config"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "\nfinetune: null" in result.output
    assert f"  dim: 48  # --from {run}\n" in result.output
