"""`d2v run`: the stages that a recipe has, in order."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from d2v.commands import prepare, pretrain, probe
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
            expected="one process: only pre-training is shared out",
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
            expected=f"some of {', '.join(there) or 'prepare, pretrain, probe'}",
        )
    done_before = [name for name in stages if stage_result(stage_folder(loaded, options, name))]
    reports = []
    for name in stages:
        parallel = name == "pretrain" and options.nproc > 1 and not options.dry_run
        stage = _pretrain_in_parallel if parallel else _STAGES[name]
        reports.append(stage(loaded, options))
        if name != stages[-1] and (options.fresh or name not in done_before):
            tell(reports[-1])
        if name == "prepare" and "probe" in stages and not options.dry_run:
            probe.check_data(loaded, options)  # not after hours of pre-training
    if done_before == stages and not options.fresh and not options.dry_run:
        return replace(
            reports[-1],
            headline=f"All stages of {loaded.name} ({', '.join(stages)}) are already finished; "
            "nothing was done (--fresh starts over).",
        )
    return reports[-1]


def _pretrain_in_parallel(loaded: Loaded[Recipe], options: Options) -> Report:
    """The pretrain command in `nproc` processes; it shows its own report.

    Raises:
        SystemExit: with the code of the process that failed; it has told its error already.
    """
    flags = ["--fresh"] * options.fresh + ["-q"] * (options.verbosity < 0)
    flags += ["-v"] * (options.verbosity > 0)
    recipe = [str(loaded.path), f"name={loaded.name}", *loaded.overrides]
    code = launch(["pretrain", *recipe, "--out", str(options.out), *flags], options.nproc)
    if code:
        raise SystemExit(code)
    return Report(headline=f"Pre-training in {options.nproc} processes is done.")


_STAGES = {"prepare": prepare.run, "pretrain": pretrain.run, "probe": probe.run}
