"""Proves: fine-tuning starts from the student, wherever it is named, or from weights of its own.

The first update has learning rate 0 (warm-up), so that checkpoint 1 holds the weights of the start.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from tests.finetune_case import (
    PRETRAINED,
    RECIPE,
    STAGE,
    TRIAL,
    desk_fixture,
    drawn_desk_fixture,
    finetune,
    pretrained_desk_fixture,
    result,
    text_desk_fixture,
    weights,
)
from tests.hostile_case import d2v, left, refused, worked
from tests.modality_cases import CONVOLUTION, LOGMEL

__all__ = ["desk_fixture", "drawn_desk_fixture", "pretrained_desk_fixture", "text_desk_fixture"]

ALL_STEPS = ("finetune.checkpoint_every=1", "finetune.keep_checkpoints=9")
THERE = "data.shards=runs/my/prepare/shards/common"
STEP_1 = "runs/my/pretrain/checkpoints/step-000000001"


def start_of(trial: str, stage: Path = STAGE) -> dict[str, Tensor]:
    return weights(stage / "trials" / trial, 1)


def only(tensors: dict[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if name.startswith(prefixes)}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# The student, or fresh weights


def test_pretrained__is_the_student_with_a_fresh_head_and_scratch_is_neither(desk: Path) -> None:
    worked(finetune(*ALL_STEPS, "finetune.init=[pretrained,scratch]", "finetune.seeds=[0,1]"))
    checkpoint = weights(PRETRAINED, 2)
    student = only(checkpoint, "encoder.", "frontend.")
    teacher = only({name.removeprefix("teacher."): value for name, value in checkpoint.items()
                    if name.startswith("teacher.")}, "encoder.", "frontend.")  # fmt: skip
    matrices = [name for name in teacher if name.startswith("encoder.") and teacher[name].ndim > 1]
    assert len(matrices) >= 8
    one, two = (start_of(f"pretrained-all-lr0.003-seed{seed}") for seed in (0, 1))
    for start in (one, two):
        assert same(only(start, "encoder.", "frontend."), student)
        assert not any(torch.equal(start[name], teacher[name]) for name in matrices)
    head = [name for name in one if name.startswith("head.") and one[name].ndim > 1]
    assert [tuple(one[name].shape) for name in head] == [(3, 16)]
    assert not torch.equal(one[head[0]], two[head[0]])
    assert 0.01 < one[head[0]].std() < 0.03  # encoder.init_std
    fresh = [start_of(f"scratch-all-lr0.003-seed{seed}") for seed in (0, 1)]
    for name in matrices:
        assert not torch.equal(fresh[0][name], student[name])
        assert not torch.equal(fresh[0][name], fresh[1][name])
    assert torch.equal(fresh[0][head[0]], one[head[0]])  # what is compared differs in nothing else


def test_start__is_the_same_however_it_is_named(desk: Path) -> None:
    """In a recipe of another name, with a pretrain section and without."""
    without = yaml.safe_load(RECIPE)
    del without["pretrain"], without["prepare"], without["name"]
    Path("other.yaml").write_text(yaml.safe_dump(without))
    for number, (recipe, named) in enumerate([
        ("my.yaml", ["pretrain.checkpoint=runs/my"]),
        ("other.yaml", ["finetune.checkpoint=runs/my/pretrain"]),
        ("other.yaml", ["--from", "runs/my"]),
        ("other.yaml", ["--from", "runs/my/pretrain/checkpoints/step-000000002"]),
    ]):  # fmt: skip
        shown = worked(d2v("finetune", recipe, *named, THERE, f"name=run{number}"))
        assert "Pre-trained weights: runs/my/pretrain/checkpoints/step-000000002" in shown.output
    digests = [
        json.loads(
            Path(f"runs/run{n}/finetune/trials/{TRIAL}/checkpoints/step-000000004/manifest.json")
            .read_text()
        )["sha256"]["model.safetensors"]
        for n in range(4)
    ]  # fmt: skip
    assert len(set(digests)) == 1
    shown = worked(d2v("finetune", "other.yaml", "--from", STEP_1, THERE, *ALL_STEPS))
    found = start_of(TRIAL, Path("runs/other/finetune"))
    assert same(only(found, "encoder.", "frontend."),
                only(weights(PRETRAINED, 1), "encoder.", "frontend."))  # fmt: skip
    worked(d2v("finetune", "other.yaml", f"finetune.checkpoint={STEP_1}", "pretrain=null", THERE,
               *ALL_STEPS), "already finished")  # fmt: skip
    refused(d2v("finetune", "other.yaml", "--from", "runs/my", THERE, *ALL_STEPS),
            "was started with checkpoint", "--fresh")  # fmt: skip


def test_finetune_checkpoint__counts_before_that_of_pretraining(desk: Path) -> None:
    worked(finetune(f"finetune.checkpoint={STEP_1}", "pretrain.checkpoint=nowhere"))
    assert any("step-000000001" in remark for remark in result()["report"]["remarks"])


def test_scratch__needs_no_pretraining(desk: Path) -> None:
    shutil.rmtree(PRETRAINED)
    refused(finetune(), "There is no checkpoint in runs/my/pretrain", "Run d2v pretrain first")
    assert left(STAGE) == []
    worked(finetune("finetune.init=scratch"))


# The architecture


@pytest.mark.parametrize(
    "start", ["runs/my", "runs/my/pretrain", "runs/my/pretrain/checkpoints", STEP_1]
)
def test_from__takes_over_the_architecture_and_leaves_the_rest(desk: Path, start: str) -> None:
    changed = RECIPE.replace("dim: 16, depth: 2", "dim: 32, depth: 3").replace(
        "patch_size: 4", "patch_size: 2"
    )
    Path("my.yaml").write_text(changed.replace("drop_path: 0.1", "drop_path: 0.2, dropout: 0.3"))
    refused(finetune(), "is of another architecture", "encoder.dim is 16 in the checkpoint and 32")
    shown = worked(finetune("--from", start, "--print-config")).stdout.splitlines()
    for line in (f"  dim: 16  # --from {start}", f"  depth: 2  # --from {start}",
                 f"    patch_size: 4  # --from {start}", "  drop_path: 0.2  # my.yaml",
                 "  dropout: 0.3  # my.yaml", f"  checkpoint: {start}  # --from {start}",
                 "    hflip: 0.0  # my.yaml"):  # fmt: skip
        assert line in shown, line
    worked(finetune("--from", start))


def test_from__replaces_a_frontend_of_another_kind_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    common = {"encoder": {"dim": 16, "depth": 2, "num_heads": 2}, "objective": {"top_k": 1},
              "finetune": {"task": {"name": "classify"}, "steps": 2}}  # fmt: skip
    for name, modality in (("mel", LOGMEL), ("waves", CONVOLUTION)):
        own = {**common, "modality": modality}
        Path(f"{name}.yaml").write_text(yaml.safe_dump(own))
        shown = worked(d2v("finetune", f"{name}.yaml", "--print-config"))
        Path(f"runs/{name}/pretrain").mkdir(parents=True)
        Path(f"runs/{name}/pretrain/config.yaml").write_text(shown.stdout)
    for one, other in (("mel", "waves"), ("waves", "mel")):
        shown = worked(d2v("finetune", f"{one}.yaml", "--from", f"runs/{other}", "--print-config"))
        theirs = worked(d2v("finetune", f"{other}.yaml", "--print-config"))
        taken, meant = (yaml.safe_load(text.stdout)["modality"] for text in (shown, theirs))
        assert taken["frontend"] == meant["frontend"]
        assert f"    kind: {meant['frontend']['kind']}  # --from runs/{other}" in (
            shown.stdout.splitlines()
        )


def test_from__against_an_override_of_the_architecture_is_refused(desk: Path) -> None:
    refused(finetune("--from", "runs/my", "encoder.dim=32"), "is of another architecture",
            "encoder.dim is 16 in the checkpoint and 32 in the recipe")  # fmt: skip
    assert left(STAGE) == []
    worked(finetune("--from", "runs/my", "encoder.drop_path=0.2"))


def test_architecture__cannot_be_changed_for_pretrained_weights(desk: Path) -> None:
    worked(finetune())
    for change in ("encoder.dim=32", "modality.frontend.patch_size=2"):
        refused(finetune("--fresh", f"finetune.{change}", "finetune.init=[scratch,pretrained]"),
                "do not fit the model", "finetune.init=scratch")  # fmt: skip
        assert (STAGE / "result.json").exists()  # it is refused before anything is removed
    worked(finetune("--fresh", "finetune.encoder.dim=32", "finetune.init=scratch"))


def test_from__nowhere_or_another_modality_is_refused(desk: Path, text_desk: Path) -> None:
    refused(finetune("--from", "runs/mine"), "--from runs/mine: there is no run", "pretrain/config")
    refused(finetune("--from", "photos"), "--from photos: there is no run")
    theirs = text_desk / "runs/tiny"
    refused(finetune("--from", str(theirs)), "modality.name is text", "my.yaml is vision")
    refused(finetune(f"finetune.checkpoint={theirs}"), "modality.name is 'text' in the checkpoint "
            "and 'vision' in the recipe")  # fmt: skip
    assert left(STAGE) == []
    worked(finetune())
