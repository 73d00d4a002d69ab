"""The command line's part for `d2v embed`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from d2v.cli_parts import verbosity_of
from d2v.cli_predict import BatchSize, given_inputs
from d2v.errors import UsageError
from d2v.parameters import Fresh, Quiet, Verbose
from d2v.terminal import explained_errors, show

RunName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE|RUN",
        help="A run directory, a checkpoint, an imported model, the folder of a fine-tuned one; or "
        "a recipe that was trained.",
        show_default=False,
    ),
]
Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...",
        help="Files, folders, or - for standard input (of text, each line is one input); or "
        "prepared shards.",
        show_default=False,
    ),
]
OutFile = Annotated[
    Path,
    typer.Option(
        "--out",
        metavar="FILE",
        help="Ends in .npy, .parquet, .tar (one WebDataset shard), or in nothing: a folder of "
        "shards.",
        show_default=False,
    ),
]
PoolName = Annotated[
    Literal["mean", "cls", "mean_cls", "tokens"] | None,
    typer.Option(
        "--pool",
        help="How tokens become one vector; without it as the recipe's probe does, else mean.",
        show_default=False,
    ),
]
PerToken = Annotated[
    bool, typer.Option("--per-token", help="A vector for every token that holds data.")
]
Block = Annotated[
    int | None,
    typer.Option(
        "--block",
        min=1,
        metavar="N",
        help="Of which block; without it as the recipe's probe does, else the encoder's output.",
        show_default=False,
    ),
]
NetworkName = Annotated[
    Literal["student", "teacher"] | None,
    typer.Option(
        "--network",
        help="Whose features; without it as the recipe's probe does, else the student's.",
        show_default=False,
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        "--split", metavar="NAME", help="Of prepared shards; without it all.", show_default=False
    ),
]
Runs = Annotated[
    Path,
    typer.Option("--runs", metavar="FOLDER", help="Where the run directories lie, for a recipe."),
]


def embed(
    run: RunName,
    inputs: Inputs,
    out: OutFile,
    pool: PoolName = None,
    per_token: PerToken = False,
    block: Block = None,
    network: NetworkName = None,
    split: Split = None,
    batch_size: BatchSize = 64,
    runs: Runs = Path("runs"),
    fresh: Fresh = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write features of files, folders or shards to a file."""
    with explained_errors(verbose):
        verbosity = verbosity_of(quiet, verbose)
        if per_token and pool is not None:
            raise UsageError("--per-token and --pool exclude each other", remedy="Drop one of them")
        given = given_inputs(inputs)
        from d2v.commands import embed as command

        request = command.Request(
            run=run,
            inputs=given,
            out=out,
            pool=pool,
            per_token=per_token,
            block=block,
            network=network,
            split=split,
            batch_size=batch_size,
            runs=runs,
            fresh=fresh,
            verbosity=verbosity,
        )
        outcome = command.run(request)
        show(outcome.report)
        outcome.raise_if_bad()
