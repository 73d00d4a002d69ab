"""Settings that come from elsewhere than recipe and command line."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from d2v.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """Settings that come from elsewhere: over the recipe's own, below the command line's.

    Args:
        values: nested dictionaries.
        origin: who set them, for people.
        start: the run that they were taken from; None where it was none.
        same: dotted keys of values that the recipe must not have otherwise.
        over_all: they win over the command line, too.
        where_there: sections that are left alone in a recipe without them.
    """

    values: dict[str, Any]
    origin: str
    start: Path | None = None
    same: tuple[str, ...] = ()
    over_all: bool = False
    where_there: tuple[str, ...] = ()


def fitting(config: DictConfig, adopted: Adopted | None) -> Adopted | None:
    """Without what belongs into sections that the recipe does not have."""
    if adopted is None:
        return None
    values = {
        key: value
        for key, value in adopted.values.items()
        if key not in adopted.where_there or config.get(key) is not None
    }
    return replace(adopted, values=values)


def check_same(config: DictConfig, adopted: Adopted, recipe: str) -> None:
    """Raises UsageError where the recipe has otherwise what must be the same."""
    for key in adopted.same:
        own, other = (OmegaConf.select(OmegaConf.create(v), key) for v in (config, adopted.values))
        if own is not None and own != other:
            raise UsageError(
                f"{adopted.origin}: its {key} is {other}, and that of {recipe} is {own}",
                expected="the same in both",
                remedy="Name another run, or take another recipe.",
            )


def adopt(config: DictConfig, values: dict[str, Any]) -> None:
    """Set values section by section; a section of another `kind` is replaced as a whole."""
    for key, value in values.items():
        own = config.get(key)
        both = isinstance(own, DictConfig) and isinstance(value, dict)
        if both and own.get("kind", value.get("kind")) == value.get("kind", own.get("kind")):
            adopt(own, value)
        else:
            config[key] = value
