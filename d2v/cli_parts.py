"""What the commands of the command line share: recipe, options, processes, report."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from d2v.errors import UsageError
from d2v.parameters import without_nproc
from d2v.terminal import show

if TYPE_CHECKING:
    from d2v.architecture import StartSetting
    from d2v.commands.options import Options
    from d2v.config import Loaded
    from d2v.recipe import Recipe
    from d2v.report import Report


def load(
    recipe: str,
    overrides: list[str] | None,
    print_config: bool,
    start: Path | None = None,
    setting: "StartSetting" = "finetune.checkpoint",
) -> "Loaded[Recipe]":
    """The recipe with its overrides; printed instead where `print_config` asks for it.

    `start` is the run that `setting` is to name; its architecture is taken over.
    """
    from d2v.config import as_yaml, find_recipe, load_recipe

    find_recipe(recipe)  # a misspelt name is answered before torch is loaded
    from d2v.recipe import Recipe

    adopted = None
    if start is not None:
        from d2v.architecture import architecture_of

        adopted = architecture_of(start, setting)
    loaded = load_recipe(recipe, overrides or [], Recipe, adopted)
    if print_config:
        typer.echo(as_yaml(loaded, with_origins=True), nl=False)
        raise typer.Exit
    return loaded


def options_of(
    out: Path,
    dry_run: bool,
    fresh: bool,
    quiet: bool,
    verbose: bool,
    *,
    check: bool = False,
    nproc: int = 1,
    stages: tuple[str, ...] = (),
    jobs: int | None = None,
    slurm: bool = False,
) -> "Options":
    """What the command line asks beside the recipe. Raises UsageError."""
    from d2v.commands.options import Options

    return Options(
        out=out,
        dry_run=dry_run,
        fresh=fresh,
        verbosity=verbosity_of(quiet, verbose),
        check=check,
        nproc=nproc,
        stages=stages,
        jobs=jobs,
        slurm=slurm,
    )


def verbosity_of(quiet: bool, verbose: bool) -> int:
    """-1 quiet, 0 normal, 1 verbose. Raises UsageError where both are asked for."""
    if quiet and verbose:
        raise UsageError("--quiet and --verbose exclude each other", remedy="Drop one of them")
    return verbose - quiet


def launch_all(options: "Options") -> None:
    """Start the same command once for each process, unless this is already one of them."""
    if options.nproc == 1 or options.dry_run or "RANK" in os.environ:
        return
    from d2v.engine.launch import launch

    raise typer.Exit(launch(without_nproc(sys.argv[1:]), options.nproc))


def show_once(report: "Report") -> None:
    """Print a report, in the first of several processes."""
    if os.environ.get("RANK", "0") == "0":  # every process has the report, one prints it
        show(report)
