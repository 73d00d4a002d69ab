"""The recipe of one cell of an ablation: made by the same loader, with the same checks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from d2v.ablation import AblateSettings, half_life_tau, nested
from d2v.commands.ablate_score import Score, cell_of
from d2v.commands.batches import figures_of
from d2v.commands.options import Options
from d2v.commands.stage import shards_folder
from d2v.config import Adopted, Loaded, load_recipe
from d2v.data.shards import Shards
from d2v.errors import UsageError
from d2v.modalities import build_modality
from d2v.recipe import Recipe

GROUPS = ("encoder", "objective")
"""Sections for which an axis or a variant may name an option of conf/, as a command line may."""
_NO_AXES = ("name", "seed", "prepare", "pretrain", "probe", "finetune", "data", "modality")
"""Settings and sections that an axis must not be as a whole."""


def check_axes(settings: AblateSettings) -> None:
    """Refuse to vary what is no setting of a cell. Raises UsageError."""
    listed = {key for changes in settings.variants.values() for key in changes}
    for key in [*settings.axes, *settings.base, *listed]:
        whole = key in _NO_AXES if key in settings.axes else key in ("name", "seed")
        if whole or key.partition(".")[0] in ("ablate", "suite"):
            raise UsageError(
                f"{key} is no setting that an ablation can vary",
                expected="a setting inside a section, such as objective.top_k or pretrain.steps",
                remedy="Seeds are ablate.seeds." if key == "seed" else "",
            )


def stages_of(recipe: Recipe, score: Score) -> tuple[str, ...]:
    """Pre-training and what gives the score; the latter alone where other weights are named."""
    named = {"probe": recipe.pretrain, "finetune": recipe.finetune}[score.stage]
    if named is not None and named.checkpoint is not None:
        return (score.stage,)
    if recipe.pretrain is None and (recipe.finetune is None or score.stage == "probe"):
        raise UsageError(
            "The recipe has no pretrain section, so that there is nothing to score",
            expected="a section `pretrain:`, or finetune.checkpoint",
        )
    return (score.stage,) if recipe.pretrain is None else ("pretrain", score.stage)


def changed_recipe(
    loaded: Loaded[Recipe],
    options: Options,
    settings: AblateSettings,
    changes: Mapping[str, Any],
    where: str,
) -> Recipe:
    """The recipe with changes that win over the file and the command line.

    Raises:
        UsageError: it does not take them.
    """
    asked = changes or settings.base  # for messages
    options_of_base, base = _split(settings.base)
    picked, values = _split(changes)
    overrides = _with(loaded.overrides, {**options_of_base, **picked})
    loaded = replace(loaded, overrides=overrides)
    try:
        both = _over(nested(base), nested(values))
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error
    objective = both.get("objective")
    tau = objective.get("tau") if isinstance(objective, dict) else None
    if not isinstance(tau, dict) or "half_life" not in tau:
        return _load(loaded, both, where, asked)
    assert isinstance(objective, dict)
    if set(tau) != {"half_life"}:
        raise UsageError(f"{where}: objective.tau has half_life and other settings: leave them out")
    rest = {name: value for name, value in objective.items() if name != "tau"}
    recipe = _load(loaded, {**both, "objective": rest}, where, asked)
    try:
        tau_e = half_life_tau(tau["half_life"], _samples_per_step(loaded, options, recipe))
    except ValueError as error:
        raise UsageError(f"{where}.objective.tau: {error}") from error
    constant = {"schedule": "constant", "tau_e": tau_e}
    return _load(loaded, {**both, "objective": {**rest, "tau": constant}}, where, asked)


def _split(changes: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """Options of conf/ by their group, and values."""
    options = {key: changes[key] for key in GROUPS if isinstance(changes.get(key), str)}
    return options, {key: value for key, value in changes.items() if key not in options}


def _with(overrides: Sequence[str], picked: Mapping[str, str]) -> tuple[str, ...]:
    """Overrides with other options of these groups; each is picked once, and values stay."""
    kept = []
    for text in overrides:
        key, _, value = text.lstrip("+~").partition("=")
        if key not in picked or value.lstrip().startswith("{"):
            kept.append(text)
    return (*kept, *(f"{group}={option}" for group, option in picked.items()))


def _over(values: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values with changes on top, section by section; a half-life replaces a schedule."""
    merged = dict(values)
    for key, new in changes.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(new, dict) and "half_life" not in new:
            new = _over(old, new)
        merged[key] = new
    return merged


def _load(
    loaded: Loaded[Recipe], values: dict[str, Any], where: str, asked: Mapping[str, Any]
) -> Recipe:
    adopted = Adopted(values=values, origin=where, over_all=True)
    try:
        return load_recipe(str(loaded.path), loaded.overrides, Recipe, adopted).settings
    except UsageError as error:
        told = ", ".join(f"{key} = {json.dumps(value)}" for key, value in asked.items())
        raise UsageError(f"{where} has {told}: {error}" if told else str(error)) from error


def _samples_per_step(loaded: Loaded[Recipe], options: Options, recipe: Recipe) -> float:
    pretrain = recipe.pretrain
    if pretrain is None or pretrain.batch_size is not None:
        return float(pretrain.batch_size or 0) if pretrain else 0.0
    name, data = recipe.data_set("pretrain")
    folder = shards_folder(replace(loaded, settings=recipe), options, name, data) / "train"
    if not (folder / "index.json").exists():
        raise UsageError(
            "objective.tau has a half_life, and batches are measured by length: how many samples "
            "an update takes is unknown before the data is prepared",
            remedy=f"Run d2v prepare {loaded.path} first, or give a constant tau_e.",
        )
    unit = build_modality(recipe.modality).length_unit
    lengths = Shards.open(folder).lengths
    return figures_of(pretrain, lengths, unit, world_size=1).samples_per_step


def narrowed(recipe: Recipe, stages: tuple[str, ...], score: Score) -> Recipe:
    """The recipe of a cell's own runs: what the score does not need is left out."""
    update: dict[str, Any] = {"ablate": None, "suite": None}
    if score.stage == "probe":
        update["finetune"] = None
    elif recipe.finetune is not None:
        init, subset = cell_of(score.parts, recipe.finetune)
        one: dict[str, Any] = {"init": (init,), "subset": (subset,), "seeds": None}
        update["finetune"] = recipe.finetune.model_copy(update=one)
        update["probe"] = None
    if "pretrain" not in stages and score.stage == "finetune":
        update["pretrain"] = None
    return recipe.model_copy(update=update)
