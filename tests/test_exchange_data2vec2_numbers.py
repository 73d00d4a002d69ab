"""Proves: an imported data2vec 2.0 model computes what the file's own names say it should.

The other side is `second_slow`: the loss written out from reference section 4 over fairseq's names.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from d2v.build import build_objective, start_from
from d2v.core.masking import random_mask
from d2v.core.schedules import Horizon
from d2v.core.seeding import generator_for
from d2v.data2vec2 import Data2Vec2
from d2v.exchange.foreign_files import read_file
from d2v.exchange.land import land
from d2v.modalities.vision.frontend import sincos_table
from d2v.recipe import Recipe
from d2v.types import Batch, Mask, Tokens
from tests.foreign_case import Tensors, filled, read, written
from tests.second_case import (
    DIM,
    KINDS,
    PATCH,
    SIDE,
    TOKENS,
    content,
    network,
    pair,
    second_tensors,
    settings,
)
from tests.second_slow import encoded, features, placed, slow_loss, student_of

POSITIONS = "modality_encoders.IMAGE.fixed_positional_encoder.positions"
VIEWS = 3


def samples(kind: str) -> list[Tensor]:
    """Two of them."""
    generator = generator_for("samples", 0)
    if kind == "IMAGE":
        pixels = torch.randint(256, (2, 3, SIDE * PATCH, SIDE * PATCH), generator=generator)
        return list(pixels.byte())
    if kind == "AUDIO":
        return list(torch.randn(2, 400 + 320 * 12, generator=generator))
    return list(torch.randint(5, TOKENS - 1, (2, 15), generator=generator))


def masks(num_tokens: int, count: int) -> Mask:
    generator = generator_for("masks", 1)
    rows = [
        random_mask(num_tokens, num_masked=count, generator=generator) for _ in range(2 * VIEWS)
    ]
    return Mask.of(torch.stack(rows)).with_visible(None)


def imported(folder: Path, kind: str, tensors: Tensors, **told: Any) -> Data2Vec2:
    """The file, through a run directory, as `pretrain.init_from` takes it up: in float64."""
    path = written(folder / "two.pt", content(kind, tensors, **told))
    land(read_file(path, num_heads=None, tokenizer=None), folder / "run", path)
    values = yaml.safe_load((folder / "run" / "pretrain" / "config.yaml").read_bytes())
    values["pretrain"] = {"steps": 1, "batch_size": 2, "init_teacher": "teacher"}
    recipe = Recipe.model_validate(values)
    model = build_objective(recipe, Horizon(total_steps=1, steps_per_epoch=1))
    assert isinstance(model, Data2Vec2)
    start_from(model, recipe, folder / "run")
    return model.double().eval()


@pytest.mark.parametrize("kind", KINDS)
def test_loss__is_that_of_the_files_own_names(tmp_path: Path, kind: str) -> None:
    tensors, given = second_tensors(kind), samples(kind)
    model = imported(tmp_path, kind, tensors)
    num_tokens = len(features(student_of(tensors, kind), given[0]))
    mask = masks(num_tokens, count=num_tokens * 6 // 10)
    loss = model(Batch(inputs=torch.stack(given)), mask)
    expected = slow_loss(tensors, kind, given, mask.predict)
    assert int(loss.count) == int(mask.predict.sum())
    assert float(loss.total.detach()) == pytest.approx(float(expected), rel=1e-6)
    assert float(expected) > 1


def test_loss__with_positions_that_d2v_computes_is_the_same(tmp_path: Path) -> None:
    tensors, given = second_tensors("IMAGE"), samples("IMAGE")
    exact = sincos_table(SIDE, DIM).unsqueeze(0)
    tensors |= {POSITIONS: exact, f"_ema.{POSITIONS}": exact}
    model = imported(tmp_path, "IMAGE", tensors)
    mask = masks(SIDE * SIDE, count=6)
    found = model(Batch(inputs=torch.stack(given)), mask).total.detach()
    expected = slow_loss(tensors, "IMAGE", given, mask.predict)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_encoder__of_whole_samples_gives_the_same_tokens(tmp_path: Path, kind: str) -> None:
    tensors, given = second_tensors(kind), samples(kind)
    model = imported(tmp_path, kind, tensors)
    batch = Batch(inputs=torch.stack(given))
    tokens: Tokens = model.frontend(model.frontend.features(batch), None, None)
    found = model.encoder(tokens).last
    net = student_of(tensors, kind)
    for row, sample in zip(found, given, strict=True):
        local = features(net, sample)
        everything = list(range(len(local)))
        expected, _ = encoded(net, placed(net, local, everything), everything)
        torch.testing.assert_close(row, expected, rtol=1e-6, atol=1e-6)


def tuned(folder: Path, kind: str, tensors: Tensors) -> Any:
    """The task's model of a fine-tuned file, in float64."""
    inner = "w2v_args" if kind == "AUDIO" else "pretrained_model_args"
    told = {"model": {inner: settings(kind)}}
    _, _, made = read(written(folder / "tuned.pt", {"cfg": told, "model": tensors}))
    assert made.model is not None
    return made.model.double().eval()


def whole(tensors: Tensors, kind: str, prefix: str, sample: Tensor) -> Tensor:
    """(T, D) of an unmasked sample, the extra token included."""
    net = student_of(tensors, kind, prefix)
    local = features(net, sample)
    everything = list(range(len(local)))
    return encoded(net, placed(net, local, everything), everything)[0]


def test_classifier__reads_the_norm_of_the_mean_patch(tmp_path: Path) -> None:
    tensors = filled(network("IMAGE", "model.") | pair("head", 5, DIM) | pair("fc_norm", DIM))
    given = samples("IMAGE")
    model = tuned(tmp_path, "IMAGE", tensors)
    found = model.predict(Batch(inputs=torch.stack(given))).values.double()
    for row, sample in zip(found, given, strict=True):
        pooled = whole(tensors, "IMAGE", "model.", sample)[1:].mean(0)
        normed = student_of(tensors, "IMAGE").norm(pooled, "fc_norm", 1e-6)
        expected = student_of(tensors, "IMAGE").linear(normed, "head")
        torch.testing.assert_close(row, expected, rtol=1e-5, atol=1e-5)


def test_letters__are_those_of_the_files_own_names(tmp_path: Path) -> None:
    prefix = "w2v_encoder.w2v_model."
    tensors = filled(network("AUDIO", prefix) | pair("w2v_encoder.proj", 32, DIM))
    given = samples("AUDIO")
    model = tuned(tmp_path, "AUDIO", tensors)
    found = model.predict(Batch(inputs=torch.stack(given))).values.double()
    for row, sample in zip(found, given, strict=True):
        tokens = whole(tensors, "AUDIO", prefix, sample)
        expected = student_of(tensors, "AUDIO").linear(tokens, "w2v_encoder.proj").log_softmax(-1)
        torch.testing.assert_close(row, expected, rtol=1e-5, atol=1e-5)
