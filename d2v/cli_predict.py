"""The command line's part for `d2v predict`: it takes a model instead of a recipe."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from d2v.cli_parts import verbosity_of
from d2v.errors import UsageError
from d2v.parameters import Quiet, Verbose
from d2v.terminal import explained_errors, show

_STDIN = "-"


RunName = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="A run directory that was fine-tuned, or a model folder.",
        show_default=False,
    ),
]
Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...",
        help="Files, folders, or - for standard input. Of text, each line is one input; the two "
        "texts of a pair stand in one line with a tab between.",
        show_default=False,
    ),
]
Format = Annotated[
    Literal["table", "jsonl"] | None,
    typer.Option(
        "--format",
        help="A table, or JSON lines; without it a table on a terminal.",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", metavar="FILE", help="Write there instead of the screen.", show_default=False
    ),
]
Top = Annotated[
    int | None,
    typer.Option(
        "--top",
        min=1,
        metavar="N",
        help="Name the N likeliest classes; without it 5 in a table, all in JSON lines.",
        show_default=False,
    ),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, metavar="N", help="Inputs at once.")]
NoLanguageModel = Annotated[
    bool, typer.Option("--no-lm", help="Decode speech without the language model.")
]


def predict(
    run: RunName,
    inputs: Inputs,
    format: Format = None,
    output: Output = None,
    top: Top = None,
    batch_size: BatchSize = 16,
    no_lm: NoLanguageModel = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Apply a fine-tuned model to files, folders or standard input."""
    with explained_errors(verbose):
        verbosity = verbosity_of(quiet, verbose)
        on_terminal = output is None and sys.stdout.isatty()
        from d2v.commands import predict as command

        request = command.Request(
            run=run,
            inputs=given_inputs(inputs),
            format=format or ("table" if on_terminal else "jsonl"),
            top=top,
            batch_size=batch_size,
            with_readings=not no_lm,
            verbosity=verbosity,
        )
        with command.opened(output, sys.stdout) as file:
            outcome = command.run(request, file)
            if outcome.report is not None:
                show(outcome.report, file)
        outcome.raise_if_bad()


def given_inputs(inputs: list[str]) -> tuple[Path | bytes, ...]:
    """Paths, and the bytes of standard input where `-` stands for it.

    Raises:
        UsageError: it is asked for twice, or there is nothing in it.
    """
    if inputs.count(_STDIN) > 1:
        raise UsageError("- is named twice, and standard input can be read once")
    content = sys.stdin.buffer.read() if _STDIN in inputs else b""
    if _STDIN in inputs and not content:
        raise UsageError(
            "Standard input is empty", expected="a file or lines of text piped into the command"
        )
    return tuple(content if name == _STDIN else Path(name) for name in inputs)
