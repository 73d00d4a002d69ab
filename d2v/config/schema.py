"""Walk a settings schema: which keys exist, and which one a person may have meant."""

import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

_ACCEPTED: dict[Any, tuple[type, ...]] = {bool: (bool,), int: (int, float), float: (int, float)}
"""What a recipe may write for each kind; a float for a whole number because YAML's 1e4 is one."""


def dotted_key(loc: Sequence[int | str], schema: type[BaseModel]) -> str:
    """A key as the recipe spells it, from the place that pydantic names.

    Pydantic also names the members of a union that it tried; the recipe knows nothing of those.
    """
    node: Any = schema
    key: list[str] = []
    for part in loc:
        members = _members(node)
        if len(members) > 1:
            node = _named_member(members, str(part))
        elif part != "[key]":
            key.append(str(part))
            node = _child(members[0], str(part))
    return ".".join(key)


def suggestion(key: str, schema: type[BaseModel], values: Mapping[str, Any]) -> str | None:
    """The existing setting that an unknown key most resembles.

    A neighbour first, else one of the same or nearly the same name in another section.
    """
    parent, _, last = key.rpartition(".")
    keys = list(_settings(schema, values, ""))
    by_name: dict[str, str] = {}
    beside: dict[str, str] = {}
    for known in keys:
        section, _, name = known.rpartition(".")
        by_name.setdefault(name, known)
        if section == parent:
            beside[name] = known
    for candidates, cutoff in ((beside, 0.6), (by_name, 0.8)):
        if near := difflib.get_close_matches(last, candidates, n=1, cutoff=cutoff):
            return candidates[near[0]]
    return None


def other_choice(key: str, schema: type[BaseModel], values: Mapping[str, Any]) -> str | None:
    """The choice that an unknown key would be a setting of, `objective.name=data2vec`."""
    parent, _, last = key.rpartition(".")
    nodes, given = [schema], values
    for part in parent.split("."):
        nodes = [member for node in nodes for member in _members(_child(node, part))]
        below = given.get(part)
        given = below if isinstance(below, Mapping) else {}
    for member in nodes:
        if _is_model(member) and last in member.model_fields:
            for name, words in _literals(member).items():
                if len(words) == 1 and given.get(name, words[0]) != words[0]:
                    return f"{parent}.{name}={words[0]}"
    return None


def wrong_kinds(node: Any, value: Any, loc: tuple[str | int, ...] = ()) -> Iterator[ErrorDetails]:
    """Complain where pydantic would convert in silence: true as 1, 1 as true, "3" as 3."""
    members = _members(node)
    if isinstance(value, Mapping):
        for member in members:
            if not _is_model(member) or _fits(member, value):
                for name, part in value.items():
                    yield from wrong_kinds(_child(member, name), part, (*loc, name))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from wrong_kinds(_child(members[0], str(index)), part, (*loc, index))
    elif value is not None and get_args(members[0])[1:] == (Ellipsis,):  # one stands for a list
        yield from wrong_kinds(get_args(members[0])[0], value, (*loc, 0))
    elif value is not None and not _accepts(members, value):
        for member in members:
            kind = "literal_error" if get_origin(member) is Literal else f"{member.__name__}_type"
            expected = {"expected": " or ".join(map(repr, get_args(member)))}
            yield {"type": kind, "loc": loc, "msg": "", "input": value, "ctx": expected}


def _accepts(members: list[Any], value: Any) -> bool:
    """True unless numbers and fixed words are all that is allowed, and this is neither."""
    if not any(member in _ACCEPTED for member in members):
        return True
    for member in members:
        if get_origin(member) is Literal:
            if any(type(value) is type(word) and value == word for word in get_args(member)):
                return True
        elif member not in _ACCEPTED or type(value) in _ACCEPTED[member]:
            return True
    return False


def _settings(node: Any, values: Any, key: str, depth: int = 8) -> Iterator[str]:
    """Dotted keys of all settings below a node; in a table of named entries, of those given."""
    given = values if isinstance(values, Mapping) else {}
    prefix = f"{key}." if key else ""
    if depth == 0:  # a schema that contains itself
        return
    for member in _members(node):
        if _is_model(member) and _fits(member, given):
            children = {name: field.annotation for name, field in member.model_fields.items()}
        elif get_origin(member) in (dict, Mapping):
            children = {str(name): get_args(member)[1] for name in given}
        else:
            continue
        for name, child in children.items():
            yield f"{prefix}{name}"
            yield from _settings(child, given.get(name), f"{prefix}{name}", depth - 1)


def _members(annotation: Any) -> list[Any]:
    """What an annotation allows besides None; one entry unless it is a union."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not types.NoneType]
        return [member for part in parts for member in _members(part)]
    return [annotation]


def _named_member(members: list[Any], tag: str) -> Any:
    """The member of a union behind pydantic's word for it: a class name or a discriminator."""
    for member in members:
        if _is_model(member):
            word = tag.rpartition("[")[2].rstrip("]").rpartition(", ")[2]  # function-after[f(), X]
            if member.__name__ == word or any(tag in words for words in _literals(member).values()):
                return member
    return Any


def _child(node: Any, part: str) -> Any:
    if _is_model(node):
        field = node.model_fields.get(part)
        return field.annotation if field else Any
    if get_origin(node) in (dict, Mapping):
        return get_args(node)[1]
    if get_origin(node) in (list, tuple, Sequence) and part.isdigit():
        kinds = [kind for kind in get_args(node) if kind is not Ellipsis]
        return kinds[min(int(part), len(kinds) - 1)] if kinds else Any
    return Any


def _fits(model: type[BaseModel], values: Mapping[str, Any]) -> bool:
    """False where a given value says that another member of the union is meant."""
    literals = _literals(model)
    fixed = {name: words for name, words in literals.items() if len(words) == 1}
    return all(values.get(name, words[0]) in words for name, words in fixed.items())


def _literals(model: type[BaseModel]) -> dict[str, tuple[Any, ...]]:
    return {
        name: get_args(field.annotation)
        for name, field in model.model_fields.items()
        if get_origin(field.annotation) is Literal
    }


def _is_model(node: Any) -> bool:
    return isinstance(node, type) and issubclass(node, BaseModel)
