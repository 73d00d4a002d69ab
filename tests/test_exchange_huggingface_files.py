"""Proves: what lies beside exported weights makes of raw data what d2v makes of it."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

os.environ["HF_HUB_OFFLINE"] = "1"

import transformers  # noqa: E402  # after the variable that keeps it off the network

from d2v.exchange.huggingface.export import export_huggingface  # noqa: E402
from d2v.exchange.outgoing import Outgoing, Table  # noqa: E402
from d2v.modalities.text.items import PAIR  # noqa: E402
from d2v.modalities.text.store import encode_text  # noqa: E402
from d2v.samples import SourceItem  # noqa: E402
from d2v.tasks.decoding import greedy  # noqa: E402
from tests.export_case import (  # noqa: E402
    POST,
    PRE,
    SPEECH,
    learned_tokenizer,
    leaving,
    speech,
    text,
    vision,
)
from tests.model_case import SYMBOLS  # noqa: E402

LIBRARY: Any = transformers
"""Its functions are not typed."""


def exported(outgoing: Outgoing, folder: Path) -> Path:
    folder.mkdir()
    export_huggingface(outgoing, folder)
    return folder


def pictures(side: int, channels: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels if channels == 3 else pixels[..., 0])


@pytest.mark.parametrize("channels", [1, 3])
def test_preprocessor__gives_the_pixels_that_our_frontend_computes(
    channels: int, tmp_path: Path
) -> None:
    statistics: dict[str, Any] = {"pixel_mean": [0.4, 0.5, 0.6][:channels],
                                  "pixel_std": [0.2, 0.3, 0.25][:channels]}  # fmt: skip
    outgoing = leaving(vision(channels=channels, cls_token=True, **statistics), PRE)
    folder = exported(outgoing, tmp_path / "there")
    read = LIBRARY.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    image = pictures(8, channels)
    found = read(images=image, return_tensors="pt")["pixel_values"]
    raw = torch.from_numpy(np.array(image).reshape(8, 8, channels)).permute(2, 0, 1)
    frontend = outgoing.frontend
    expected = (raw - frontend.get_buffer("pixel_mean")) / frontend.get_buffer("pixel_std")
    assert torch.allclose(found[0], expected, atol=1e-5)


def test_preprocessor__takes_the_middle_square_of_larger_pictures(tmp_path: Path) -> None:
    settings = vision(channels=3, pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3)
    outgoing = leaving(settings | {"augment": {"evaluation_scale": 0.5}}, PRE)
    read = LIBRARY.AutoImageProcessor.from_pretrained(exported(outgoing, tmp_path / "there"))
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[8:24, 24:40] = 255  # the middle half of the shorter side, in both directions
    found = read(images=Image.fromarray(wide), return_tensors="pt")["pixel_values"]
    assert found.shape == (1, 3, 8, 8)
    assert float(found[..., 1:-1, 1:-1].min()) > 0.99


@pytest.mark.parametrize("normalise", [True, False])
def test_feature_extractor__standardises_as_the_recipe_does(
    normalise: bool, tmp_path: Path
) -> None:
    outgoing = leaving(speech(normalise=normalise), SPEECH)
    folder = exported(outgoing, tmp_path / "there")
    read = LIBRARY.AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
    wave = np.random.default_rng(0).normal(0.5, 2.0, 2000).astype(np.float32)
    found = read(wave, sampling_rate=16000, return_tensors="np")["input_values"][0]
    expected = (wave - wave.mean()) / wave.std() if normalise else wave
    assert np.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("texts", [["the slow teacher"], ["the slow teacher", "sees a token"]])
def test_tokenizer__gives_the_ids_that_preparing_stores(texts: list[str], tmp_path: Path) -> None:
    learned = learned_tokenizer(tmp_path / "learned")
    outgoing = leaving(text(), POST, None, learned)
    folder = exported(outgoing, tmp_path / "there")
    read = LIBRARY.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    content = json.dumps(texts) if len(texts) == 2 else texts[0]
    kind = {PAIR: ""} if len(texts) == 2 else {}
    item = SourceItem(name="x", content=content.encode(), label="a", details=kind)
    settings = outgoing.recipe.modality
    assert settings.name == "text"
    sample = encode_text(item, settings.store, settings.tokenizer, learned)[0]
    stored = outgoing.modality.decode(sample.members, None)
    assert read(*texts)["input_ids"] == stored.tolist()
    padded = read(["a", "the slow"], padding=True, return_tensors="pt")
    assert padded["input_ids"][0, -1] == settings.tokenizer.pad_id
    assert read.mask_token_id == settings.tokenizer.mask


def test_tokenizer__ours_is_kept_beside_the_one_that_adds_special_tokens(tmp_path: Path) -> None:
    learned = learned_tokenizer(tmp_path / "learned")
    folder = exported(leaving(text(), POST, None, learned), tmp_path / "there")
    kept = (folder / "tokenizer.d2v.json").read_bytes()
    assert (
        kept
        == (learned / "tokenizer.json").read_bytes()
        != (folder / "tokenizer.json").read_bytes()
    )


def test_ctc_tokenizer__reads_outputs_as_our_greedy_decoder_does(tmp_path: Path) -> None:
    folder = exported(leaving(speech(), SPEECH, {"name": "ctc"}), tmp_path / "there")
    read = LIBRARY.AutoProcessor.from_pretrained(folder, local_files_only=True)
    drawn = torch.Generator().manual_seed(0)
    for _ in range(20):
        log_probs = (torch.randn(30, len(SYMBOLS), generator=drawn) * 3).log_softmax(1)
        log_probs[:, 1:4] = -50  # special symbols are said by neither
        ours = greedy(log_probs, SYMBOLS).text
        theirs = read.batch_decode(log_probs.argmax(1, keepdim=True).T)[0]
        assert " ".join(theirs.split()) == ours
    assert json.loads((folder / "vocab.json").read_text())["<pad>"] == 0


def test_card__holds_figures_with_intervals_licence_and_how_to_load(tmp_path: Path) -> None:
    table = Table(
        columns=("score", "value"), rows=(("accuracy", "0.9 [0.8, 0.95]"),), remarks=("Of one.",)
    )
    outgoing = replace(
        leaving(vision(), PRE, {"name": "classify", "head": {"norm": True}}),
        figures={"Fine-tuned": table}, data=("Data: photos; samples: 12 train.",), steps=1200,
        licence="apache-2.0",
    )  # fmt: skip
    card = (exported(outgoing, tmp_path / "there") / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\nlicense: apache-2.0\n")
    for words in ("pipeline_tag: image-classification", "| accuracy | 0.9 [0.8, 0.95] |",
                  "Data: photos; samples: 12 train.", "Pre-training: 1,200 updates",
                  "Data2VecVisionForImageClassification.from_pretrained(", "Of one."):  # fmt: skip
        assert words in card
    bare = (exported(leaving(vision(), PRE), tmp_path / "bare") / "README.md").read_text()
    assert "license: unknown" in bare
    assert "None were measured" in bare
