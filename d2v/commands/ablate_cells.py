"""The cells of an ablation: the recipe's base, and what differs from it, each made once."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any

from d2v.ablation import AblateSettings
from d2v.commands.ablate_recipes import GROUPS, changed_recipe, check_axes, narrowed, stages_of
from d2v.commands.ablate_score import Score, score_of
from d2v.commands.deciding import deciding_settings
from d2v.commands.options import Options
from d2v.commands.stage import need
from d2v.config import Loaded
from d2v.errors import UsageError
from d2v.recipe import Recipe

BASE = "base"
VARIANTS = "variant"
"""What mode list calls its only axis."""
_SLUG = 48
"""Characters of a cell's name that people read."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting of everything, trained with each seed.

    Args:
        id: names its folder; its end follows from what differs from the base.
        settings: the recipe of its runs, with the base's seed and name.
        values: axis -> what it is there, for people.
        prepare: what decides its prepared data.
    """

    id: str
    settings: Recipe
    values: dict[str, str]
    prepare: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Everything that an ablation compares.

    Args:
        name: of the recipe.
        settings: the ablate section.
        score: what cells are judged by.
        stages: that each cell runs, in order.
        cells: without doubles, the base first.
        axes: axis -> its values in order, each with its cell's id.
    """

    name: str
    settings: AblateSettings
    score: Score
    stages: tuple[str, ...]
    cells: list[Cell]
    axes: dict[str, list[tuple[str, str]]] = field(default_factory=dict)


def sweep_of(loaded: Loaded[Recipe], options: Options) -> Sweep:
    """Load and check every cell; nothing is read but recipes and, for half-lives, an index.

    Raises:
        UsageError: an axis or a value that the recipe does not take, or a score it does not have.
    """
    settings: AblateSettings = need(loaded.settings, "ablate", loaded)
    check_axes(settings)
    make = partial(changed_recipe, loaded, options, settings)
    whole = make({}, "ablate.base")
    score = score_of(settings, whole)
    stages = stages_of(whole, score)
    base = narrowed(whole, stages, score)
    kept: dict[str, Cell] = {BASE: _cell(base, base, stages, _labels(settings, {}, base))}
    axes: dict[str, list[tuple[str, str]]] = {}
    for axis, label, changes in _points(settings):
        where = f"ablate.{'variants' if settings.mode == 'list' else 'axes'}"
        whole = make(changes, where)
        score_of(settings, whole)
        recipe = narrowed(whole, stages, score)
        values = _labels(settings, changes, base)
        if settings.mode == "list":
            values[VARIANTS] = label
        cell = _cell(recipe, base, stages, values)
        if cell.id == BASE and recipe.model_dump() != base.model_dump():
            raise UsageError(
                f"{', '.join(changes)} = {label} changes nothing that {' or '.join(stages)} reads",
                expected="settings that decide the score",
                remedy=f"Vary another setting, or score another stage than {score.stage}.",
            )
        if cell.id == BASE:  # by the words that were asked for
            values = kept[BASE].values | {key: values[key] for key in changes if key in values}
            kept[BASE] = replace(kept[BASE], values=values)
        kept.setdefault(cell.id, cell)
        if axis is not None:
            if digest_of(cell.id) in (digest_of(there) for _, there in axes.get(axis, [])):
                raise UsageError(f"{where}.{axis} has {label} twice: two values make one cell")
            axes.setdefault(axis, []).append((label, cell.id))
    if settings.mode == "grid":
        axes = {axis: [(name_of(v), "") for v in given] for axis, given in settings.axes.items()}
    return Sweep(
        name=loaded.name, settings=settings, score=score, stages=stages,
        cells=list(kept.values()), axes=axes,
    )  # fmt: skip


def name_of(value: object) -> str:
    """An axis' value in a word or two."""
    if isinstance(value, Mapping):
        if "half_life" in value:
            return f"half-life {value['half_life']}"
        if value.get("schedule") == "constant" and "tau_e" in value:
            return f"constant {value['tau_e']}"
        if value.get("schedule") == "linear" and {"tau_0", "tau_e", "tau_n"} <= set(value):
            return f"linear {value['tau_0']} to {value['tau_e']} in {value['tau_n']}"
        return ", ".join(f"{key} {name_of(part)}" for key, part in value.items())
    if isinstance(value, str):
        return value.removesuffix(" steps")
    return json.dumps(value, ensure_ascii=False)


def _points(settings: AblateSettings) -> Iterator[tuple[str | None, str, dict[str, Any]]]:
    """Axis, name and changes of every value; a grid's cells belong to no single axis."""
    if settings.mode == "list":
        for name, changes in settings.variants.items():
            yield VARIANTS, name, changes
    elif settings.mode == "one_at_a_time":
        for axis, values in settings.axes.items():
            for value in values:
                yield axis, name_of(value), {axis: value}
    else:
        for values in product(*settings.axes.values()):
            changes = dict(zip(settings.axes, values, strict=True))
            yield None, ", ".join(map(name_of, values)), changes


def _labels(settings: AblateSettings, changes: Mapping[str, Any], base: Recipe) -> dict[str, str]:
    """What every axis is in a cell: what was asked for, else the base's."""
    if settings.mode == "list":
        return {VARIANTS: BASE}
    here = base.model_dump(mode="json")
    own = {axis: "the recipe's" if axis in GROUPS else _at(here, axis) for axis in settings.axes}
    values = {axis: changes.get(axis, value) for axis, value in own.items()}
    return {axis: name_of(value) for axis, value in values.items()}


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def _cell(recipe: Recipe, base: Recipe, stages: tuple[str, ...], values: dict[str, str]) -> Cell:
    prepare = deciding(recipe, ("prepare",))
    now, before = ({**deciding(one, stages), **deciding(one, ("prepare",))}
                   for one in (recipe, base))  # fmt: skip
    differing = {
        key: now.get(key) for key in sorted({*now, *before}) if now.get(key) != before.get(key)
    }
    baselines = deciding(recipe, ("probe",)) != deciding(base, ("probe",))
    if differing and recipe.probe is not None and not baselines:
        probe = recipe.probe.model_copy(update={"baselines": False, "supervised": False})
        recipe = recipe.model_copy(update={"probe": probe})
    cell = _id(differing, values.get(VARIANTS, ""))
    return Cell(id=cell, settings=recipe, values=values, prepare=prepare)


def deciding(recipe: Recipe, stages: tuple[str, ...]) -> dict[str, Any]:
    """What decides the stages' results beside the run's name and seed."""
    found: dict[str, Any] = {}
    for stage in stages:
        found |= deciding_settings(recipe, stage)
    return {key: value for key, value in found.items() if key not in ("name", "seed")}


def _id(differing: Mapping[str, Any], name: str) -> str:
    """Readable in front, a variant by its name; told apart by the difference's hash behind."""
    if not differing:
        return BASE
    words = name or "_".join(
        f"{key.rpartition('.')[2]}-{name_of(value)}" for key, value in differing.items()
    )
    slug = re.sub(r"[^A-Za-z0-9_.]+", "-", words)[:_SLUG].strip("-.") or "cell"
    digest = hashlib.sha256(json.dumps(differing, sort_keys=True).encode()).hexdigest()
    return f"{slug}-{digest[:6]}"


def digest_of(cell: str) -> str:
    """The part of a cell's id that hangs on nothing but what differs from the base."""
    return cell.rpartition("-")[2]
