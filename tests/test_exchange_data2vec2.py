"""Proves: every tensor of fairseq's data2vec 2.0 files comes to its place, and settings with it.

Files are written here from the tables of reference sections 4 and 5.6.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from d2v.data2vec2 import Data2Vec2Settings
from d2v.exchange.fairseq.reader import read_fairseq
from d2v.exchange.land import land
from d2v.exchange.own_recipe import recipe_of
from d2v.modalities.vision.frontend import sincos_table
from d2v.model_folder import load_model
from d2v.recipe import Recipe
from tests.foreign_case import Tensors, assert_same, filled, read, written
from tests.second_case import (
    DEPTH,
    DIM,
    GROUPS,
    HEADS,
    HIDDEN,
    KERNEL,
    KINDS,
    LAYERS,
    NAMES,
    PRENET,
    SIDE,
    WIDTH,
    content,
    expected_all,
    expected_encoder,
    expected_frontend,
    network,
    of_decoder,
    pair,
    prenet_of,
    second_tensors,
    settings,
    shared,
    teacher,
    tower,
)

TABLE = "modality_encoders.IMAGE.fixed_positional_encoder.positions"
AVERAGES = {"IMAGE": "all", "AUDIO": "after_features", "TEXT": "encoder"}


def objective_of(recipe: Recipe) -> Data2Vec2Settings:
    assert isinstance(recipe.objective, Data2Vec2Settings)
    return recipe.objective


# Tensors


@pytest.mark.parametrize("cfg", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor__comes_to_its_place(tmp_path: Path, kind: str, cfg: bool) -> None:
    tensors = second_tensors(kind)
    path = written(tmp_path / "two.pt", content(kind, tensors, cfg=cfg))
    foreign, recipe, made = read(path, num_heads=HEADS)
    assert foreign.kind == f"fairseq data2vec 2.0 {kind.lower()}, pre-trained"
    assert_same(made.checkpoint_tensors(), expected_all(tensors, kind))
    assert made.accounted.left_out == {}
    assert set(made.accounted.mapped) == set(tensors)
    assert objective_of(recipe).teacher_averages == AVERAGES[kind]
    assert recipe.modality.name == NAMES[kind]
    assert recipe.encoder.depth == prenet_of(kind) + DEPTH


def test_pictures__positions_that_are_sines_and_cosines_are_computed(tmp_path: Path) -> None:
    tensors = second_tensors("IMAGE")
    exact = sincos_table(SIDE, DIM).unsqueeze(0)
    tensors[TABLE], tensors[f"_ema.{TABLE}"] = exact.half(), exact  # as fairseq stores them
    _, recipe, made = read(written(tmp_path / "two.pt", content("IMAGE", tensors)))
    assert recipe.modality.model_dump()["frontend"]["positions"] == "sincos_2d"
    assert set(made.accounted.left_out) == {TABLE, f"_ema.{TABLE}"}
    assert "sines and cosines" in made.accounted.left_out[TABLE]
    expected = expected_all(tensors, "IMAGE")
    learned = {name for name in expected if name.endswith("frontend.positions")}
    assert_same(made.checkpoint_tensors(), {n: expected[n] for n in expected.keys() - learned})


def test_pictures__positions_in_another_order_of_channels_are_learned(tmp_path: Path) -> None:
    tensors = second_tensors("IMAGE")
    tensors[TABLE] = sincos_table(SIDE, DIM).roll(1, dims=1).unsqueeze(0)
    _, recipe, made = read(written(tmp_path / "two.pt", content("IMAGE", tensors)))
    assert recipe.modality.model_dump()["frontend"]["positions"] == "learned"
    assert torch.equal(made.checkpoint_tensors()["frontend.positions"][1:], tensors[TABLE][0])


def test_pictures__without_extra_token_have_no_cls(tmp_path: Path) -> None:
    tensors = {n: one for n, one in second_tensors("IMAGE").items() if "extra_tokens" not in n}
    _, recipe, made = read(written(tmp_path / "two.pt", content("IMAGE", tensors)))
    assert not recipe.modality.has_cls
    assert torch.equal(made.checkpoint_tensors()["frontend.positions"], tensors[TABLE][0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_without_average_and_decoder__has_neither_teacher_nor_head(
    tmp_path: Path, kind: str
) -> None:
    tensors = filled(network(kind))
    path = written(tmp_path / "two.pt", content(kind, tensors))
    foreign, recipe, made = read(path)
    expected = expected_frontend(tensors, kind) | expected_encoder(tensors, kind)
    assert_same(made.checkpoint_tensors(), expected)
    assert foreign.teacher is None
    assert objective_of(recipe).teacher_averages == AVERAGES[kind]


def test_text__an_average_of_the_whole_model_is_the_teacher(tmp_path: Path) -> None:
    tensors = filled(network("TEXT")) | filled(network("TEXT", "_ema."), seed=1)
    _, recipe, made = read(written(tmp_path / "two.pt", content("TEXT", tensors)))
    found = made.checkpoint_tensors()
    expected = expected_frontend(tensors, "TEXT", "_ema.", "teacher.")
    assert_same({n: t for n, t in found.items() if n.startswith("teacher.front")}, expected)
    name = "teacher.encoder.blocks.1.mlp.fc2.weight"
    assert torch.equal(found[name], tensors["_ema.blocks.1.mlp.fc2.weight"])
    assert objective_of(recipe).teacher_averages == "all"


def test_an_average_of_shared_blocks_alone__takes_the_prenet_from_the_student(
    tmp_path: Path,
) -> None:
    tensors = filled(network("AUDIO")) | filled(shared("_ema."), seed=1)
    foreign, recipe, made = read(written(tmp_path / "two.pt", content("AUDIO", tensors)))
    found = made.checkpoint_tensors()
    for name, one in tensors.items():
        if name.startswith("_ema."):
            number, _, rest = name.removeprefix("_ema.").partition(".")
            ours = f"teacher.encoder.blocks.{PRENET + int(number)}.{rest}"
            assert torch.equal(found[ours], one), name
    name = "encoder.blocks.0.attn.qkv.weight"
    assert torch.equal(found[f"teacher.{name}"], found[name])
    assert any("1 blocks of the prenet" in note for note in foreign.notes)
    assert objective_of(recipe).teacher_averages == "encoder"


# Settings


@pytest.mark.parametrize("kind", KINDS)
def test_settings__are_the_files(tmp_path: Path, kind: str) -> None:
    _, recipe, _ = read(written(tmp_path / "two.pt", content(kind, second_tensors(kind))))
    encoder, objective = recipe.encoder, objective_of(recipe)
    assert (encoder.dim, encoder.num_heads, encoder.norm_position) == (DIM, HEADS, "post")
    assert int(encoder.dim * encoder.mlp_ratio) == HIDDEN
    assert encoder.norm_eps == (1e-6 if kind == "IMAGE" else 1e-5)
    assert encoder.input_norm == (kind != "TEXT")
    rate = 0 if kind == "IMAGE" else 0.1
    assert (encoder.dropout, encoder.attention_dropout, encoder.drop_path) == (rate, rate, 0)
    assert encoder.layerdrop == (0.05 if kind == "AUDIO" else 0)
    assert (encoder.layer_scale, encoder.init) == (None, "normal")
    assert (objective.top_k, objective.masks_per_sample) == (2, 3)
    assert (objective.prenet_depth, objective.target_feature) == (prenet_of(kind), "ffn")
    assert objective.prefix_weight == pytest.approx(0.05 * 2 * 3 if kind == "IMAGE" else 0)
    norms = {"IMAGE": ("instance", "layer"), "AUDIO": ("instance", "none"),
             "TEXT": ("layer", "none")}  # fmt: skip
    assert (objective.target_norm, objective.mean_norm) == norms[kind]
    assert objective.channel_reduction == ("sum" if kind == "TEXT" else "inv_sqrt_dim")
    assert objective.beta == (0.5 if kind == "TEXT" else 0)
    assert objective.decoder.model_dump() == {
        "layers": LAYERS, "width": WIDTH, "kernel": KERNEL, "groups": GROUPS,
        "residual": kind != "TEXT", "projection_layers": 2 if kind == "TEXT" else 1,
        "projection_std": None, "input_dropout": 0.2, "noise_std": 0.0,
    }  # fmt: skip
    assert objective.tau.model_dump() == {
        "schedule": "linear", "tau_0": 0.99, "tau_e": 0.999, "tau_n": "700 steps",
    }  # fmt: skip
    masks = {
        "IMAGE": {"kind": "inverse_block", "ratio": 0.6, "size": 2, "adjust": 0.1},
        "AUDIO": {"kind": "blocks", "ratio": 0.4, "length": 3, "adjust": 0.02},
        "TEXT": {"kind": "random", "ratio": 0.3},
    }
    mask = recipe.modality.model_dump()["mask"]
    assert {name: mask[name] for name in masks[kind]} == masks[kind]


PUBLISHED: dict[tuple[str, int, int], tuple[Any, ...]] = {
    # D, patch -> heads, K, masks a sample, CLS weight, norms, tau_e, tau_n, ratio, layerdrop
    ("IMAGE", 768, 16): (12, 10, 16, 2.56, ("instance", "layer"), 0.99999, 100_000, 0.8, 0),
    ("IMAGE", 1024, 16): (16, 18, 16, 1.28, ("instance", "layer"), 0.99999, 150_000, 0.75, 0),
    ("IMAGE", 1280, 16): (16, 24, 16, 1.28, ("instance", "layer"), 0.99995, 150_000, 0.75, 0),
    ("IMAGE", 1280, 14): (16, 24, 16, 1.28, ("instance", "layer"), 1.0, 300_000, 0.75, 0),
    ("AUDIO", 768, 0): (12, 8, 8, 0, ("instance", "none"), 0.99999, 75_000, 0.5, 0.05),
    ("AUDIO", 1024, 0): (16, 16, 12, 0, ("instance", "none"), 1.0, 300_000, 0.55, 0),
    ("TEXT", 768, 0): (12, 12, 8, 0, ("instance", "none"), 0.99999, 100_000, 0.48, 0),
    ("TEXT", 1024, 0): (16, 24, 8, 0, ("layer", "instance"), 0.99999, 100_000, 0.5, 0),
}
"""Reference section 4.9; the weight of CLS from P5."""


def wide(kind: str, dim: int, patch: int, depth: int) -> Tensors:
    """Tensors of that width without memory behind them, for settings alone."""
    narrow = network(kind) | of_decoder(kind, tower(kind))
    narrow |= {n.replace("blocks.0.", f"blocks.{k}."): s for k in range(depth)
               for n, s in narrow.items() if n.startswith("blocks.0.")}  # fmt: skip
    sizes = {DIM: dim, 3 * DIM: 3 * dim, HIDDEN: 4 * dim, DIM // GROUPS: dim // GROUPS}
    found = {}
    for name, shape in narrow.items():
        if name.endswith(("alibi_scale", "conv_layers.0.0.weight")) or "proj.weight" in name:
            shape = tuple(dim if size == DIM else size for size in shape)
        else:
            shape = tuple(sizes.get(size, size) for size in shape)
        if kind == "IMAGE" and name.endswith("local_encoder.proj.weight"):
            shape = (dim, 3, patch, patch)
        found[name] = torch.empty(1).expand(shape)
    return found


@pytest.mark.parametrize(("kind", "dim", "patch"), PUBLISHED)
def test_without_settings__those_of_the_published_model_hold(
    tmp_path: Path, kind: str, dim: int, patch: int
) -> None:
    heads, top_k, views, weight, norms, tau_e, tau_n, ratio, layerdrop = PUBLISHED[kind, dim, patch]
    tensors = wide(kind, dim, patch, depth=24)
    if kind == "AUDIO":
        tensors[f"{tower(kind)}alibi_scale"] = torch.empty(1).expand(1, 1, heads, 1, 1)
    # Tensors of one number, seen many times: a file must hold every value.
    whole = {"cfg": None, "model": tensors}
    path = tmp_path / "two.pt"
    foreign = read_fairseq(path, whole, tensors, num_heads=None, tokenizer=None)
    recipe = recipe_of(foreign, tmp_path / "two")
    objective = objective_of(recipe)
    assert recipe.encoder.num_heads == heads
    assert any("heads" in note for note in foreign.notes) == (kind != "AUDIO")
    assert (objective.top_k, objective.masks_per_sample) == (top_k, views)
    assert objective.prefix_weight == pytest.approx(weight)
    assert (objective.target_norm, objective.mean_norm) == norms
    assert (objective.tau.tau_e, objective.tau.tau_n) == (tau_e, f"{tau_n} steps")
    assert recipe.modality.mask.ratio == ratio
    assert recipe.encoder.layerdrop == layerdrop
    rate = 0 if kind == "IMAGE" else 0.1
    assert (recipe.encoder.dropout, objective.decoder.input_dropout) == (rate, rate)
    assert objective.decoder.residual == (kind != "TEXT")
    assert objective.decoder.noise_std == 0.01
    assert (objective.beta, objective.tau.schedule) == (0, "linear")


def test_masks_that_d2v_does_not_draw__are_said(tmp_path: Path) -> None:
    path = written(tmp_path / "two.pt", content("TEXT", second_tensors("TEXT"), mask_length=4))
    foreign, recipe, _ = read(path)
    assert any("mask_length 4" in note for note in foreign.notes)
    assert recipe.modality.mask.kind == "random"


# Fine-tuned


def tuned(kind: str, prefix: str, **model: Any) -> dict[str, Any]:
    """Settings of a fine-tuned file, those of pre-training inside."""
    inner = "w2v_args" if kind == "AUDIO" else "pretrained_model_args"
    return {"model": {inner: settings(kind), **model}, "task": {"normalize": False}}


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("mode", ["MEAN_POOLING", None, 2])
def test_pictures__a_classifier_is_the_tasks_head(tmp_path: Path, normed: bool, mode: Any) -> None:
    shapes = network("IMAGE", "model.") | pair("head", 5, DIM) | (
        pair("fc_norm", DIM) if normed else {})  # fmt: skip
    tensors = filled(shapes)
    told = tuned("IMAGE", "model.", drop_path_rate=0.2, encoder_dropout=0,
                 **({} if mode is None else {"prediction_mode": mode}))  # fmt: skip
    path = written(tmp_path / "tuned.pt", {"cfg": told, "model": tensors})
    foreign, recipe, made = read(path)
    assert foreign.kind == "fairseq data2vec 2.0 image, fine-tuned"
    expected = expected_frontend(tensors, "IMAGE", "model.")
    expected |= expected_encoder(tensors, "IMAGE", "model.")
    assert_same(made.checkpoint_tensors(), expected)
    assert foreign.task == {
        "name": "classify", "head": {"pool": "first" if mode == 2 else "mean", "norm": normed}
    }  # fmt: skip
    head = made.parts["head"].state_dict()
    assert torch.equal(head["last.weight"], tensors["head.weight"])
    assert not normed or torch.equal(head["norm.bias"], tensors["fc_norm.bias"])
    assert (recipe.encoder.num_heads, recipe.encoder.drop_path) == (HEADS, 0.2)
    land(foreign, tmp_path / "runs", path)
    assert load_model(tmp_path / "runs").task.about() == {"classes": ["0", "1", "2", "3", "4"]}


def test_pictures__a_classifier_that_pools_otherwise_is_left_out(tmp_path: Path) -> None:
    tensors = filled(network("IMAGE", "model.") | pair("head", 5, DIM))
    told = tuned("IMAGE", "model.", prediction_mode="LIN_SOFTMAX")
    foreign, _, made = read(written(tmp_path / "tuned.pt", {"cfg": told, "model": tensors}))
    assert foreign.task is None
    assert set(made.accounted.left_out) == {"head.weight", "head.bias"}


def test_speech__a_projection_to_letters_is_the_tasks_head(tmp_path: Path) -> None:
    prefix = "w2v_encoder.w2v_model."
    shapes = network("AUDIO", prefix) | of_decoder("AUDIO", tower("AUDIO", prefix))
    tensors = filled(shapes | pair("w2v_encoder.proj", 32, DIM))
    told = tuned("AUDIO", prefix, dropout=0.0, activation_dropout=0.1, layerdrop=0.1)
    path = written(tmp_path / "tuned.pt", {"cfg": told, "model": tensors})
    foreign, recipe, made = read(path)
    assert foreign.kind == "fairseq data2vec 2.0 audio, fine-tuned"
    found = made.checkpoint_tensors()
    for name, one in expected_encoder(tensors, "AUDIO", prefix).items():
        assert torch.equal(found[name], one), name
    scale = tensors[f"{tower('AUDIO', prefix)}alibi_scale"].flatten()
    assert torch.equal(found["frontend.alibi.scale"], scale)
    head = made.parts["head"].state_dict()
    assert torch.equal(head["projection.weight"], tensors["w2v_encoder.proj.weight"])
    assert len((foreign.about or {})["symbols"]) == 32
    encoder = recipe.encoder
    assert (encoder.dropout, encoder.activation_dropout, encoder.layerdrop) == (0, 0.1, 0.1)
    assert set(made.accounted.left_out) == {n for n in tensors if ".decoder." in n}
    assert recipe.modality.model_dump()["frontend"]["normalise"] is True  # as in pre-training
    land(foreign, tmp_path / "runs", path)
    assert load_model(tmp_path / "runs").task.about()["symbols"] == (foreign.about or {})["symbols"]


def test_average__of_a_teacher_that_lost_a_tensor_is_refused(tmp_path: Path) -> None:
    shapes = network("IMAGE") | teacher("IMAGE")
    del shapes["_ema.blocks.1.norm2.bias"]
    path = written(tmp_path / "two.pt", content("IMAGE", filled(shapes)))
    with pytest.raises(Exception, match=r"1 missing: _ema\.blocks\.1\.norm2\.bias"):
        read(path)
