"""Load a recipe as typed settings, and print it with the origin of every value."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import ValidationError

from d2v.config.adopted import Adopted
from d2v.config.compose import Composed, compose
from d2v.config.mistakes import explained
from d2v.config.origins import COMMAND_LINE
from d2v.config.schema import wrong_kinds
from d2v.config.shipped import find_recipe, shipped_name
from d2v.settings import Settings

T = TypeVar("T", bound=Settings)

FILE_NAME = "file name"
"""Origin of a `name` that the recipe leaves to its file."""


@dataclass(frozen=True, kw_only=True)
class Loaded(Generic[T]):
    """A recipe, checked.

    Args:
        settings: the typed settings.
        name: what the run directory is called; the recipe's `name`, or its file's.
        path: the recipe's file.
        origins: dotted key of every leaf -> "default", the file that set it
            (`conf/encoder/vit-tiny.yaml`), "file name" or "command line".
        overrides: KEY=VALUE as given, for starting the same recipe in another process.
        start: the run whose architecture was taken over, for the same.
    """

    settings: T
    name: str
    path: Path
    origins: dict[str, str]
    overrides: tuple[str, ...] = ()
    start: Path | None = None


def load_recipe(
    recipe: str, overrides: Sequence[str], schema: type[T], adopted: Adopted | None = None
) -> Loaded[T]:
    """Find, compose and check a recipe.

    Args:
        recipe: path of a .yaml file, or the name of a shipped recipe.
        overrides: KEY=VALUE from the command line; GROUP=OPTION picks a file of `conf/`.
        schema: settings that the whole recipe must fit.
        adopted: settings from elsewhere, over the recipe's and below the overrides.

    Raises:
        UsageError: everything that is wrong with the recipe, in one message.
    """
    path = find_recipe(recipe)
    composed = compose(path, overrides, adopted)
    file_name = shipped_name(path) or path.stem
    named = _named(composed, file_name) if "name" in schema.model_fields else composed
    settings = _checked(named, schema)
    leaves = flat(settings.model_dump(mode="json"))
    return Loaded(
        settings=settings,
        name=str(named.values.get("name", file_name)),
        path=path,
        origins={key: named.origin(key) for key, _ in leaves},
        overrides=tuple(overrides),
        start=None if adopted is None else adopted.start,
    )


def as_yaml(loaded: Loaded[T], with_origins: bool) -> str:
    """The resolved settings as YAML that is a recipe itself; with a comment for each origin."""
    return "".join(_lines(loaded.settings.model_dump(mode="json"), "", loaded, with_origins))


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of each leaf; a list is one leaf, and so is an empty section."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _named(composed: Composed, file_name: str) -> Composed:
    """Fill in `name` where this recipe does not give it.

    One inherited through `defaults:` does not count: two recipes must not share a run directory by
    accident.
    """
    if composed.origin("name") in (composed.recipe, COMMAND_LINE):
        return composed
    values = composed.values | {"name": file_name}
    sources = composed.sources | {"name": FILE_NAME}
    return Composed(values=values, sources=sources, recipe=composed.recipe)


def _checked(composed: Composed, schema: type[T]) -> T:
    wrong = list(wrong_kinds(schema, composed.values))
    try:
        settings = schema.model_validate(composed.values)
    except ValidationError as error:
        raise explained(wrong + error.errors(include_url=False), schema, composed) from error
    if wrong:
        raise explained(wrong, schema, composed)
    return settings


def _lines(
    values: Mapping[str, Any], prefix: str, loaded: Loaded[T], with_origins: bool
) -> Iterator[str]:
    indent = "  " * prefix.count(".")
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{_on_one_line(key)}:\n"
            yield from _lines(value, f"{prefix}{key}.", loaded, with_origins)
        else:
            origin = f"  # {loaded.origins[f'{prefix}{key}']}" if with_origins else ""
            yield f"{indent}{_on_one_line(key)}: {_on_one_line(value)}{origin}\n"


def _on_one_line(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf, allow_unicode=True)
    text = str(text).removesuffix("\n").removesuffix("\n...")
    if "\n" in text or (isinstance(value, str) and _looks_like_a_number(value)):
        return json.dumps(value, ensure_ascii=False)  # JSON is YAML too, and always one line
    return text


def _looks_like_a_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
