"""Proves: encoders of data2vec 2.0 leave as programs, and as stock models where these can be them.

Attention by distance and post-norm pictures are in no stock class; texts are.
"""

from pathlib import Path
from typing import Any

import pytest

from d2v.commands.outgoing import Chosen, outgoing_model
from d2v.data2vec2 import Data2Vec2Settings
from d2v.errors import UsageError
from d2v.exchange.assembled import assembled
from d2v.exchange.huggingface.export import export_huggingface
from d2v.exchange.huggingface.reader import read_huggingface
from d2v.exchange.land import land
from d2v.exchange.own_recipe import recipe_of
from d2v.exchange.pictures.timm_export import export_timm
from d2v.exchange.programs.export import export_onnx, export_torch
from tests.export_case import PRE, leaving, vision
from tests.foreign_case import assert_same, read, written
from tests.second_case import TOKENS, content, second_tensors
from tests.stock_case import byte_tokenizer

EXPORTS = {"hf": export_huggingface, "timm": export_timm}


def imported(folder: Path, kind: str, **known: Any) -> Path:
    """A run directory."""
    path = written(folder / "two.pt", content(kind, second_tensors(kind)))
    foreign, _, _ = read(path, **known)
    land(foreign, folder / "run", path)
    return folder / "run"


@pytest.mark.parametrize(
    ("to", "kind", "reason"),
    [
        ("hf", "IMAGE", "encoder.norm_position is post"),
        ("hf", "AUDIO", "modality.frontend.positions.alibi is true"),
        ("timm", "IMAGE", "encoder.norm_position is post"),
        ("timm", "AUDIO", "it reads speech"),
    ],
)
def test_stock_classes__that_cannot_express_it_say_why(
    tmp_path: Path, to: str, kind: str, reason: str
) -> None:
    outgoing = outgoing_model(imported(tmp_path, kind), Chosen())
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match=reason) as refused:
        EXPORTS[to](outgoing, tmp_path / "there")
    assert "--to onnx and --to torch take any model" in str(refused.value)


@pytest.mark.parametrize("teacher", [False, True])
@pytest.mark.parametrize("kind", ["IMAGE", "AUDIO"])
@pytest.mark.parametrize("to", ["onnx", "torch"])
def test_programs__give_the_same(tmp_path: Path, to: str, kind: str, teacher: bool) -> None:
    outgoing = outgoing_model(imported(tmp_path, kind), Chosen(teacher=teacher))
    (tmp_path / "there").mkdir()
    export = {"onnx": export_onnx, "torch": export_torch}[to]
    assert export(outgoing, tmp_path / "there").largest_difference < 1e-4


def test_texts__go_to_the_stock_class_and_come_back_with_their_decoder(tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer.json"
    # Five special tokens and 256 bytes; the rest are pairs of letters.
    pairs = [(one, other) for one in "abcdefgh" for other in "abcdefgh"][: TOKENS - 261]
    byte_tokenizer(("<s>", "<pad>", "</s>", "<unk>"), pairs).save(str(tokenizer))
    run = imported(tmp_path, "TEXT", tokenizer=tokenizer)
    (tmp_path / "there").mkdir()
    outgoing = outgoing_model(run, Chosen())
    found = export_huggingface(outgoing, tmp_path / "there")
    assert found.what == "transformers Data2VecTextModel"
    assert found.largest_difference < 1e-4
    foreign = read_huggingface(tmp_path / "there", num_heads=None, tokenizer=None)
    recipe = recipe_of(foreign, tmp_path / "back")
    made = assembled(foreign, recipe, "there")
    assert isinstance(recipe.objective, Data2Vec2Settings)
    assert recipe.objective == outgoing.recipe.objective
    head = {name: t for name, t in made.checkpoint_tensors().items() if name.startswith("head.")}
    assert_same(head, {f"head.{name}": one for name, one in outgoing.regression_head.items()})


def test_timm__has_positions_of_sines_and_cosines_in_our_order(tmp_path: Path) -> None:
    outgoing = leaving(vision(positions="sincos_2d"), {**PRE, "layer_scale": None})
    assert export_timm(outgoing, tmp_path).largest_difference < 1e-4
