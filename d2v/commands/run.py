"""`d2v run`: the stages that a recipe has, in order."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from d2v.commands import finetune, prepare, pretrain, probe
from d2v.commands.options import Options
from d2v.commands.stage import stage_folder
from d2v.config import Loaded
from d2v.engine.launch import launch
from d2v.engine.run_directory import stage_result
from d2v.errors import UsageError
from d2v.recipe import Recipe
from d2v.report import Report


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
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError(
            "d2v run was started in several processes",
            expected="one process: training alone is shared out",
            remedy="Use `d2v run --nproc N`, or `torchrun ... -m d2v pretrain RECIPE`.",
        )
    recipe = loaded.settings
    there = [name for name in _STAGES if getattr(recipe, name) is not None]
    if all(data.shards is not None for data in recipe.data_sets().values()):
        there = [name for name in there if name != "prepare"]  # it is prepared already
    stages = [name for name in there if not options.stages or name in options.stages]
    if not stages:
        raise UsageError(
            f"{loaded.path} has none of the stages asked for ({', '.join(options.stages)})",
            expected=f"some of {', '.join(there) or ', '.join(_STAGES)}",
        )
    done_before = [name for name in stages if stage_result(stage_folder(loaded, options, name))]
    reports = []
    for name in stages:
        if name in _SHARED_OUT and options.nproc > 1 and not options.dry_run:
            reports.append(_in_parallel(name, loaded, options))
        else:
            reports.append(_STAGES[name](loaded, options))
        if name != stages[-1] and (options.fresh or name not in done_before):
            tell(reports[-1])
        if name == "prepare" and not options.dry_run:  # not after hours of pre-training
            for later, check in _CHECKS.items():
                if later in stages:
                    check(loaded, options)
    if done_before == stages and not options.fresh and not options.dry_run:
        return replace(
            reports[-1],
            headline=f"All stages of {loaded.name} ({', '.join(stages)}) are already finished; "
            "nothing was done (--fresh starts over).",
        )
    return reports[-1]


def _in_parallel(stage: str, loaded: Loaded[Recipe], options: Options) -> Report:
    """A command that trains, in `nproc` processes; it shows its own report.

    Raises:
        SystemExit: with the code of the process that failed; it has told its error already.
    """
    flags = ["--fresh"] * options.fresh + ["-q"] * (options.verbosity < 0)
    flags += ["-v"] * (options.verbosity > 0)
    if loaded.start is not None and stage == "finetune":
        flags += ["--from", str(loaded.start)]
    recipe = [str(loaded.path), f"name={loaded.name}", *loaded.overrides]
    code = launch([stage, *recipe, "--out", str(options.out), *flags], options.nproc)
    if code:
        raise SystemExit(code)
    return Report(headline=f"{stage} in {options.nproc} processes is done.")


_STAGES = {
    "prepare": prepare.run,
    "pretrain": pretrain.run,
    "probe": probe.run,
    "finetune": finetune.run,
}
_SHARED_OUT = ("pretrain", "finetune")
"""Stages that train, and can be done by several processes."""
_CHECKS = {"probe": probe.check_data, "finetune": finetune.check_data}
"""Of the data of stages that come late."""
