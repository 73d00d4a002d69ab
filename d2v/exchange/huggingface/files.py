"""What lies beside the weights: how raw data becomes what the model reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from d2v.engine.whole_folder import as_json
from d2v.exchange.huggingface.own import ORIGINAL_TOKENIZER
from d2v.exchange.outgoing import Outgoing
from d2v.modalities.speech.convolution import ConvolutionSettings
from d2v.modalities.speech.modality import SpeechSettings
from d2v.modalities.speech.rate import RATE_HZ
from d2v.modalities.text.modality import TextSettings
from d2v.modalities.text.tokenizer import TOKENIZER_FILE
from d2v.modalities.vision.modality import VisionSettings
from d2v.tasks.decoding.base import BLANK, BOUNDARY

_BICUBIC = 3
"""As Pillow numbers its filters."""
_THEIR_BLANK = "<pad>"
"""What CTC's blank is called there; we call it <s>, and something else <pad>."""


def data_files(outgoing: Outgoing) -> dict[str, bytes]:
    """Name -> content of preprocessor and tokenizer files."""
    modality = outgoing.recipe.modality
    if isinstance(modality, VisionSettings):
        return {"preprocessor_config.json": as_json(_pictures(modality))}
    if isinstance(modality, SpeechSettings):
        files = {"preprocessor_config.json": as_json(_recordings(modality))}
        about = {} if outgoing.task is None else outgoing.task.about()
        return files | (_vocabulary(about["symbols"]) if "symbols" in about else {})
    if outgoing.learned is None:
        return {}
    return _tokenizer((outgoing.learned / TOKENIZER_FILE).read_bytes(), modality)


def _pictures(modality: VisionSettings) -> dict[str, Any]:
    """The middle square, as our evaluation takes it: there, resized before it is cropped."""
    frontend, side = modality.frontend, modality.frontend.image_size
    return {
        "image_processor_type": "BeitImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": max(side, round(side / modality.augment.evaluation_scale))},
        "resample": _BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(frontend.pixel_mean),
        "image_std": list(frontend.pixel_std),
        "do_reduce_labels": False,
        **({"do_convert_rgb": True} if frontend.channels == 3 else {}),
    }


def _recordings(modality: SpeechSettings) -> dict[str, Any]:
    assert isinstance(modality.frontend, ConvolutionSettings)
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": RATE_HZ,
        "padding_value": 0.0,
        "padding_side": "right",
        "return_attention_mask": True,
        "do_normalize": modality.frontend.normalise,
    }


def their_symbol(symbol: str) -> str:
    """What a symbol of ours is called there: `<s>` and `<pad>` change places."""
    return {BLANK: _THEIR_BLANK, _THEIR_BLANK: BLANK}.get(symbol, symbol)


def _vocabulary(symbols: Sequence[str]) -> dict[str, bytes]:
    names = [their_symbol(symbol) for symbol in symbols]
    config = {
        "tokenizer_class": "Wav2Vec2CTCTokenizer",
        "pad_token": _THEIR_BLANK,
        "unk_token": "<unk>",
        "bos_token": BLANK if BLANK in names else None,
        "eos_token": "</s>" if "</s>" in names else None,
        "word_delimiter_token": BOUNDARY,
        "replace_word_delimiter_char": " ",
        "do_lower_case": False,
    }
    numbered = {name: number for number, name in enumerate(names)}
    vocab = json.dumps(numbered, ensure_ascii=False, indent=1) + "\n"
    return {"vocab.json": vocab.encode(), "tokenizer_config.json": as_json(config)}


def _tokenizer(content: bytes, modality: TextSettings) -> dict[str, bytes]:
    """The tokenizer, which there puts `<s>` and `</s>` around texts by itself."""
    settings = modality.tokenizer
    names = _names(content, settings.special_ids)
    files = {"tokenizer.json": content}
    if json.loads(content).get("post_processor") is None:
        bos, _, eos, _, _ = names
        tokenizer = Tokenizer.from_buffer(content)
        tokenizer.post_processor = TemplateProcessing(
            single=f"{bos} $A {eos}",
            pair=f"{bos} $A {eos} {eos} $B {eos}",
            special_tokens=[(bos, settings.bos_id), (eos, settings.eos_id)],
        )
        files = {"tokenizer.json": tokenizer.to_str().encode(), ORIGINAL_TOKENIZER: content}
    roles = ("bos_token", "pad_token", "eos_token", "unk_token", "mask_token")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **dict(zip(roles, names, strict=True)),
        "model_max_length": modality.frontend.max_tokens,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "right",
    }
    return files | {"tokenizer_config.json": as_json(config)}


def _names(content: bytes, ids: Sequence[int]) -> list[str]:
    tokenizer = Tokenizer.from_buffer(content)
    return [str(tokenizer.id_to_token(number)) for number in ids]


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put them into a folder that is there."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
