"""The command line's part for `d2v export`: it takes a run instead of a recipe."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from d2v.cli_parts import verbosity_of
from d2v.parameters import Quiet, Verbose
from d2v.terminal import explained_errors, show

RunName = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="A run directory, a model folder, or a checkpoint.",
        show_default=False,
    ),
]
Destination = Annotated[
    Path, typer.Argument(metavar="DEST", help="Folder to write.", show_default=False)
]
To = Annotated[
    Literal["hf", "timm", "onnx", "torch"],
    typer.Option(
        "--to",
        help="hf: a stock class of Hugging Face's transformers; timm: a stock model of timm; onnx: "
        "a program for onnxruntime; torch: a torch.export program.",
        show_default=False,
    ),
]
EncoderAlone = Annotated[
    bool, typer.Option("--encoder", help="The encoder, even where there is a fine-tuned model.")
]
Teacher = Annotated[
    bool,
    typer.Option("--teacher", help="The encoder with the teacher's weights, not the student's."),
]
Licence = Annotated[
    str | None,
    typer.Option(
        "--licence", metavar="ID", help="For the model card, e.g. apache-2.0.", show_default=False
    ),
]
Replace = Annotated[bool, typer.Option("--fresh", help="Replace an earlier export in DEST.")]


def export(
    run: RunName,
    dest: Destination,
    to: To,
    encoder: EncoderAlone = False,
    teacher: Teacher = False,
    licence: Licence = None,
    fresh: Replace = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write a model for another library, and check that it gives the same there."""
    with explained_errors(verbose):
        verbosity = verbosity_of(quiet, verbose)
        from d2v.commands import export as command

        request = command.Request(
            run=run, dest=dest, to=to, encoder=encoder or teacher, teacher=teacher,
            licence=licence, fresh=fresh, verbosity=verbosity,
        )  # fmt: skip
        show(command.run(request))
