"""The data of an ablation: prepared once, and once more where a cell wants it otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from d2v.commands import prepare
from d2v.commands.ablate_cells import Cell, Sweep, deciding
from d2v.commands.options import Options
from d2v.commands.stage import shards_folder, stage_folder
from d2v.config import Loaded
from d2v.data.shards import Shards
from d2v.engine.run_directory import stage_result
from d2v.recipe import Recipe
from d2v.report import Report

Folders = dict[str, dict[str, Path]]
"""Cell's id -> data set -> folder of its shards."""


def prepared(
    sweep: Sweep, loaded: Loaded[Recipe], options: Options, tell: Callable[[Report], None]
) -> Folders:
    """Prepare what is not prepared; all seeds share it, so that they see the same splits.

    Args:
        sweep: the cells.
        loaded: the recipe; its own prepared data serve every cell that does not change them.
        options: where runs lie.
        tell: called with the report of what was prepared now.
    """
    done: dict[str, Loaded[Recipe]] = {}
    found: Folders = {}
    for cell in sweep.cells:
        sets = sorted(cell.settings.data_sets())
        key = json.dumps([cell.prepare, sets], sort_keys=True)
        if key not in done:
            done[key] = owner_of(cell, loaded)
            _prepare(done[key], replace(options, fresh=False, check=False), tell)
        owner = done[key]
        found[cell.id] = {
            name: shards_folder(owner, options, name, data)
            for name, data in cell.settings.data_sets().items()
        }
    return found


def fingerprints(folders: Folders) -> dict[str, str]:
    """What the cells read, so that nobody exchanges it in the middle."""
    return {
        str(name): Shards.open(folder / "train").fingerprint
        for name, folder in next(iter(folders.values())).items()
        if (folder / "train" / "index.json").exists()
    }


def owner_of(cell: Cell, loaded: Loaded[Recipe]) -> Loaded[Recipe]:
    """The run that a cell's data is prepared in: the recipe's own where it has all of it."""
    same = cell.prepare == deciding(loaded.settings, ("prepare",))
    if same and {*cell.settings.data_sets()} <= {*loaded.settings.data_sets()}:
        return loaded
    name = f"{loaded.name}/ablate/prepared/{cell.id}"
    settings = cell.settings.model_copy(update={"name": name})
    return replace(loaded, settings=settings, name=name)


def _prepare(owner: Loaded[Recipe], options: Options, tell: Callable[[Report], None]) -> None:
    sets = owner.settings.data_sets()
    if all(data.shards is not None for data in sets.values()):
        return
    done_before = stage_result(stage_folder(owner, options, "prepare")) is not None
    report = prepare.run(owner, options)
    if not done_before:
        tell(report)
