"""Proves: every tensor of fairseq's speech files comes to its place, and settings with it.

Files are written here from the tables of reference sections 5.1, 5.3 and 5.4.
"""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from d2v.data2vec import Data2VecSettings
from d2v.errors import UsageError
from d2v.exchange.land import land
from d2v.model_folder import load_model
from tests.foreign_case import (
    CONVOLUTIONS,
    DEPTH,
    DIM,
    HEADS,
    HIDDEN,
    SPEECH,
    Tensors,
    assert_same,
    expected_blocks,
    expected_speech,
    filled,
    nested,
    of_speech,
    of_speech_encoder,
    read,
    speech_content,
    speech_tensors,
    written,
)

LETTERS = ["<s>", "<pad>", "</s>", "<unk>", *"|ETAONIHSRDLUMWCFGYPBVK'XJQZ"]


@pytest.mark.parametrize("is_nested", [True, False])
@pytest.mark.parametrize("head", ["final_proj", "final_proj.0"])
def test_speech__student_head_and_average_come_to_their_places(
    tmp_path: Path, is_nested: bool, head: str
) -> None:
    tensors = {
        name.replace("final_proj", head): tensor for name, tensor in speech_tensors().items()
    }
    model = nested(tensors, "_ema") if is_nested else tensors
    foreign, recipe, made = read(written(tmp_path / "base.pt", speech_content(model)))
    expected = expected_speech(tensors)
    expected |= {f"head.0.{kind}": tensors[f"{head}.{kind}"] for kind in ("weight", "bias")}
    teacher = expected_blocks(tensors, "_ema.", "teacher.encoder.")
    for kind in ("weight", "bias"):
        teacher[f"teacher.encoder.input_norm.{kind}"] = tensors[f"_ema.layer_norm.{kind}"]
    assert_same(made.checkpoint_tensors(), expected | teacher)
    assert foreign.kind == "fairseq data2vec audio, pre-trained"
    assert recipe.objective.teacher_averages == "encoder"
    assert set(made.accounted.left_out) == {
        name for name in tensors if name.startswith("_ema.pos_conv")
    }


def test_speech__settings_are_the_files(tmp_path: Path) -> None:
    _, recipe, _ = read(written(tmp_path / "base.pt", speech_content(speech_tensors())))
    encoder, objective = recipe.encoder, recipe.objective
    assert (encoder.dim, encoder.depth, encoder.num_heads) == (DIM, DEPTH, HEADS)
    assert int(encoder.dim * encoder.mlp_ratio) == HIDDEN
    assert (encoder.norm_position, encoder.norm_eps, encoder.input_norm) == ("post", 1e-5, True)
    assert (encoder.dropout, encoder.layerdrop, encoder.drop_path) == (0.2, 0.05, 0)
    assert isinstance(objective, Data2VecSettings)
    assert (objective.top_k, objective.beta, objective.head_layers) == (2, 0.5, 1)
    assert (objective.target_norm, objective.mean_norm) == ("instance", "layer")
    assert (objective.target_feature, objective.channel_reduction) == ("ffn", "inv_sqrt_dim")
    assert objective.tau.model_dump() == {
        "schedule": "linear", "tau_0": 0.99, "tau_e": 0.999, "tau_n": "700 steps",
    }  # fmt: skip
    frontend = recipe.modality.model_dump()["frontend"]
    assert frontend["layers"] == CONVOLUTIONS
    assert frontend["positions"] == {
        "num_layers": 3, "kernel": 5, "groups": 4, "alibi": False, "zero_padding": "first",
    }  # fmt: skip
    assert frontend["normalise"] is True


@pytest.mark.parametrize("told", [{}, {"ema_layers_only": False}])
def test_speech__positions_that_were_averaged_make_the_teacher_a_frontend_of_its_own(
    tmp_path: Path, told: dict[str, Any]
) -> None:
    tensors = speech_tensors() | filled(of_speech_encoder("_ema."), seed=1)
    content = speech_content(nested(tensors, "_ema"), **told)
    _, recipe, made = read(written(tmp_path / "base.pt", content))
    expected = expected_speech(tensors, positions="_ema.", ours="teacher.")
    found = made.checkpoint_tensors()
    assert_same({n: t for n, t in found.items() if n.startswith("teacher.")}, expected)
    assert recipe.objective.teacher_averages == "all"


def test_speech__positions_that_are_an_old_copy_are_the_students(tmp_path: Path) -> None:
    # fairseq copies before the last update, so that copies are not equal to what they are copies of
    tensors = speech_tensors() | filled(of_speech_encoder("_ema."), seed=1)
    content = speech_content(tensors, ema_layers_only=True)
    _, recipe, made = read(written(tmp_path / "base.pt", content))
    assert recipe.objective.teacher_averages == "encoder"
    assert not any(name.startswith("teacher.front") for name in made.checkpoint_tensors())
    assert set(made.accounted.left_out.values()) == {
        "a copy of the student's, which the teacher shares"
    }


def test_speech__an_average_of_the_whole_model_is_the_teacher(tmp_path: Path) -> None:
    tensors = speech_tensors()
    tensors = {name: one for name, one in tensors.items() if not name.startswith("_ema.")}
    whole = filled(of_speech("_ema.") | {"_ema.final_proj.weight": (DIM, DIM)}, seed=1)
    _, recipe, made = read(written(tmp_path / "base.pt", speech_content(tensors | whole)))
    expected = expected_speech(whole, stem="_ema.", positions="_ema.encoder.", ours="teacher.")
    found = made.checkpoint_tensors()
    assert_same({n: t for n, t in found.items() if n.startswith("teacher.")}, expected)
    assert made.accounted.left_out == {"_ema.final_proj.weight": "the teacher has no head"}
    assert recipe.objective.teacher_averages == "all"


def test_speech__without_settings_published_ones_are_taken_and_said(tmp_path: Path) -> None:
    shapes = {
        name: shape
        for name, shape in of_speech(bias=True).items()
        if "feature_extractor" not in name and name not in ("layer_norm.weight", "layer_norm.bias")
    }
    before = 1
    for number, kernel in enumerate((10, 3, 3, 3, 3, 2, 2)):
        layer = f"feature_extractor.conv_layers.{number}"
        shapes |= {f"{layer}.0.weight": (8, before, kernel), f"{layer}.0.bias": (8,)}
        shapes |= {f"{layer}.2.1.weight": (8,), f"{layer}.2.1.bias": (8,)}
        before = 8
    shapes |= {"layer_norm.weight": (8,), "layer_norm.bias": (8,)}
    path = written(tmp_path / "base.pt", {"model": filled(shapes)})
    with pytest.raises(UsageError, match="does not tell its attention heads"):
        read(path)
    _, recipe, _ = read(path, num_heads=8)
    assert recipe.encoder.num_heads == 8
    assert recipe.modality.model_dump()["frontend"]["bias"] is True
    strides = [stride for _, _, stride in recipe.modality.model_dump()["frontend"]["layers"]]
    assert strides == [5, 2, 2, 2, 2, 2, 2]
    assert (recipe.objective.top_k, recipe.objective.target_norm) == (DEPTH, "instance")


def fine_tuned(num_symbols: int = 32) -> Tensors:
    proj = {"w2v_encoder.proj.weight": (num_symbols, DIM), "w2v_encoder.proj.bias": (num_symbols,)}
    return filled(of_speech("w2v_encoder.w2v_model.") | proj)


@pytest.mark.parametrize("is_old", [True, False], ids=["args", "cfg"])
def test_recogniser__is_a_model_that_answers(tmp_path: Path, is_old: bool) -> None:
    tensors = fine_tuned()
    pre_training = argparse.Namespace(**SPEECH)
    settings: dict[str, Any] = {"w2v_args": pre_training, "final_dropout": 0.3, "dropout": 0.0}
    content: dict[str, Any] = {"model": tensors}
    if is_old:
        content["args"] = argparse.Namespace(**settings, normalize=False)
    else:
        inner = OmegaConf.create({"model": SPEECH, "task": {"normalize": True}})
        section = {**settings, "w2v_args": inner}
        content["cfg"] = {"model": section, "task": {"normalize": False}}
    path = written(tmp_path / "ctc.pt", content)
    foreign, recipe, made = read(path)
    prefix = "w2v_encoder.w2v_model."
    expected = expected_speech(tensors, prefix, f"{prefix}encoder.")
    assert_same(made.checkpoint_tensors(), expected)
    landed = land(foreign, tmp_path / "run", path)
    loaded = load_model(tmp_path / "run")
    own = loaded.model.state_dict()
    assert torch.equal(own["head.projection.weight"], tensors["w2v_encoder.proj.weight"])
    assert torch.equal(own["head.projection.bias"], tensors["w2v_encoder.proj.bias"])
    assert loaded.task.about() == {"symbols": LETTERS}
    assert recipe.encoder.dropout == 0.0
    assert recipe.modality.model_dump()["frontend"]["normalise"] is False
    assert foreign.task == {"name": "ctc", "dropout": 0.3}
    assert landed.accounted.left_out == {}


def test_recogniser__symbols_are_those_of_the_file(tmp_path: Path) -> None:
    symbols = ["<s>", "<pad>", "</s>", "<unk>", "|", "B", "A"]
    dictionary = argparse.Namespace(symbols=symbols, count=[1] * 7)
    content = speech_content(fine_tuned(7)) | {"task_state": {"target_dictionary": dictionary}}
    content["cfg"]["model"] = {"w2v_args": SPEECH}
    foreign, _, _ = read(written(tmp_path / "ctc.pt", content))
    assert foreign.about == {"symbols": symbols}


@pytest.mark.parametrize(
    ("symbols", "why"),
    [(None, "nothing tells what its 7 symbols are"), (["<s>", "ah"], "vocabulary is not one of")],
)
def test_recogniser__a_head_of_unknown_symbols_is_left_out_and_said(
    tmp_path: Path, symbols: list[str] | None, why: str
) -> None:
    content = speech_content(fine_tuned(7))
    content["cfg"]["model"] = {"w2v_args": SPEECH}
    content["task_state"] = {"target_dictionary": argparse.Namespace(symbols=symbols)}
    foreign, _, made = read(written(tmp_path / "ctc.pt", content))
    assert foreign.task is None
    assert any(why in note for note in foreign.notes)
    assert set(made.accounted.left_out) == {"w2v_encoder.proj.weight", "w2v_encoder.proj.bias"}
