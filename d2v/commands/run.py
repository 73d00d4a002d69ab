"""`d2v run`: the stages that a recipe has, in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from d2v.commands import prepare, pretrain, probe
from d2v.commands.options import Options
from d2v.commands.stage import stage_folder
from d2v.config import Loaded
from d2v.engine.run_directory import stage_result
from d2v.errors import UsageError
from d2v.recipe import Recipe
from d2v.report import Report

_STAGES = {"prepare": prepare.run, "pretrain": pretrain.run, "probe": probe.run}


def run(
    loaded: Loaded[Recipe], options: Options, tell: Callable[[Report], None] = lambda report: None
) -> Report:
    """Do what is not done yet.

    Args:
        loaded: the recipe.
        options: `stages` limits the run to some stages.
        tell: called with the report of each stage but the last.

    Returns:
        The last stage's report.
    """
    recipe = loaded.settings
    there = [name for name in _STAGES if getattr(recipe, name) is not None]
    stages = [name for name in there if not options.stages or name in options.stages]
    if not stages:
        raise UsageError(
            f"{loaded.path} has none of the stages asked for ({', '.join(options.stages)})",
            expected=f"some of {', '.join(there) or 'prepare, pretrain, probe'}",
        )
    done_before = [name for name in stages if stage_result(stage_folder(loaded, options, name))]
    reports = []
    for name in stages:
        reports.append(_STAGES[name](loaded, options))
        if name != stages[-1]:
            tell(reports[-1])
    if done_before == stages and not options.fresh and not options.dry_run:
        return replace(
            reports[-1],
            headline=f"All stages of {loaded.name} ({', '.join(stages)}) are already finished; "
            "nothing was done (--fresh starts over).",
        )
    return reports[-1]
