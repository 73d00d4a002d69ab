"""Turn pydantic's complaints into one message that names key, value, origin and remedy."""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from d2v.config.compose import DEFAULT, Composed
from d2v.config.schema import dotted_key, other_choice, suggestion
from d2v.errors import UsageError

_EXPECTED = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "string": "text (quote a number that is meant as text)",
    "dict": "a section of KEY: VALUE lines",
    "model": "a section of KEY: VALUE lines",
    "dataclass": "a section of KEY: VALUE lines",
    "list": "a list",
    "tuple": "a list",
    "finite": "a finite number",
}
"""What a field wants, by the first word of pydantic's error type."""


def explained(
    details: list[ErrorDetails], schema: type[BaseModel], composed: Composed
) -> UsageError:
    """One UsageError that lists every mistake of a recipe.

    Args:
        details: pydantic's complaints about `composed.values`, and ours in the same form.
        schema: what the values should have fitted.
        composed: the values and where they came from.
    """
    by_key: dict[str, list[ErrorDetails]] = {}
    for detail in details:
        by_key.setdefault(_key_of(detail, schema), []).append(detail)
    found = [_sentence(key, same, schema, composed) for key, same in by_key.items()]
    if len(found) == 1:
        return UsageError(found[0])
    return UsageError(
        f"{len(found)} mistakes in {composed.recipe}:\n" + "\n".join(f"  - {one}" for one in found)
    )


def _sentence(
    key: str, details: list[ErrorDetails], schema: type[BaseModel], composed: Composed
) -> str:
    kinds = {detail["type"] for detail in details}
    if kinds == {"extra_forbidden"}:
        if choice := other_choice(key, schema, composed.values):
            return (
                f"{key} is a setting of {choice} alone{_origin(key, composed)}. Leave it out "
                f"(~{key}), or choose that."
            )
        near = suggestion(key, schema, composed.values)
        return f"{key} is not a setting{_origin(key, composed)}." + (
            f" Did you mean {near}?" if near else ""
        )
    if kinds == {"missing"} and key.rpartition(".")[2].isdigit():
        key = key.rpartition(".")[0]
        return f"{key}{_shown(key, composed)}: expected more values."
    if kinds in ({"missing"}, {"union_tag_not_found"}):
        return f"{key} is missing. Set it in {composed.recipe} or on the command line: {key}=..."
    own = [str(detail["ctx"]["error"]) for detail in details if detail["type"] == "value_error"]
    if own:  # our validators write whole sentences
        return f"{key}{_shown(key, composed)}: {'; '.join(own)}" if key else "; ".join(own)
    return f"{key}{_shown(key, composed)}: {wanted(details)}"


def wanted(details: Sequence[ErrorDetails]) -> str:
    """What is expected of one setting, and which word was meant."""
    expected = " or ".join(dict.fromkeys(_expected(detail) for detail in details))
    near = _near_choice(details)
    return f"expected {expected}." + (f" Did you mean {near}?" if near else "")


def _expected(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "union_tag_invalid":
        return str(context["expected_tags"])
    if kind in ("literal_error", "enum"):
        return str(context["expected"])
    word, _, manner = kind.partition("_")
    if manner in ("type", "parsing", "from_float", "attributes_type", "number"):
        return _EXPECTED.get(word, detail["msg"])
    return re.sub(r"^\w+ should (be |have |match )?", "", detail["msg"])


def _near_choice(details: Sequence[ErrorDetails]) -> str:
    """The allowed word that looks most like the one given."""
    for detail in details:
        context = detail.get("ctx", {})
        words = str(context.get("expected") or context.get("expected_tags") or "")
        given = str(context.get("tag") or detail["input"])
        choices = [word.strip("'") for word in words.replace(" or ", ", ").split(", ")]
        if near := difflib.get_close_matches(given, choices, n=1):
            return near[0]
    return ""


def _shown(key: str, composed: Composed) -> str:
    value: Any = composed.values
    for part in key.split("."):
        value = _item(value, part)
    if isinstance(value, Mapping):  # a section is no value, and too long to print
        return ""
    text = json.dumps(value, ensure_ascii=False, default=str)
    plain = value if isinstance(value, str) and not value.isdigit() else text
    return f" = {plain if len(plain) <= 60 else plain[:57] + '...'}{_origin(key, composed)}"


def _item(value: Any, part: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(part)
    if isinstance(value, list) and part.isdigit() and int(part) < len(value):
        return value[int(part)]
    return value if part == "0" and not isinstance(value, list) else None  # one stands for a list


def _origin(key: str, composed: Composed) -> str:
    origin = composed.origin(key)
    if origin == DEFAULT:  # a whole section: say the file of anything inside it
        inside = [file for name, file in composed.sources.items() if name.startswith(f"{key}.")]
        origin = inside[-1] if inside else composed.recipe
    return f" ({origin})"


def _key_of(detail: ErrorDetails, schema: type[BaseModel]) -> str:
    key = dotted_key(detail["loc"], schema)
    discriminator = detail.get("ctx", {}).get("discriminator")
    if discriminator is None:
        return key
    return f"{key}.{discriminator.strip(chr(39))}" if key else str(discriminator.strip("'"))
