"""Proves: fine-tuning's layer-wise learning rates and schedule are those of reference 3.1."""

import math
from typing import Any

import pytest

from d2v.core.encoder import Encoder
from d2v.core.schedules import Horizon, LearningRateSettings
from d2v.engine.optim import OptimizerSettings, apply_schedules, build_optimizer, parameter_groups
from d2v.modalities.vision.frontend import FrontendSettings, VisionFrontend
from d2v.tasks import TaskModel
from d2v.tasks.classify import Classify, ClassifySettings
from tests.maths_case import seeded, tiny_settings

DEPTH = 12
EMBEDDINGS = [
    f"frontend.{name}"
    for name in (
        "cls_token",
        "mask_token",
        "positions",
        "patch_embed.proj.weight",
        "patch_embed.proj.bias",
    )
]
HEAD = ["head.norm.weight", "head.norm.bias", "head.last.weight", "head.last.bias"]


def build(positions: str, **given: Any) -> TaskModel:
    """A classifier over the published ViT-B's 12 blocks, narrow."""
    shape = tiny_settings(depth=DEPTH, layer_scale=1e-4)
    frontend = FrontendSettings.model_validate({"image_size": 32, "positions": positions})
    head = {"norm": True, "weight_scale": 0.001}
    settings = ClassifySettings.model_validate({"name": "classify", "head": head, **given})
    task = Classify(settings, ("a", "b", "c"))
    model = task.build(VisionFrontend(frontend, shape), Encoder(shape))
    model.initialise(seeded(0))
    return model


def scales(model: TaskModel, decay: float) -> dict[str, float]:
    groups: list[dict[str, Any]] = parameter_groups(model, OptimizerSettings(layer_decay=decay))
    return {name: group["lr_scale"] for group in groups for name in group["names"]}


def expected_scales(model: TaskModel, decay: float) -> dict[str, float]:
    """By the reference's own list of ids, name by name: decay ** (L + 1 - id)."""
    ids: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name in EMBEDDINGS:
            ids[name] = 0
        elif name.startswith("encoder.blocks."):
            ids[name] = int(name.split(".")[2]) + 1
        else:
            ids[name] = DEPTH + 1
    return {name: decay ** (DEPTH + 1 - number) for name, number in ids.items()}


@pytest.mark.parametrize("decay", [0.65, 0.9, 1.0])
@pytest.mark.parametrize("positions", ["relative", "learned"])
def test_layer_decay__equals_the_formula_for_every_parameter(positions: str, decay: float) -> None:
    model = build(positions)
    found = scales(model, decay)
    assert found == pytest.approx(expected_scales(model, decay), rel=1e-12)
    assert len({round(scale, 9) for scale in found.values()}) == (1 if decay == 1 else DEPTH + 2)


def test_layer_decay__last_block_learns_at_d_and_the_head_at_1() -> None:
    found = scales(build("relative"), 0.65)
    cases = {
        "head.norm.weight": 1.0,
        "head.last.weight": 1.0,
        "frontend.relative.relative_position_bias_table": 1.0,
        "encoder.blocks.11.mlp.fc2.weight": 0.65,
        "encoder.blocks.0.attn.qkv.weight": 0.65**12,
        "frontend.patch_embed.proj.weight": 0.65**13,
        "frontend.cls_token": 0.65**13,
    }
    assert {name: found[name] for name in cases} == pytest.approx(cases, rel=1e-12)


def test_layer_decay__leaves_out_the_average_and_what_is_frozen() -> None:
    averaged = build("relative", average=0.999)
    assert scales(averaged, 0.65) == scales(build("relative"), 0.65)
    head_alone = scales(build("relative", freeze="encoder"), 0.65)
    assert sorted(head_alone) == sorted(HEAD)
    assert set(head_alone.values()) == {1.0}
    blocks_too = scales(build("relative", freeze="frontend"), 0.65)
    assert blocks_too["encoder.blocks.0.norm1.weight"] == pytest.approx(0.65**12)
    assert not any(name.startswith("frontend.") for name in blocks_too)


def test_schedule__rises_from_zero_and_ends_at_a_millionth_in_every_group() -> None:
    """Published ViT-B: 4e-3, ten of a hundred epochs of warm-up, cosine a step to 1e-6."""
    settings = OptimizerSettings(
        learning_rate=4e-3,
        layer_decay=0.65,
        weight_decay=0.0,
        clip_norm=None,
        schedule=LearningRateSettings(warmup="10 epochs", final_scale=2.5e-4),
    )
    optimizer = build_optimizer(build("relative"), settings)
    horizon = Horizon(total_steps=300, steps_per_epoch=3)
    for step in range(301):
        apply_schedules(optimizer, settings, step, horizon)
        t = (step - 30) / 270
        peak, end = 4e-3, 1e-6
        rate = (
            peak * step / 30 if step < 30 else end + (peak - end) * (1 + math.cos(math.pi * t)) / 2
        )
        for group in optimizer.param_groups:
            assert group["lr"] == pytest.approx(rate * group["lr_scale"], rel=1e-9)
            assert group["weight_decay"] == 0.0
