"""The recipe that a run was made with, also where an older d2v had other settings of stages."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from d2v.errors import UsageError
from d2v.recipe import Recipe

_NEEDED = ("name", "seed", "device", "modality", "encoder", "objective", "data", "probe")
"""Sections that say what the encoder is and what it reads; how it was trained is not among them."""


def saved_recipe(config: Path) -> tuple[Recipe, dict[str, Any]]:
    """The resolved recipe in a run's `config.yaml`.

    Args:
        config: the file.

    Returns:
        The recipe, without the stages that train where this version refuses them; and all that the
        file says.

    Raises:
        UsageError: it cannot be read, or says nothing of an encoder.
    """
    try:
        values = yaml.safe_load(config.read_bytes())
        with suppress(ValueError):
            return Recipe.model_validate(values), values
        needed = {name: values[name] for name in _NEEDED if name in values}
        return Recipe.model_validate(needed), values
    except (OSError, yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise UsageError(
            f"{config} makes no sense to this d2v: {' '.join(lines[:3])}",
            expected="the resolved settings of a run, as d2v pretrain writes them",
            remedy="Use the version of d2v that wrote it.",
        ) from error
