"""Proves: a stock Hugging Face model that comes in goes out again bit for bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from d2v.commands.outgoing import Chosen, outgoing_model
from d2v.exchange.huggingface.export import export_huggingface
from d2v.exchange.land import land
from d2v.exchange.recognise import recognise
from tests.stock_case import AUDIO, TEXT, VISION, byte_tokenizer, save, stock

SHARED = {"use_shared_relative_position_bias": True, "use_mean_pooling": False}
PER_BLOCK = {"use_relative_position_bias": True, "num_labels": 3}
LABELS = {"num_labels": 2, "classifier_dropout": 0.2}
NUMBER = {"id2label": {0: "value"}, "label2id": {"value": 0}, "classifier_dropout": 0.1}
NO_SYMBOLS = {"vocab_size": 32}
"""The class's own default: nobody reads it without a head."""
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
SYMBOLS = ("<pad>", "<s>", "</s>", "<unk>", "|", "A", "B", "C")
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "vision": ("VisionModel", {**VISION, **SHARED}),
    "vision with a vector for masked places": (
        "VisionModel", {**VISION, **SHARED, "use_mask_token": True}
    ),
    "vision of a classifier": ("VisionModel", {**VISION, "use_absolute_position_embeddings": True}),
    "vision classes": ("VisionForImageClassification", {**VISION, **PER_BLOCK}),
    "vision classes of CLS": (
        "VisionForImageClassification", {**VISION, **PER_BLOCK, "use_mean_pooling": False}
    ),
    "audio": ("AudioModel", {**AUDIO, **NO_SYMBOLS}),
    "audio that masks nothing": ("AudioModel", {**AUDIO, **NO_SYMBOLS, "mask_time_prob": 0.0}),
    "audio symbols": ("AudioForCTC", {**AUDIO, "conv_bias": True, "conv_pos_kernel_size": 4}),
    "text": ("TextModel", TEXT),
    "text with two types": ("TextModel", {**TEXT, "type_vocab_size": 2}),
    "text classes": ("TextForSequenceClassification", {**TEXT, **LABELS}),
    "text number": ("TextForSequenceClassification", {**TEXT, **NUMBER}),
}  # fmt: skip
OF_TRAINING = ("mask_", "ctc_", "use_cache", "problem_type", "transformers_version", "d2v",
               "apply_spec_augment", "architectures", "name_or_path", "_name_or_path")  # fmt: skip
"""Settings that decide no output: what is masked, how a loss is summed, while training there."""


def out_again(source: Path, folder: Path) -> Path:
    """In through `d2v import`'s own steps, out through `d2v export`'s."""
    land(recognise(source, num_heads=None, tokenizer=None), folder / "run", source)
    (folder / "out").mkdir()
    export_huggingface(outgoing_model(folder / "run", Chosen()), folder / "out")
    return folder / "out"


@pytest.mark.parametrize("case", CASES)
def test_round_trip__every_tensor_and_every_setting_is_what_it_was(
    case: str, tmp_path: Path
) -> None:
    name, settings = CASES[case]
    model = stock(name, **settings)
    source = save(model, tmp_path / "in")
    if name.startswith("Text"):
        byte_tokenizer(SPECIAL).save(str(source / "tokenizer.json"))
    if name.startswith("Audio"):
        vocabulary = {symbol: number for number, symbol in enumerate(SYMBOLS)}
        (source / "vocab.json").write_text(json.dumps(vocabulary))
    folder = out_again(source, tmp_path)
    before = model.state_dict()
    if case.startswith("text"):  # the pooler of the bare model is as it was drawn
        before = {key: kept for key, kept in before.items() if "pooler" not in key}
    after = load_file(folder / "model.safetensors")
    assert before.keys() == after.keys()
    assert [key for key in before if not torch.equal(before[key], after[key])] == []
    read = type(model.config).from_pretrained(folder).to_dict()
    asked = model.config.to_dict()
    assert {key: read[key] for key in asked if not key.startswith(OF_TRAINING)} == {
        key: value for key, value in asked.items() if not key.startswith(OF_TRAINING)
    }
