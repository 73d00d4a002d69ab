"""What a recipe would say to have the model of another library built."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from d2v.data2vec import Data2VecSettings
from d2v.errors import UsageError
from d2v.exchange.complaints import complaints
from d2v.exchange.foreign import Foreign
from d2v.modalities.text.store import StoreSettings as TextStoreSettings
from d2v.modalities.vision.masks import MaskSettings as VisionMaskSettings
from d2v.recipe import Recipe


def recipe_of(foreign: Foreign, dest: Path) -> Recipe:
    """The recipe of an imported model, named after its folder.

    Args:
        foreign: what was read.
        dest: the run directory.

    Raises:
        UsageError: d2v cannot express the model; says which setting.
    """
    values: dict[str, Any] = {
        "name": _name(dest),
        "modality": _usable(foreign.modality),
        "encoder": foreign.encoder,
        "objective": {"top_k": _top_k(foreign.encoder), **foreign.objective},
    }
    if foreign.task is not None:
        # In float32, so that its answers are those of the library that it comes from.
        values["finetune"] = {"task": foreign.task, "precision": "float32"}
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise UsageError(
            f"d2v cannot express this {foreign.kind}: {complaints(error)}",
            expected="a model within the limits of d2v's own settings",
        ) from error


def _name(dest: Path) -> str:
    """The folder's, without what may stand in no recipe's name."""
    name = re.sub(r"[^A-Za-z0-9_.\-]", "-", dest.resolve().name).lstrip(".-")
    return name or "imported"


def _top_k(encoder: dict[str, Any]) -> int:
    default: int = Data2VecSettings.model_fields["top_k"].default
    return min(default, int(encoder["depth"]))


def _usable(modality: dict[str, Any]) -> dict[str, Any]:
    """The section with defaults lowered that would not fit a small model.

    They shape no tensor: what masks look like, and how long samples are when data is prepared.
    """
    frontend = modality["frontend"]
    if modality["name"] == "vision":
        patches = (frontend["image_size"] // frontend["patch_size"]) ** 2
        least = min(VisionMaskSettings().min_block, max(1, patches // 4))
        return {"mask": {"min_block": least}, **modality}
    if modality["name"] == "text":
        longest = min(TextStoreSettings().block_tokens, frontend["max_tokens"])
        return {"store": {"block_tokens": longest}, **modality}
    return modality
