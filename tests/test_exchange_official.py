"""Proves: official picture models and those of fairseq's port import with the same outputs.

Files are written here from the table of reference section 5.2; outputs are compared with timm's
BEiT, which has the same parts.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.beit import Beit
from torch import nn

from d2v.errors import UsageError
from d2v.exchange.land import land
from d2v.model_folder import load_model
from tests.foreign_case import Tensors, assert_same, read, written
from tests.foreign_picture_case import (
    CLASSES,
    DEPTH,
    DIM,
    HEADS,
    HIDDEN,
    INDEX,
    PATCH,
    SIDE,
    as_port,
    encoded,
    expected,
    fine_tuned,
    pictures,
    pre_trained,
)

IMAGENET = (0.485, 0.456, 0.406)


def stock(tensors: Tensors, eps: float, **settings: Any) -> Beit:
    """Timm's BEiT with these weights, official names."""
    model = Beit(
        img_size=SIDE * PATCH, patch_size=PATCH, embed_dim=DIM, depth=DEPTH, num_heads=HEADS,
        mlp_ratio=HIDDEN / DIM, init_values=0.1, use_abs_pos_emb=False,
        norm_layer=partial(nn.LayerNorm, eps=eps),  # type: ignore[arg-type]  # timm calls it
        **settings,
    )  # fmt: skip
    known = model.state_dict()
    model.load_state_dict({name: one for name, one in tensors.items() if name in known})
    return model.eval()


def test_pre_trained__student_head_and_average_come_to_their_places(tmp_path: Path) -> None:
    tensors, average = pre_trained(), pre_trained(seed=1)
    path = written(tmp_path / "base.pth", {"model": tensors, "model_ema": average, "epoch": 799})
    foreign, recipe, made = read(path)
    wanted = expected(tensors) | expected(average, "teacher.")
    wanted |= {f"head.0.{kind}": tensors[f"lm_head.{kind}"] for kind in ("weight", "bias")}
    assert_same(made.checkpoint_tensors(), wanted)
    assert foreign.kind == "official data2vec vision, pre-trained"
    assert set(made.accounted.left_out) == {
        f"rel_pos_bias.{INDEX}",
        f"model_ema.rel_pos_bias.{INDEX}",
        "model_ema.lm_head.weight",
        "model_ema.lm_head.bias",
    }
    assert recipe.modality.model_dump()["frontend"]["pixel_mean"] == IMAGENET
    assert recipe.encoder.norm_eps == 1e-6


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model, ema: {"model": model, "model_ema": {"module": ema}},
        lambda model, ema: {
            "module": {f"module.{name}": one for name, one in model.items()},
            "model_ema": {f"module.{name}": one for name, one in ema.items()},
        },
    ],
    ids=["nested average", "DeepSpeed"],
)
def test_pre_trained__wrappers_change_nothing(tmp_path: Path, wrap: Any) -> None:
    tensors, average = pre_trained(), pre_trained(seed=1)
    _, _, made = read(written(tmp_path / "base.pth", wrap(tensors, average)))
    found = made.checkpoint_tensors()
    student = {name: one for name, one in found.items() if name.startswith(("fron", "enc"))}
    assert_same(student, expected(tensors))
    teacher = {name: one for name, one in found.items() if name.startswith("teacher.")}
    assert_same(teacher, expected(average, "teacher."))


def test_pre_trained__outputs_are_those_of_the_stock_class(tmp_path: Path) -> None:
    tensors = pre_trained()
    _, recipe, made = read(written(tmp_path / "base.pth", {"model": tensors}))
    model = stock(tensors, 1e-6, use_shared_rel_pos_bias=True, num_classes=0, global_pool="token")
    batch, normalised = pictures(recipe)
    with torch.no_grad():
        theirs = model.forward_features(normalised)
    assert torch.allclose(encoded(made, batch), theirs, rtol=0, atol=1e-5)


def test_fine_tuned__answers_are_those_of_the_stock_class(tmp_path: Path) -> None:
    tensors = fine_tuned()
    path = written(tmp_path / "tuned.pth", {"module": tensors})
    foreign, recipe, made = read(path)
    assert foreign.kind == "official data2vec vision or BEiT, fine-tuned"
    anew = {"frontend.mask_token"}
    found = made.checkpoint_tensors()
    assert_same({n: t for n, t in found.items() if n not in anew}, expected(tensors))
    assert set(made.accounted.anew) == anew
    land(foreign, tmp_path / "run", path)
    loaded = load_model(tmp_path / "run")
    batch, normalised = pictures(recipe)
    assert recipe.modality.model_dump()["frontend"]["pixel_mean"] == (0.5, 0.5, 0.5)
    model = stock(tensors, 1e-6, use_rel_pos_bias=True, num_classes=CLASSES, global_pool="avg")
    with torch.no_grad():
        theirs = model(normalised)
    assert torch.allclose(loaded.model.predict(batch).values, theirs, rtol=0, atol=1e-5)
    assert loaded.task.about() == {"classes": ["0", "1", "2", "3", "4"]}


def test_settings_of_the_command_line__are_followed(tmp_path: Path) -> None:
    args = argparse.Namespace(
        imagenet_default_mean_and_std=False, target_layers="[1]", l1_beta=0.5, ema_decay=0.99,
        no_target_layer_norm_last=True, post_target_layer_norm=False,
    )  # fmt: skip
    _, recipe, _ = read(written(tmp_path / "base.pth", {"model": pre_trained(), "args": args}))
    objective = recipe.objective
    assert recipe.modality.model_dump()["frontend"]["pixel_mean"] == (0.5, 0.5, 0.5)
    assert (objective.top_k, objective.beta, objective.tau.tau_e) == (1, 0.5, 0.99)
    assert (objective.target_norm, objective.mean_norm) == ("none", "none")


def test_original_beit__its_head_of_visual_tokens_is_left_out(tmp_path: Path) -> None:
    tensors = pre_trained() | {
        "lm_head.weight": torch.ones(64, DIM),
        "lm_head.bias": torch.ones(64),
    }
    foreign, _, made = read(written(tmp_path / "beit.pth", {"model": tensors}))
    assert foreign.kind == "official BEiT, pre-trained"
    assert "head" not in made.parts
    assert {"lm_head.weight", "lm_head.bias"} < set(made.accounted.left_out)


@pytest.mark.parametrize("average", ["_ema.", "_ema.encoder."])
def test_port__tensors_come_to_their_places(tmp_path: Path, average: str) -> None:
    tensors, averaged = pre_trained(), pre_trained(seed=1)
    ema = {
        f"{average}{name.removeprefix('encoder.')}": one
        for name, one in as_port(averaged).items()
        if name.startswith("encoder.")
    }
    cfg = {"model": {"average_top_k_layers": 2, "layer_norm_targets": True, "num_heads": HEADS}}
    path = written(tmp_path / "port.pt", {"cfg": cfg, "model": as_port(tensors) | ema})
    foreign, recipe, made = read(path)
    # Patches, CLS and mask vector are shared there, so the teacher's are the student's.
    shared = {name: one for name, one in tensors.items() if "token" in name or "patch" in name}
    teacher = expected({**averaged, **shared}, "teacher.")
    assert_same(made.checkpoint_tensors(), expected(tensors) | teacher)
    assert foreign.kind == "fairseq data2vec vision, pre-trained"
    assert {"final_proj.weight", "final_proj.bias"} < set(made.accounted.left_out)
    assert (recipe.encoder.norm_eps, recipe.objective.top_k) == (1e-5, 2)
    assert (recipe.objective.target_norm, recipe.objective.mean_norm) == ("none", "layer")


def test_port__outputs_are_those_of_the_stock_class(tmp_path: Path) -> None:
    tensors = pre_trained()
    _, recipe, made = read(written(tmp_path / "port.pt", {"model": as_port(tensors)}))
    model = stock(tensors, 1e-5, use_shared_rel_pos_bias=True, num_classes=0, global_pool="token")
    batch, normalised = pictures(recipe)
    with torch.no_grad():
        theirs = model.forward_features(normalised)
    assert torch.allclose(encoded(made, batch), theirs, rtol=0, atol=1e-5)


def test_port__a_fine_tuned_model_comes_without_its_classifier(tmp_path: Path) -> None:
    dropped = ("mask_token", "norm.", "lm_head")
    tensors = {n: t for n, t in pre_trained().items() if not n.startswith(dropped)}
    model = {f"model.{name}": one for name, one in as_port(tensors).items()}
    head = {"head.weight": torch.ones(CLASSES, DIM), "fc_norm.weight": torch.ones(DIM)}
    foreign, recipe, made = read(written(tmp_path / "port.pt", {"model": model | head}))
    found = made.checkpoint_tensors()
    assert_same({n: t for n, t in found.items() if "mask" not in n}, expected(tensors))
    assert foreign.task is None
    assert not recipe.encoder.final_norm
    assert any("first patch" in note for note in foreign.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("blocks.1.gamma_2"), r"missing: blocks\.1\.gamma_2"),
        (lambda t: t.update(extra=torch.ones(1)), "unknown: extra"),
        (lambda t: t.update(pos_embed=torch.ones(1, 17, DIM)), "positions of several kinds"),
        (lambda t: t.pop("patch_embed.proj.bias"), r"missing: patch_embed\.proj\.bias"),
        (
            lambda t: t.update(
                {"rel_pos_bias.relative_position_bias_table": torch.ones(50, HEADS)}
            ),
            "positions of shape",
        ),
    ],
)
def test_a_file_that_does_not_add_up__is_refused(tmp_path: Path, change: Any, message: str) -> None:
    tensors = pre_trained()
    change(tensors)
    with pytest.raises(UsageError, match=message):
        read(written(tmp_path / "base.pth", {"model": tensors}))


def test_heads_other_than_the_tables__are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "base.pth", {"model": pre_trained()})
    assert read(path, num_heads=HEADS)[1].encoder.num_heads == HEADS
    with pytest.raises(UsageError, match="--num-heads says 8 attention heads, and the tables"):
        read(path, num_heads=8)


def test_a_file_of_something_else__is_said_to_be_unknown(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no model that d2v knows; it holds conv\.weight"):
        read(written(tmp_path / "net.pth", {"state_dict": {"conv.weight": torch.ones(1)}}))
    with pytest.raises(UsageError, match="it holds no tensors"):
        read(written(tmp_path / "none.pth", {"epoch": 3}))
