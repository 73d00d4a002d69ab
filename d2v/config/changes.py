"""Settings with some of them changed, and a wrong change explained by its full key."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from d2v.config.mistakes import wanted
from d2v.config.schema import dotted_key, suggestion, wrong_kinds
from d2v.settings import Settings

T = TypeVar("T", bound=Settings)


def changed(settings: T, changes: Mapping[str, Any], where: str) -> T:
    """The same settings with changes on top.

    Args:
        settings: as they are.
        changes: nested, as a recipe writes them; a section of another `kind` replaces its section.
        where: dotted key of the changes in the recipe, for messages.

    Raises:
        ValueError: names the full key of everything that is wrong.
    """
    kind = type(settings)
    merged = _merged(settings.model_dump(), changes)
    wrong = list(wrong_kinds(kind, changes))
    try:
        result = kind.model_validate(merged)
    except ValidationError as error:
        wrong += error.errors(include_url=False)
    if wrong:
        by_key: dict[str, list[ErrorDetails]] = {}
        for detail in wrong:
            by_key.setdefault(dotted_key(detail["loc"], kind), []).append(detail)
        raise ValueError(
            " ".join(_sentence(key, same, kind, merged, where) for key, same in by_key.items())
        )
    return result


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values with changes on top, section by section."""
    merged = dict(values)
    for key, change in changes.items():
        old, new = merged.get(key), change
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            same_kind = new.get("kind", old.get("kind")) == old.get("kind")
            new = _merged(old, new) if same_kind else new
        merged[key] = new
    return merged


def _sentence(
    key: str,
    details: list[ErrorDetails],
    kind: type[BaseModel],
    values: Mapping[str, Any],
    where: str,
) -> str:
    full, first = f"{where}.{key}" if key else where, details[0]
    if first["type"] == "extra_forbidden":
        near = suggestion(key, kind, values)
        return f"{full} is not a setting." + (f" Did you mean {where}.{near}?" if near else "")
    if first["type"] == "value_error":  # our validators write whole sentences
        return f"{full}: {first['ctx']['error']}."
    given = json.dumps(first["input"], ensure_ascii=False, default=str)
    return f"{full} = {given}: {wanted(details)}"
