"""A model of ours as a folder that a stock class of Hugging Face's transformers loads."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import save
from torch import Tensor

from d2v.core.encoder import EncoderSettings
from d2v.engine.whole_folder import as_json, file_names
from d2v.errors import UsageError
from d2v.exchange.huggingface.card import model_card
from d2v.exchange.huggingface.check import largest_difference
from d2v.exchange.huggingface.files import data_files, write_files
from d2v.exchange.huggingface.own import BESIDE, SECTION, beside_the_class, own_section
from d2v.exchange.huggingface.stock import Stock, stock_model
from d2v.exchange.huggingface.stock_config import stock_config
from d2v.exchange.links import to_theirs
from d2v.exchange.outgoing import Exported, Outgoing
from d2v.modalities import ModalitySettings
from d2v.modalities.speech.modality import SpeechSettings
from d2v.modalities.text.modality import TextSettings
from d2v.modalities.vision.modality import VisionSettings
from d2v.tasks import CtcSettings, TaskSettings

_WEIGHTS = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class _Model:
    """What is exported: settings, and tensors by our names, both as the stock class has them."""

    modality: ModalitySettings
    encoder: EncoderSettings
    task: TaskSettings | None
    mask_token: bool
    tensors: Mapping[str, Tensor]


def export_huggingface(outgoing: Outgoing, folder: Path) -> Exported:
    """Write the folder, load it again with the stock class, and compare outputs.

    Args:
        outgoing: the model.
        folder: that is there and empty; the caller removes it where this fails.

    Raises:
        UsageError: transformers is not installed, or has no class for such a model.
        D2VError: the class does not take the tensors, or gives other outputs.
    """
    transformers = _library()
    model = _as_there(outgoing)
    stock = stock_model(model.modality, model.encoder, model.task, mask_token=model.mask_token)
    about = None if outgoing.task is None else outgoing.task.about()
    config = stock_config(
        stock.name, model.modality, model.encoder, model.task, about, mask_token=model.mask_token
    )
    objective = outgoing.recipe.objective.model_dump(mode="json")
    config[SECTION] = own_section(
        model.modality, model.encoder, objective, model.task, about, mask_token=model.mask_token
    )
    tensors = to_theirs(stock.layout, model.tensors)
    head = outgoing.regression_head if outgoing.model is None else {}
    beside = beside_the_class(stock.layout, model.tensors, head)
    write_files(
        folder,
        {
            "config.json": as_json(config),
            _WEIGHTS: save(tensors, metadata={"format": "pt"}),
            **data_files(outgoing),
            **({BESIDE: save(beside)} if beside else {}),
        },
    )
    difference = largest_difference(outgoing, transformers, stock.name, folder)
    what = f"transformers {stock.name}"
    remarks, loading = _remarks(model, stock, beside), _how_to_load(outgoing, stock.name)
    card = model_card(outgoing, "transformers", what, loading, remarks)
    (folder / "README.md").write_text(card)
    return Exported(
        what=what, files=tuple(file_names(folder)), how_to_load=loading,
        largest_difference=difference, remarks=remarks,
    )  # fmt: skip


def _library() -> ModuleType:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise UsageError(
            f"--to hf ends by loading the result with transformers: {error}",
            remedy="Install it: pip install 'd2v[hf]'",
        ) from error


def _as_there(outgoing: Outgoing) -> _Model:
    """Settings and tensors in the terms of the stock classes, which change no output."""
    modality, encoder = outgoing.recipe.modality, outgoing.recipe.encoder
    task, tensors = outgoing.task_and_tensors()
    if outgoing.model is not None and outgoing.model.own_norm:
        encoder = encoder.model_copy(update={"final_norm": False})  # nobody reads that norm
    if isinstance(modality, TextSettings):
        modality = _from_padding_row(modality, tensors)
    return _Model(
        modality=modality, encoder=encoder, task=task, tensors=tensors,
        mask_token="frontend.mask_token" not in outgoing.made_anew,
    )  # fmt: skip


def _from_padding_row(modality: TextSettings, tensors: dict[str, Tensor]) -> TextSettings:
    """There a sample's first position is the row behind the padding's; none before it counts."""
    frontend, first = modality.frontend, modality.tokenizer.pad_id + 1
    if first == frontend.first_position:
        return modality
    used = tensors["frontend.positions"][frontend.first_position :]
    tensors["frontend.positions"] = torch.cat([used.new_zeros(first, used.shape[1]), used])
    moved = frontend.model_copy(update={"first_position": first})
    return modality.model_copy(update={"frontend": moved})


def _remarks(model: _Model, stock: Stock, beside: Collection[str]) -> tuple[str, ...]:
    told = []
    modality = model.modality
    if isinstance(modality, VisionSettings) and not modality.frontend.cls_token:
        told.append(
            "The model has no CLS token and the class always has one: it is zero, and a relative "
            "bias of -1e30 hides it from every patch, which changes no patch's output. Its own "
            "output, the first token, means nothing."
        )
    if any(not name.startswith("head.") for name in beside):
        told.append("The keys' biases are left out: softmax takes them away, no output changes.")
    if isinstance(modality, SpeechSettings):
        told += _about_recordings(modality)
    if stock.name == "Data2VecTextModel":
        told.append("The class's pooler has no counterpart: load with add_pooling_layer=False.")
    if isinstance(model.task, CtcSettings) and model.task.language_model is not None:
        told.append("The language model stays here: the figures without one hold.")
    if not model.mask_token:
        told.append("There is no vector for masked places: its source had none.")
    if beside:
        told.append(f"{BESIDE} is for d2v import alone: what the class has no place for.")
    return tuple(told)


def _about_recordings(modality: SpeechSettings) -> list[str]:
    frontend, told = modality.frontend, []
    if frontend.positions.zero_padding == "every":
        told.append(
            "Recordings of different lengths in one batch come out a little differently than in "
            "d2v, which keeps padding at zero before every layer of positions; one at a time, or "
            "of one length, they are the same."
        )
    if frontend.kind == "convolution" and frontend.normalise:
        told.append(
            "The feature extractor divides by the root of variance + 1e-7, d2v of + 1e-5: only "
            "very quiet recordings differ."
        )
    return told


def _how_to_load(outgoing: Outgoing, name: str) -> str:
    modality = outgoing.recipe.modality
    pooler = ", add_pooling_layer=False" if name == "Data2VecTextModel" else ""
    if isinstance(modality, VisionSettings):
        reader, call = "AutoImageProcessor", 'read(images=picture, return_tensors="pt")'
    elif isinstance(modality, SpeechSettings):
        reader = "AutoProcessor" if outgoing.model is not None else "AutoFeatureExtractor"
        call = 'read(waveform, sampling_rate=16000, return_tensors="pt")'
    else:
        reader, call = "AutoTokenizer", 'read(["A text."], padding=True, return_tensors="pt")'
    return "\n".join([
        f"from transformers import {reader}, {name}",
        "",
        f'read = {reader}.from_pretrained("DEST")',
        f'model = {name}.from_pretrained("DEST"{pooler}).eval()',
        f"outputs = model(**{call})",
    ])  # fmt: skip
