"""The command line's part for `d2v import`: it takes another library's model, not a recipe."""

from pathlib import Path
from typing import Annotated

import typer

from d2v.cli_parts import verbosity_of
from d2v.parameters import Quiet, Verbose
from d2v.terminal import explained_errors, show

Source = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE",
        help="A folder of Hugging Face's data2vec classes, a fairseq .pt, an official vision .pth, "
        "or a timm BEiT or ViT.",
        show_default=False,
    ),
]
Dest = Annotated[
    Path,
    typer.Argument(metavar="DEST", help="The run directory to write.", show_default=False),
]
NumHeads = Annotated[
    int | None,
    typer.Option(
        "--num-heads",
        min=1,
        metavar="N",
        help="Attention heads, where the source does not tell.",
        show_default=False,
    ),
]
TokenizerFile = Annotated[
    Path | None,
    typer.Option(
        "--tokenizer",
        metavar="FILE",
        help="The tokenizer.json of a text model, or the vocab.json of a recogniser, where the "
        "source has none.",
        show_default=False,
    ),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Replace an earlier import in DEST.")]


def import_model(
    source: Source,
    dest: Dest,
    num_heads: NumHeads = None,
    tokenizer: TokenizerFile = None,
    fresh: Fresh = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make a model of another library one of d2v's: to probe, fine-tune, pre-train, ask."""
    with explained_errors(verbose):
        verbosity = verbosity_of(quiet, verbose)
        from d2v.commands import import_ as command

        request = command.Request(
            source=source,
            dest=dest,
            num_heads=num_heads,
            tokenizer=tokenizer,
            fresh=fresh,
            verbosity=verbosity,
        )
        show(command.run(request))
