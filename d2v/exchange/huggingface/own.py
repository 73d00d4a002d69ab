"""What `config.json` says beside the stock settings, so that d2v reads its own models back exactly.

A stock class knows less than a recipe: whether CLS is there only for the class's sake, how padding
is treated, what a number was scaled by. A folder that was trained further elsewhere may no longer
be what the section says; then it is read like anybody's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Size, Tensor

from d2v.core.encoder import EncoderSettings
from d2v.errors import UsageError
from d2v.exchange.foreign import Foreign
from d2v.exchange.huggingface.stock import stock_model
from d2v.exchange.links import KeylessBias, Layout, Link, Same, Stacked
from d2v.modalities import ModalitySettings
from d2v.tasks import TaskSettings

SECTION = "d2v"
"""Key in config.json."""
ORIGINAL_TOKENIZER = "tokenizer.d2v.json"
"""The tokenizer as d2v has it, where the one for others adds special tokens by itself."""
BESIDE = "beside.d2v.safetensors"
"""What no stock class has a place for: the head of pre-training, and the keys' biases."""
_KEY = "key_bias."
"""In front of the name of a bias of query, key and value whose middle third is kept there."""
_FORMAT = 1
_MODALITY: TypeAdapter[ModalitySettings] = TypeAdapter(ModalitySettings)
_TASK: TypeAdapter[TaskSettings] = TypeAdapter(TaskSettings)


def own_section(
    modality: ModalitySettings,
    encoder: EncoderSettings,
    objective: Mapping[str, Any],
    task: TaskSettings | None,
    about: Mapping[str, Any] | None,
    *,
    mask_token: bool,
) -> dict[str, Any]:
    """What to write; no path of this machine is in it.

    Args:
        modality: as exported.
        encoder: as exported.
        objective: the recipe's section.
        task: of the head, as exported; None for the bare encoder.
        about: what `Task.about` says.
        mask_token: whether the vector for masked places went along.
    """
    return {
        "format": _FORMAT,
        "modality": _without_paths(modality.model_dump(mode="json")),
        "encoder": encoder.model_dump(mode="json"),
        "objective": dict(objective),
        "task": None if task is None else _without_paths(task.model_dump(mode="json")),
        "about": None if about is None else dict(about),
        "mask_token": mask_token,
    }


def read_own(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Foreign | None:
    """A model that d2v exported, as it was.

    Args:
        folder: with the tokenizer.
        config: content of config.json.
        tensors: content of the weights' files.

    Returns:
        None where d2v did not write it, or where it is no longer what d2v wrote.
    """
    section = config.get(SECTION)
    if not isinstance(section, Mapping) or section.get("format") != _FORMAT:
        return None
    try:
        modality = _MODALITY.validate_python(section["modality"])
        encoder = EncoderSettings.model_validate(section["encoder"])
        task = None if section["task"] is None else _TASK.validate_python(section["task"])
        mask_token = bool(section["mask_token"])
        stock = stock_model(modality, encoder, task, mask_token=mask_token)
    except (KeyError, ValidationError, UsageError):  # of another version
        return None
    if config.get("architectures") != [stock.name] or not _holds(stock.layout, tensors):
        return None
    beside = _read_beside(folder)
    anew = {} if mask_token else {"frontend.mask_token": "the model was exported without one"}
    return Foreign(
        kind=f"Hugging Face {stock.name}, exported by d2v",
        modality=modality.model_dump(mode="json"),
        encoder=encoder.model_dump(mode="json"),
        objective=dict(section.get("objective") or {}),
        layout=replace(
            stock.layout,
            links=tuple(_all_links(stock.layout, beside, with_head=task is None)),
            anew=anew,
            constants={},
        ),
        tensors={**tensors, **beside},
        task=None if task is None else task.model_dump(mode="json"),
        about=section.get("about"),
        tokenizer=_tokenizer(folder),
    )


def _holds(layout: Layout, tensors: Mapping[str, Tensor]) -> bool:
    """Whether reading and writing again gives the same numbers, and nothing else moved."""
    try:
        for link in layout.links:
            found = [tensors[name] for name in link.theirs]
            again = link.to_theirs(link.to_ours(found, Size()))
            if not all(map(torch.equal, found, again)):
                return False
        return all(torch.equal(tensors[name], kept) for name, kept in layout.constants.items())
    except (KeyError, RuntimeError, ValueError):  # torch.equal refuses other dtypes
        return False


def beside_the_class(
    layout: Layout, tensors: Mapping[str, Tensor], regression_head: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What goes into the file `BESIDE`; {} for nothing.

    Args:
        layout: of the stock class.
        tensors: by our names.
        regression_head: of pre-training, without prefix; {} for none.
    """
    head = {f"head.{name}": tensor for name, tensor in regression_head.items()}
    keys = {
        f"{_KEY}{link.ours}": tensors[link.ours].chunk(3)[1].contiguous()
        for link in layout.links
        if isinstance(link, KeylessBias)
    }
    return head | {name: bias for name, bias in keys.items() if bool(bias.any())}


def _read_beside(folder: Path) -> dict[str, Tensor]:
    """Raises UsageError where the file is damaged."""
    path = folder / BESIDE
    if not path.is_file():
        return {}
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}",
            remedy="Copy it again, or delete it: the head of pre-training is then drawn anew.",
        ) from error


def _all_links(layout: Layout, beside: Mapping[str, Tensor], *, with_head: bool) -> Iterator[Link]:
    for link in layout.links:
        key = f"{_KEY}{link.ours}"
        if isinstance(link, KeylessBias) and key in beside:
            query, value = link.theirs
            yield Stacked(link.ours, (query, key, value))
        else:
            yield link
    if with_head:
        yield from (Same(name, (name,)) for name in beside if name.startswith("head."))


def _tokenizer(folder: Path) -> bytes | None:
    for name in (ORIGINAL_TOKENIZER, "tokenizer.json"):
        if (folder / name).is_file():
            return (folder / name).read_bytes()
    return None


def _without_paths(section: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that only say where something lies are of no use to others, and may be private."""
    cleaned = dict(section)
    for name, value in section.items():
        if name in ("path", "language_model"):  # the latter is not exported
            cleaned[name] = None
        elif isinstance(value, Mapping):
            cleaned[name] = _without_paths(value)
    return cleaned
