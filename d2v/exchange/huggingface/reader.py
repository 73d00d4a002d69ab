"""Folders that Hugging Face's data2vec classes saved, as models of other libraries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from d2v.errors import UsageError
from d2v.exchange.foreign import Foreign
from d2v.exchange.huggingface.audio import read_audio
from d2v.exchange.huggingface.config import (
    CONFIG,
    AudioConfig,
    CommonConfig,
    TextConfig,
    VisionConfig,
    unread,
)
from d2v.exchange.huggingface.own import read_own
from d2v.exchange.huggingface.source import FolderSource
from d2v.exchange.huggingface.text import read_text
from d2v.exchange.huggingface.vision import read_vision
from d2v.exchange.json_file import read_json
from d2v.exchange.tensor_files import folder_tensors


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """One of the three.

    Args:
        prefix: of the bare model's tensors where a head sits on top.
        config: settings.
        read: from a folder.
        heads: class with a head that d2v has -> a tensor that tells of it.
        takes_tokenizer: whether `--tokenizer` may name a file for it.
    """

    prefix: str
    config: type[CommonConfig]
    read: Callable[[FolderSource], Foreign]
    heads: Mapping[str, str]
    takes_tokenizer: bool = True


KINDS: dict[str, _Kind] = {
    "data2vec-vision": _Kind(
        prefix="data2vec_vision",
        config=VisionConfig,
        read=read_vision,
        heads={"Data2VecVisionForImageClassification": "classifier.weight"},
        takes_tokenizer=False,
    ),
    "data2vec-audio": _Kind(
        prefix="data2vec_audio",
        config=AudioConfig,
        read=read_audio,
        heads={"Data2VecAudioForCTC": "lm_head.weight"},
    ),
    "data2vec-text": _Kind(
        prefix="data2vec_text",
        config=TextConfig,
        read=read_text,
        heads={"Data2VecTextForSequenceClassification": "classifier.out_proj.weight"},
    ),
}
"""`model_type` of a config.json -> how it is read."""


def model_type(folder: Path) -> str | None:
    """What the config.json of a folder calls its kind of model; None where there is none."""
    found = read_json(folder / CONFIG).get("model_type")
    return None if found is None else str(found)


def read_huggingface(folder: Path, *, num_heads: int | None, tokenizer: Path | None) -> Foreign:
    """A folder that `save_pretrained` of a stock class wrote.

    Args:
        folder: with config.json, the weights, and the files of its preprocessor or tokenizer.
        num_heads: not needed: config.json tells.
        tokenizer: of a text model without one, or the vocab.json of a recogniser without one.

    Raises:
        UsageError: something is missing or damaged, or d2v has no counterpart of it.
    """
    values = read_json(folder / CONFIG)
    kind = KINDS[str(values["model_type"])]
    if num_heads is not None:
        raise UsageError(
            f"--num-heads {num_heads} is not needed: {folder / CONFIG} tells it",
            remedy="Leave it out.",
        )
    if not kind.takes_tokenizer:
        _refuse(tokenizer, "pictures need none")
    tensors = folder_tensors(folder)
    own = read_own(folder, values, tensors)
    if own is not None:
        _refuse(tokenizer, f"{folder} has all that it needs")
        return own
    blocks = values.get("num_hidden_layers")
    if isinstance(blocks, int) and blocks > len(tensors):  # before anything is made for each
        raise UsageError(
            f"{folder / CONFIG} tells of {blocks:,} blocks, and the folder holds {len(tensors):,} "
            "tensors",
            expected="settings that belong to the tensors",
        )
    prefix = f"{kind.prefix}."
    on_top = any(name.startswith(prefix) for name in tensors)
    name = _class_name(kind, values, frozenset(tensors) if on_top else frozenset())
    source = FolderSource(
        folder=folder,
        values=values,
        tensors=tensors,
        class_name=name,
        has_head=on_top and name in kind.heads,
        prefix=prefix if on_top else "",
        tokenizer=tokenizer,
    )
    foreign = kind.read(source)
    return replace(foreign, notes=(*_notes(kind, source), *foreign.notes))


def _refuse(tokenizer: Path | None, why: str) -> None:
    if tokenizer is not None:
        raise UsageError(f"--tokenizer {tokenizer} is not needed: {why}", remedy="Leave it out.")


def _class_name(kind: _Kind, values: Mapping[str, Any], names: frozenset[str]) -> str:
    """The stock class that wrote the folder: as its config.json says, else as its tensors do."""
    said = values.get("architectures")
    if isinstance(said, list) and said:
        return str(said[0])
    for name, tensor in kind.heads.items():
        if tensor in names:
            return name
    return next(iter(kind.heads)).partition("For")[0] + "Model"


def _notes(kind: _Kind, source: FolderSource) -> list[str]:
    notes = []
    if strange := unread(kind.config, source.values):
        notes.append(
            f"{CONFIG} also sets {', '.join(strange)}: neither the stock class nor d2v reads that."
        )
    kinds = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in source.tensors.values()
                    if tensor.is_floating_point()} - {"float32"})  # fmt: skip
    if kinds:
        notes.append(f"Its weights are {', '.join(kinds)}; d2v keeps them as float32.")
    if source.prefix and not source.has_head:
        notes.append(f"d2v has no head like that of {source.class_name}: it is left out.")
    return notes
