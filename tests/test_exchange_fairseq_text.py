"""Proves: every tensor of fairseq's text files comes to its place, and settings with it.

Files are written here from the tables of reference sections 5.1 and 5.4.
"""

import argparse
from pathlib import Path

import pytest
import torch

from d2v.build import load_encoder
from d2v.data2vec import Data2VecSettings
from d2v.errors import UsageError
from d2v.exchange.land import land
from d2v.modalities.text.tokenizer import TOKENIZER_FILE, TokenizerSettings
from tests.foreign_case import (
    DEPTH,
    DIM,
    HEADS,
    TOKENS,
    Tensors,
    assert_same,
    expected_blocks,
    expected_text,
    filled,
    nested,
    of_layers,
    of_text_embeddings,
    read,
    regression_head,
    written,
)
from tests.text_corpus import learned

STEM = "encoder.sentence_encoder."


def text_tensors(stem: str = STEM, norm: str = "layernorm_embedding") -> Tensors:
    root = stem.removesuffix("sentence_encoder.")
    shapes = of_text_embeddings(stem, norm) | of_layers(stem)
    tensors = filled(shapes | regression_head(f"{root}regression_head."))
    averaged = filled(of_text_embeddings(f"{root}_ema.", norm) | of_layers(f"{root}_ema."))
    copies = {
        name: tensors[stem + name.removeprefix(f"{root}_ema.")]
        for name in averaged
        if "layers." not in name
    }
    return tensors | averaged | copies | {f"{stem}version": torch.tensor([3.0])}


@pytest.mark.parametrize(
    ("stem", "norm"),
    [
        (STEM, "layernorm_embedding"),
        ("decoder.sentence_encoder.", "emb_layer_norm"),
    ],
)
def test_text__student_head_and_average_come_to_their_places(
    tmp_path: Path, stem: str, norm: str
) -> None:
    tensors = text_tensors(stem, norm)
    root = stem.removesuffix("sentence_encoder.")
    transformer = {"dropout": 0.1, "encoder": {"attention_heads": HEADS, "layers": DEPTH}}
    cfg = {"transformer": transformer, "loss_scale": 1, "average_top_k_layers": 1,
           "ema_decay": 0.9, "ema_end_decay": 0.9}  # fmt: skip
    content = {"cfg": {"model": cfg}, "model": nested(tensors, f"{root}_ema")}
    foreign, recipe, made = read(written(tmp_path / "base.pt", content))
    expected = expected_text(tensors, stem, norm)
    expected |= expected_blocks(tensors, f"{root}_ema.", "teacher.encoder.")
    for number in (0, 2):
        for kind in ("weight", "bias"):
            expected[f"head.{number}.{kind}"] = tensors[f"{root}regression_head.{number}.{kind}"]
    assert_same(made.checkpoint_tensors(), expected)
    assert foreign.kind == "fairseq data2vec text, pre-trained"
    assert isinstance(recipe.objective, Data2VecSettings)
    assert (recipe.objective.head_layers, recipe.objective.channel_reduction) == (2, "sum")
    assert (recipe.objective.top_k, recipe.objective.tau.schedule) == (1, "constant")
    assert recipe.encoder.num_heads == HEADS
    modality = recipe.modality.model_dump()
    assert (modality["frontend"]["max_tokens"], modality["frontend"]["first_position"]) == (25, 2)
    assert (modality["tokenizer"]["size"], modality["tokenizer"]["mask_id"]) == (TOKENS, TOKENS - 1)
    assert made.accounted.left_out[f"{stem}version"] == "a marker of fairseq's, not learned"


def test_text__an_averaged_embedding_makes_the_teacher_a_frontend_of_its_own(
    tmp_path: Path,
) -> None:
    tensors = text_tensors()
    tensors["encoder._ema.embed_tokens.weight"] = tensors[f"{STEM}embed_tokens.weight"] + 1
    foreign, recipe, made = read(written(tmp_path / "base.pt", {"model": tensors}), num_heads=HEADS)
    expected = expected_text(tensors, "encoder._ema.", ours="teacher.")
    found = made.checkpoint_tensors()
    assert_same({n: t for n, t in found.items() if n.startswith("teacher.")}, expected)
    assert recipe.objective.teacher_averages == "all"
    land(foreign, tmp_path / "run", tmp_path / "base.pt")
    teacher = load_encoder(recipe, tmp_path / "run", "teacher")
    assert torch.equal(
        teacher.frontend.state_dict()["token_embed"], tensors["encoder._ema.embed_tokens.weight"]
    )


@pytest.mark.parametrize("classes", [1, 3])
def test_text__a_classifier_comes_along(tmp_path: Path, classes: int) -> None:
    head = {
        "classification_heads.mnli.dense.weight": (DIM, DIM),
        "classification_heads.mnli.dense.bias": (DIM,),
        "classification_heads.mnli.out_proj.weight": (classes, DIM),
        "classification_heads.mnli.out_proj.bias": (classes,),
        "encoder.lm_head.weight": (TOKENS, DIM),
    }
    shapes = of_text_embeddings(STEM) | of_layers(STEM) | head
    tensors = filled(shapes)
    args = argparse.Namespace(encoder_attention_heads=HEADS, no_scale_embeddings=True)
    path = written(tmp_path / "mnli.pt", {"args": args, "model": tensors})
    foreign, _, made = read(path)
    assert made.model is not None
    own = made.model.state_dict()
    for kind in ("weight", "bias"):
        name = f"classification_heads.mnli.dense.{kind}"
        assert torch.equal(own[f"head.hidden.{kind}"], tensors[name])
        name = f"classification_heads.mnli.out_proj.{kind}"
        assert torch.equal(own[f"head.last.{kind}"], tensors[name])
    assert foreign.task is not None
    assert foreign.task["name"] == ("regress" if classes == 1 else "classify")
    assert set(made.accounted.left_out) == {"encoder.lm_head.weight"}


def test_text__the_head_of_files_from_before_its_renaming_is_found(tmp_path: Path) -> None:
    tensors = text_tensors()
    older = {name.replace("regression_head", "lm_head"): one for name, one in tensors.items()}
    _, _, made = read(written(tmp_path / "base.pt", {"model": older}), num_heads=HEADS)
    found = made.checkpoint_tensors()
    assert torch.equal(found["head.2.bias"], tensors["encoder.regression_head.2.bias"])


def test_text__a_tokenizer_that_fits_comes_along(tmp_path: Path) -> None:
    settings = TokenizerSettings(size=TOKENS)
    tokenizer = learned(tmp_path / "learned", settings) / TOKENIZER_FILE
    path = written(tmp_path / "base.pt", {"model": text_tensors()})
    foreign, _, _ = read(path, num_heads=HEADS, tokenizer=tokenizer)
    assert foreign.tokenizer == tokenizer.read_bytes()
    assert foreign.notes == ()
    without, _, _ = read(path, num_heads=HEADS)
    assert ["--tokenizer" in note for note in without.notes] == [True]


def test_text__a_tokenizer_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "base.pt", {"model": text_tensors()})
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text("{}")
    with pytest.raises(UsageError, match="is not a tokenizer"):
        read(path, num_heads=HEADS, tokenizer=tokenizer)
    with pytest.raises(UsageError, match="cannot be read"):
        read(path, num_heads=HEADS, tokenizer=tmp_path / "none.json")
