"""What commands share on the command line: arguments and options with their help."""

from pathlib import Path
from typing import Annotated

import typer

from d2v.errors import UsageError

STAGES = ("prepare", "pretrain", "probe", "finetune")
"""In the order in which a run does them."""


def examples(*lines: str) -> str:
    """A command's last words of help."""
    return "\n\n".join(("[b]Examples[/b]", *lines))  # rich makes a paragraph of each


def chosen_stages(stages: str) -> tuple[str, ...]:
    """The stages named in `--stages A,B`, in pipeline order; none for all."""
    names = {name.strip() for name in stages.split(",")} - {""}
    if unknown := sorted(names - set(STAGES)):
        raise UsageError(f"--stages {','.join(unknown)}: no such stage", expected=", ".join(STAGES))
    return tuple(stage for stage in STAGES if stage in names)


def without_nproc(arguments: list[str]) -> list[str]:
    """The arguments for one of the N processes, which must not start N again."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if not skip and argument != "--nproc" and not argument.startswith("--nproc="):
            kept.append(argument)
        skip = argument == "--nproc" and not skip
    return kept


def _complete_recipe(incomplete: str) -> list[tuple[str, str]]:
    from d2v.config import shipped_recipes

    names = [(shipped.name, shipped.purpose) for shipped in shipped_recipes()]
    files = [(str(path), "") for path in Path().glob(f"{incomplete}*.yaml")] if incomplete else []
    return [entry for entry in names + files if entry[0].startswith(incomplete)]


RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="Path of a .yaml file, or the name of a shipped recipe.",
        autocompletion=_complete_recipe,
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Settings to change, e.g. objective.top_k=6; GROUP=OPTION picks a file of conf/.",
        show_default=False,
    ),
]
From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="RUN",
        help="Go on with the encoder of this run or checkpoint; its architecture is taken over.",
    ),
]
Out = Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the run directories go.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, print the plan, touch nothing.")
]
PrintConfig = Annotated[
    bool,
    typer.Option("--print-config", help="Print the settings and where each came from, then stop."),
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Start over; without it the command continues.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings and the result only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show details and tracebacks.")]
Nproc = Annotated[
    int, typer.Option("--nproc", min=1, metavar="N", help="Train with N processes on this machine.")
]
Check = Annotated[
    bool, typer.Option("--check", help="Verify the existing shards against their hashes.")
]
Stages = Annotated[
    str,
    typer.Option("--stages", metavar="A,B", help=f"Only these of {', '.join(STAGES)}."),
]
