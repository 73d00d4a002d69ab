"""Settings with some of them changed, and a wrong change explained by its full key."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

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
        sentences = [_sentence(detail, kind, merged, where) for detail in wrong]
        raise ValueError(" ".join(dict.fromkeys(sentences)))
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
    detail: ErrorDetails, kind: type[BaseModel], values: Mapping[str, Any], where: str
) -> str:
    key = dotted_key(detail["loc"], kind)
    full = f"{where}.{key}" if key else where
    if detail["type"] == "extra_forbidden":
        near = suggestion(key, kind, values)
        return f"{full} is not a setting." + (f" Did you mean {where}.{near}?" if near else "")
    if detail["type"] == "value_error":  # our validators write whole sentences
        return f"{full}: {detail['ctx']['error']}."
    expected = detail["msg"] or f"expected {detail['type'].partition('_')[0]}"
    return f"{full} = {detail['input']!r}: {expected}."
