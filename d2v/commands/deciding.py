"""Which settings decide a stage's result, and so must be the same when it goes on."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import Any, cast

from pydantic_core import to_jsonable_python

from d2v.config.load import flat
from d2v.recipe import Recipe
from d2v.settings import Settings

_FREE = (
    "data.workers",
    "data.verify",
    "data.max_bad_fraction",
    "data.num_train_samples",
    "data.mean_train_length",
    "prepare.workers",
    "prepare.subsets",
    "pretrain.log_every",
    "pretrain.checkpoint_every",
    "pretrain.keep_checkpoints",
    "pretrain.checkpoint",
    "pretrain.guards",
    "finetune.log_every",
    "finetune.checkpoint_every",
    "finetune.keep_checkpoints",
    "finetune.checkpoint",
    "finetune.guards",
    "probe.batch_size",
    "probe.batch_length",
)
"""Settings that may change between two starts: they do not decide the result."""
_SECTIONS = {
    "prepare": ("name", "seed", "modality.name", "data", "prepare"),
    "pretrain": ("name", "seed", "device", "modality", "encoder", "objective", "pretrain"),
    "probe": ("name", "seed", "device", "modality", "encoder", "probe"),
    "finetune": ("name", "seed", "device", "modality", "encoder", "finetune"),
}
"""Which settings decide a stage's result; where data lies does not, its fingerprint does. What of
the modality decides what preparing writes, its own settings say."""


def deciding_settings(recipe: Recipe, stage: str) -> dict[str, Any]:
    """Dotted settings that decide the stage's result."""
    sections = _SECTIONS[stage]
    if stage == "prepare":
        sections += tuple(f"modality.{name}" for name in recipe.modality.prepare_sections)
    if stage == "probe" and recipe.probe is not None and recipe.probe.supervised:
        sections += ("pretrain",)  # the baseline with labels is trained with these
    return {
        key: value
        for key, value in flat(recipe.model_dump(mode="json"))
        if _under(key, sections) and not _under(key, _FREE)
    }


def setting_defaults(recipe: Recipe, keys: Iterable[str]) -> dict[str, Any]:
    """What dotted settings are where a recipe does not name them; without those that it must."""
    found = {}
    for key in keys:
        *path, name = key.split(".")
        section = reduce(lambda owner, part: getattr(owner, part, None), path, cast(Any, recipe))
        field = type(section).model_fields.get(name) if isinstance(section, Settings) else None
        if field is not None and not field.is_required():
            found[key] = to_jsonable_python(field.get_default(call_default_factory=True))
    return found


def _under(key: str, sections: tuple[str, ...]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)
