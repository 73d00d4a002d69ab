"""Proves: decay, layer-wise shares (reference 2.1, 3.1) and schedules reach their parameters."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from d2v.core.encoder import Encoder
from d2v.core.schedules import Horizon, LearningRateSettings
from d2v.data2vec import Data2Vec, Data2VecSettings
from d2v.engine.optim import OptimizerSettings, apply_schedules, build_optimizer, parameter_groups
from d2v.modalities.vision.frontend import FrontendSettings, VisionFrontend
from tests.maths_case import normal, seeded, tiny_settings


def build(positions: str = "relative") -> Data2Vec:
    """The published ViT-B's 12 blocks, narrow."""
    shape = tiny_settings(depth=12, layer_scale=1e-4)
    frontend = FrontendSettings.model_validate({"image_size": 32, "positions": positions})
    horizon = Horizon(total_steps=10, steps_per_epoch=10)
    model = Data2Vec(VisionFrontend(frontend, shape), Encoder(shape), Data2VecSettings(), horizon)
    model.initialise(seeded(0))
    return model


def by_name(groups: list[dict[str, Any]]) -> Mapping[str, dict[str, Any]]:
    return {name: group for group in groups for name in group["names"]}


@pytest.mark.parametrize("positions", ["relative", "relative_per_block", "learned"])
def test_groups__hold_every_trainable_parameter_once(positions: str) -> None:
    model = build(positions)
    settings = OptimizerSettings(layer_decay=0.65)
    groups: list[dict[str, Any]] = parameter_groups(model, settings)
    names = [name for group in groups for name in group["names"]]
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert sorted(names) == sorted(trainable)
    assert not any(name.startswith("teacher.") for name in names)
    for group in groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            assert parameter is trainable[name]


@pytest.mark.parametrize("positions", ["relative", "relative_per_block", "learned"])
def test_decay__is_on_matrices_and_relative_tables_alone(positions: str) -> None:
    expected = {"head.0.weight", "frontend.patch_embed.proj.weight"}
    for i in range(12):
        expected |= {
            f"encoder.blocks.{i}.{part}.weight"
            for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        }
    table = "relative_position_bias_table"
    if positions == "relative":
        expected.add(f"frontend.relative.{table}")
    elif positions == "relative_per_block":
        expected |= {f"frontend.relative.{i}.{table}" for i in range(12)}
    found = by_name(parameter_groups(build(positions), OptimizerSettings()))
    assert {name for name, group in found.items() if group["decayed"]} == expected
    spared = {name for name, group in found.items() if not group["decayed"]}
    for name in ("cls_token", "mask_token"):
        assert f"frontend.{name}" in spared
    assert "encoder.blocks.3.ls1.gamma" in spared
    assert ("frontend.positions" in spared) == (positions == "learned")


@pytest.mark.parametrize("positions", ["relative", "relative_per_block"])
@pytest.mark.parametrize("decay", [0.65, 0.9, 1.0])
def test_layer_decay__equals_the_formula_for_every_parameter(decay: float, positions: str) -> None:
    """scale(id) = d ** (L + 1 - id): 0 embeddings, i + 1 block i, L + 1 everything else."""
    model = build(positions)
    found = by_name(parameter_groups(model, OptimizerSettings(layer_decay=decay)))
    ids = {"frontend.patch_embed.": 0, "frontend.mask_token": 0, "frontend.cls_token": 0}
    ids |= {f"encoder.blocks.{i}.": i + 1 for i in range(12)}
    ids |= {"encoder.norm.": 13, "head.": 13, "frontend.relative.": 13}
    for name, group in found.items():
        (layer,) = (layer for start, layer in ids.items() if name.startswith(start))
        assert group["lr_scale"] == pytest.approx(decay ** (13 - layer), rel=1e-12), name


def test_decay__of_all_spares_nothing() -> None:
    groups: list[dict[str, Any]] = parameter_groups(build(), OptimizerSettings(decayed="all"))
    assert [group["decayed"] for group in groups] == [True]


def test_frontend_scale__is_on_the_frontend_alone_and_multiplies_layer_decay() -> None:
    settings = OptimizerSettings(layer_decay=0.5, frontend_scale=0.1)
    found = by_name(parameter_groups(build(), settings))
    assert found["frontend.mask_token"]["lr_scale"] == pytest.approx(0.1 * 0.5**13, rel=1e-12)
    assert found["encoder.blocks.0.norm1.weight"]["lr_scale"] == pytest.approx(0.5**12, rel=1e-12)
    assert found["head.0.weight"]["lr_scale"] == 1.0


def test_groups__without_layer_decay_are_two() -> None:
    groups: list[dict[str, Any]] = parameter_groups(build(), OptimizerSettings())
    assert sorted(group["decayed"] for group in groups) == [False, True]
    assert {group["lr_scale"] for group in groups} == {1.0}


def test_schedules__reach_every_group_at_every_step() -> None:
    model = build()
    settings = OptimizerSettings(
        learning_rate=3e-3,
        layer_decay=0.7,
        weight_decay=0.05,
        weight_decay_end=0.4,
        schedule=LearningRateSettings(warmup="4 steps", final_scale=0.1),
    )
    optimizer = build_optimizer(model, settings)
    horizon = Horizon(total_steps=20, steps_per_epoch=5)
    for step in range(21):
        told = apply_schedules(optimizer, settings, step, horizon)
        cosine = 0.5 * (1 + math.cos(math.pi * (step - 4) / 16))
        rate = 3e-3 * (step / 4 if step < 4 else 0.1 + 0.9 * cosine)
        decay = 0.4 + 0.5 * (0.05 - 0.4) * (1 + math.cos(math.pi * step / 20))
        assert told == pytest.approx({"learning_rate": rate, "weight_decay": decay})
        for group in optimizer.param_groups:
            assert group["lr"] == pytest.approx(rate * group["lr_scale"])
            assert group["weight_decay"] == pytest.approx(decay if group["decayed"] else 0)


def test_weight_decay__stays_constant_unless_an_end_is_given() -> None:
    settings = OptimizerSettings(weight_decay=0.07)
    optimizer = build_optimizer(build(), settings)
    horizon = Horizon(total_steps=9, steps_per_epoch=5)
    told = [apply_schedules(optimizer, settings, n, horizon)["weight_decay"] for n in range(10)]
    assert told == pytest.approx([0.07] * 10)


class Sum(nn.Module):
    """A matrix that is decayed and a bias that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(normal(1, 3, 4))
        self.bias = nn.Parameter(normal(2, 5))


def test_update__equals_adamw_written_out() -> None:
    model = Sum()
    settings = OptimizerSettings(
        learning_rate=0.05, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.3, weight_decay_end=0.1
    )
    optimizer = build_optimizer(model, settings)
    horizon = Horizon(total_steps=7, steps_per_epoch=7)
    slow = {name: p.detach().clone() for name, p in model.named_parameters()}
    m: dict[str, Tensor] = {name: torch.zeros_like(p) for name, p in slow.items()}
    v: dict[str, Tensor] = {name: torch.zeros_like(p) for name, p in slow.items()}
    for step in range(7):
        told = apply_schedules(optimizer, settings, step, horizon)
        rate = told["learning_rate"]
        for i, (name, parameter) in enumerate(model.named_parameters()):
            gradient = normal(10 * step + i, *parameter.shape)
            parameter.grad = gradient.clone()
            if name == "matrix":
                slow[name] -= rate * told["weight_decay"] * slow[name]
            m[name] = 0.8 * m[name] + 0.2 * gradient
            v[name] = 0.95 * v[name] + 0.05 * gradient**2
            mean, square = m[name] / (1 - 0.8 ** (step + 1)), v[name] / (1 - 0.95 ** (step + 1))
            slow[name] -= rate * mean / (square.sqrt() + 1e-3)
        optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), slow[name], rtol=1e-10, atol=1e-12)
