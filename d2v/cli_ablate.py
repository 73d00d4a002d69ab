"""The command line's part for `d2v ablate`."""

from pathlib import Path
from typing import Annotated

import typer

from d2v.cli_parts import load, options_of, show_once
from d2v.parameters import (
    DryRun,
    Fresh,
    Out,
    Overrides,
    PrintConfig,
    Quiet,
    RecipeName,
    Verbose,
)
from d2v.terminal import explained_errors

Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        min=1,
        metavar="N",
        help="Train N at once, sharing cores and GPUs (with --slurm: N in the queue).",
        show_default=False,
    ),
]
Slurm = Annotated[
    bool, typer.Option("--slurm", help="Hand each training to Slurm, as ablate.slurm says.")
]


def ablate(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Out = Path("runs"),
    jobs: Jobs = None,
    slurm: Slurm = False,
    dry_run: DryRun = False,
    print_config: PrintConfig = False,
    fresh: Fresh = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Vary settings, train and score each value with several seeds, and say which mattered."""
    with explained_errors(verbose):
        loaded = load(recipe, overrides, print_config)
        options = options_of(out, dry_run, fresh, quiet, verbose, jobs=jobs, slurm=slurm)
        from d2v.commands import ablate as command

        show_once(command.run(loaded, options, tell=show_once))
