"""Proves: Hugging Face's data2vec models answer in d2v as they do there, every hidden state.

Weights are random; nothing is downloaded. Differences are of float32 rounding alone: in float64
they vanish.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from d2v.core.encoder import Encoder
from d2v.exchange.huggingface.config import mlp_ratio
from d2v.modalities.speech.geometry import stacked_geometry
from d2v.types import Batch
from tests.stock_case import (
    AUDIO,
    STATISTICS,
    TEXT,
    VISION,
    byte_tokenizer,
    head_of,
    largest_difference,
    ours,
    pictures,
    pixels,
    recordings,
    save,
    stock,
)

TOLERANCE = 1e-5
BLOCKS = {"use_relative_position_bias": True}
SHARED = {"use_shared_relative_position_bias": True}
LEARNED = {"use_absolute_position_embeddings": True}
VISIONS: dict[str, dict[str, Any]] = {
    "a table for each block": BLOCKS,
    "one table, final norm": {**SHARED, "use_mean_pooling": False},
    "learned positions": {**LEARNED, "use_mean_pooling": False, "use_mask_token": True},
    "no positions": {},
    "no layer scale": {**SHARED, "layer_scale_init_value": 0.0},
    "odd epsilon, other heads": {**BLOCKS, "layer_norm_eps": 3e-3, "num_attention_heads": 12},
    "greyscale": {**SHARED, "num_channels": 1, "image_size": [12, 12], "patch_size": 2},
}
AUDIOS: dict[str, dict[str, Any]] = {
    "as published, but tiny": {},
    "biased convolutions": {"conv_bias": True, "layer_norm_eps": 3e-3},
    "even kernel of positions": {"conv_pos_kernel_size": 4, "num_conv_pos_embeddings": 3},
    "other strides": {"conv_dim": [6, 10, 4], "conv_kernel": [9, 4, 4], "conv_stride": [9, 1, 3]},
    "no mask": {"mask_time_prob": 0.0, "num_attention_heads": 8},
}
TEXTS: dict[str, dict[str, Any]] = {
    "as published, but tiny": {},
    "two types of tokens": {"type_vocab_size": 2, "layer_norm_eps": 3e-3},
    "padding 0": {"pad_token_id": 0, "bos_token_id": 1, "type_vocab_size": 2},
    "padding 5, odd positions": {"pad_token_id": 5, "max_position_embeddings": 23},
}


def of(kind: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {**kind, **changes}


@torch.no_grad()
def seen(model: Any, images: Tensor) -> Any:
    """What a stock vision model makes of pictures, with its hidden states."""
    channels = images.shape[1]
    values = pixels(images, *(STATISTICS[name][:channels] for name in ("image_mean", "image_std")))
    return model(values, output_hidden_states=True)


def save_vision(model: Any, folder: Path) -> Path:
    channels = model.config.num_channels
    cut = {name: values[:channels] for name, values in STATISTICS.items()}
    return save(model, folder, preprocessor_config=cut)


def heard(model: Any, lengths: list[int], dtype: torch.dtype = torch.float32) -> Any:
    """What a stock audio model makes of recordings, what d2v reads, and which frames are real."""
    values, there = recordings(lengths)
    layers = zip(model.config.conv_kernel, model.config.conv_stride, strict=True)
    padding = stacked_geometry(list(layers)).padding(lengths)
    assert padding is not None
    with torch.no_grad():
        out = model(values.to(dtype), attention_mask=there, output_hidden_states=True)
    return out, Batch(inputs=values.to(dtype), padding=padding), ~padding


def read(model: Any, lengths: list[int]) -> Any:
    """The same of texts."""
    config = model.config
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(6, config.vocab_size, (len(lengths), max(lengths)), generator=generator)
    padding = torch.arange(max(lengths)) >= torch.tensor(lengths).unsqueeze(1)
    ids[padding] = config.pad_token_id
    with torch.no_grad():
        out = model(ids, attention_mask=(~padding).long(), output_hidden_states=True)
    return out, Batch(inputs=ids, padding=padding), ~padding


# Bare models


@pytest.mark.parametrize("changes", VISIONS.values(), ids=VISIONS)
def test_vision__every_hidden_state_agrees(changes: dict[str, Any], tmp_path: Path) -> None:
    model = stock("VisionModel", **of(VISION, changes))
    made = ours(save_vision(model, tmp_path / "theirs"))
    side = model.config.image_size
    images = pictures(2, side if isinstance(side, int) else side[0], model.config.num_channels)
    gap = largest_difference(made, Batch(inputs=images), seen(model, images))
    assert gap < TOLERANCE


@pytest.mark.parametrize("changes", AUDIOS.values(), ids=AUDIOS)
def test_audio__every_hidden_state_of_padded_recordings_agrees(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    model = stock("AudioModel", **of(AUDIO, changes))
    out, batch, real = heard(model, [700, 433, 90])
    gap = largest_difference(ours(save(model, tmp_path / "theirs")), batch, out, real)
    assert gap < TOLERANCE


@pytest.mark.parametrize("changes", TEXTS.values(), ids=TEXTS)
def test_text__every_hidden_state_of_padded_texts_agrees(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    model = stock("TextModel", **of(TEXT, changes))
    out, batch, real = read(model, [9, 5, 17])
    gap = largest_difference(ours(save(model, tmp_path / "theirs")), batch, out, real)
    assert gap < TOLERANCE


@pytest.mark.parametrize("name", ["VisionModel", "AudioModel", "TextModel"])
def test_base_size__every_hidden_state_agrees(name: str, tmp_path: Path) -> None:
    settings: dict[str, dict[str, Any]] = {
        "VisionModel": {**SHARED, "use_mean_pooling": False, "use_mask_token": True},
        "AudioModel": {},
        "TextModel": {"vocab_size": 5000, "max_position_embeddings": 514, "type_vocab_size": 1},
    }
    model = stock(name, noise=0.0, **settings[name])
    made = ours(save_vision(model, tmp_path / "m") if name == "VisionModel" else
                save(model, tmp_path / "m"))  # fmt: skip
    shutil.rmtree(tmp_path / "m")
    if name == "VisionModel":
        images = pictures(1, 224)
        gap = largest_difference(made, Batch(inputs=images), seen(model, images))
    else:
        out, batch, real = (
            heard(model, [9000, 5000]) if name == "AudioModel" else read(model, [9, 5])
        )
        gap = largest_difference(made, batch, out, real)
    assert gap < TOLERANCE


def test_audio__what_is_left_is_rounding(tmp_path: Path) -> None:
    model = stock("AudioModel", **AUDIO)
    made = ours(save(model, tmp_path / "theirs"))
    for part in made.parts.values():
        part.double()
    out, batch, real = heard(model.double(), [700, 433, 90], torch.float64)
    assert largest_difference(made, batch, out, real) < 1e-12


# Heads


@pytest.mark.parametrize("mean", [True, False], ids=["mean of patches", "CLS"])
def test_image_classification__its_logits_agree(mean: bool, tmp_path: Path) -> None:
    names = {0: "crane", 1: "crane", 2: "owl"}
    model = stock(
        "VisionForImageClassification", **of(VISION, BLOCKS), use_mean_pooling=mean, id2label=names
    )
    made = ours(save_vision(model, tmp_path / "theirs"))
    images = pictures(2, 20)
    assert (
        head_of(made, Batch(inputs=images)) - seen(model, images).logits
    ).abs().max() < TOLERANCE
    assert made.task is not None
    # Two classes may be called alike, as in ImageNet.
    assert made.task.about() == {"classes": ["crane (0)", "crane (1)", "owl"]}


def test_ctc__its_log_probabilities_agree_symbol_by_symbol(tmp_path: Path) -> None:
    model = stock("AudioForCTC", **AUDIO, final_dropout=0.2, pad_token_id=6)
    # As many fine-tuned models have them: letters first, the special symbols by other names.
    names = ["|", "B", "A", "<s>", "</s>", "[UNK]", "[PAD]", "'"]
    files = {
        "vocab": {name: number for number, name in enumerate(names)},
        "tokenizer_config": {"pad_token": "[PAD]", "unk_token": {"content": "[UNK]"}},
    }
    made = ours(save(model, tmp_path / "theirs", **files))
    out, batch, real = heard(model, [700, 433, 90])
    assert made.task is not None
    symbols = made.task.about()["symbols"]
    assert symbols == ["<s>", "|", "B", "A", "<pad>", "</s>", "<unk>", "'"]
    theirs = out.logits.log_softmax(2)[..., [6, 0, 1, 2, 3, 4, 5, 7]]
    assert (head_of(made, batch) - theirs)[real].abs().max() < TOLERANCE


@pytest.mark.parametrize("count", [3, 1], ids=["classes", "one number"])
def test_sequence_classification__its_logits_agree(count: int, tmp_path: Path) -> None:
    model = stock("TextForSequenceClassification", **TEXT, num_labels=count)
    folder = save(model, tmp_path / "theirs")
    byte_tokenizer(("<s>", "<pad>", "</s>", "<unk>")).save(str(folder / "tokenizer.json"))
    made = ours(folder)
    out, batch, _ = read(model, [9, 5, 17])
    logits = out.logits if count > 1 else out.logits[:, 0]
    assert (head_of(made, batch) - logits).abs().max() < TOLERANCE
    assert made.task is not None
    classes = {"classes": ["LABEL_0", "LABEL_1", "LABEL_2"]}
    assert made.task.about() == (classes if count > 1 else {})


# What does not shape the model


def test_dropouts__come_along(tmp_path: Path) -> None:
    rates = {"hidden_dropout": 0.3, "attention_dropout": 0.2, "activation_dropout": 0.4}
    made = ours(
        save(stock("AudioModel", **of(AUDIO, {**rates, "layerdrop": 0.25})), tmp_path / "m")
    )
    encoder = made.parts["encoder"]
    assert isinstance(encoder, Encoder)
    kept = encoder.settings
    assert (kept.dropout, kept.attention_dropout, kept.activation_dropout, kept.layerdrop) == (
        0.3, 0.2, 0.4, 0.25
    )  # fmt: skip


def test_inner_width__is_what_the_source_has() -> None:
    for dim in (7, 24, 49, 768, 1000):
        for hidden in range(1, 4 * dim, max(1, dim // 30)):
            assert int(dim * mlp_ratio(dim, hidden)) == hidden
