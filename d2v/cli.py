"""The command line: signatures and help. A command is imported when it is called."""

from pathlib import Path
from typing import Annotated

import typer

from d2v import __version__
from d2v.cli_ablate import ablate
from d2v.cli_embed import embed
from d2v.cli_export import export
from d2v.cli_import import import_model
from d2v.cli_parts import launch_all, load, options_of, show_once
from d2v.cli_predict import predict
from d2v.cli_recipes import recipes_app
from d2v.parameters import (
    Check,
    DryRun,
    Fresh,
    From,
    Nproc,
    Out,
    Overrides,
    PrintConfig,
    Quiet,
    RecipeName,
    Stages,
    Verbose,
    chosen_stages,
    examples,
)
from d2v.terminal import explained_errors

app = typer.Typer(
    help="Self-supervised learning with data2vec: images, speech and text, one recipe each.",
    epilog="Start with [b]d2v recipes[/b], then [b]d2v run vision/digits[/b].",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"d2v {__version__}")
        raise typer.Exit


@app.callback()
def d2v(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    """Options that need no command."""


@app.command(
    epilog=examples("d2v prepare vision/digits", "d2v prepare my.yaml data.source=photos --check")
)
def prepare(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Out = Path("runs"),
    start: From = None,
    check: Check = False,
    dry_run: DryRun = False,
    print_config: PrintConfig = False,
    fresh: Fresh = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Turn raw data into shards."""
    with explained_errors(verbose):
        loaded = load(recipe, overrides, print_config, start)
        options = options_of(out, dry_run, fresh, quiet, verbose, check=check)
        from d2v.commands import prepare as command

        show_once(command.run(loaded, options))


@app.command(
    epilog=examples(
        "d2v pretrain vision/digits", "d2v pretrain my.yaml objective.top_k=6 --nproc 2"
    )
)
def pretrain(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Out = Path("runs"),
    start: From = None,
    nproc: Nproc = 1,
    dry_run: DryRun = False,
    print_config: PrintConfig = False,
    fresh: Fresh = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a student to predict its own moving average."""
    with explained_errors(verbose):
        loaded = load(recipe, overrides, print_config, start, "pretrain.init_from")
        options = options_of(out, dry_run, fresh, quiet, verbose, nproc=nproc)
        launch_all(options)
        from d2v.commands import pretrain as command

        show_once(command.run(loaded, options))


@app.command(epilog=examples("d2v probe vision/digits", "d2v probe my.yaml --from runs/imported"))
def probe(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Out = Path("runs"),
    start: From = None,
    dry_run: DryRun = False,
    print_config: PrintConfig = False,
    fresh: Fresh = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure what the frozen encoder learned: linear and kNN scores."""
    with explained_errors(verbose):
        loaded = load(recipe, overrides, print_config, start, "pretrain.checkpoint")
        options = options_of(out, dry_run, fresh, quiet, verbose)
        from d2v.commands import probe as command

        show_once(command.run(loaded, options))


@app.command(
    epilog=examples(
        "d2v finetune vision/digits",
        "d2v finetune text/glue/cola data.finetune.source=CoLA --from runs/text/books-wiki-base",
        "d2v finetune text/glue suite.source=GLUE --from runs/text/books-wiki-base",
        "d2v finetune my.yaml 'finetune.init=[pretrained,scratch]' 'finetune.seeds=[0,1,2]'",
    )
)
def finetune(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Out = Path("runs"),
    start: From = None,
    nproc: Nproc = 1,
    dry_run: DryRun = False,
    print_config: PrintConfig = False,
    fresh: Fresh = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a pre-trained encoder on labels, and score it."""
    with explained_errors(verbose):
        options = options_of(out, dry_run, fresh, quiet, verbose, nproc=nproc)
        loaded = load(recipe, overrides, print_config, start)
        if loaded.settings.suite is not None:
            from d2v.commands import suite

            show_once(suite.run(loaded, options, tell=show_once))
            return
        launch_all(options)
        from d2v.commands import finetune as command

        show_once(command.run(loaded, options))


app.command(
    "import",
    epilog=examples(
        "d2v import data2vec-vision-base runs/vision-base",
        "d2v import audio_base_ls.pt runs/audio-base",
    ),
)(import_model)

app.command(
    epilog=examples(
        "d2v predict runs/vision/digits photos/", "echo A fine film. | d2v predict runs/text/sst2 -"
    )
)(predict)

app.command(
    epilog=examples(
        "d2v embed runs/vision/digits photos/ --out features.npy",
        "d2v embed runs/spoken FSDD/ --out features.parquet --per-token --block 6",
        "d2v embed vision/digits runs/vision/digits/prepare/shards/common --out features",
    )
)(embed)

app.command(
    epilog=examples(
        "d2v export runs/vision/digits digits-hf --to hf --licence apache-2.0",
        "d2v export runs/vision/digits digits-timm --to timm --encoder --teacher",
    )
)(export)

app.command(
    epilog=examples(
        "d2v ablate vision/digits",
        "d2v ablate my.yaml 'ablate.axes.objective.beta=[0,1,2]' --jobs 2",
        "d2v ablate vision/imagenet-base data.source=FOLDER --slurm --dry-run",
    )
)(ablate)


@app.command(
    epilog=examples("d2v run vision/digits", "d2v run my.yaml --stages prepare,probe --dry-run")
)
def run(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Out = Path("runs"),
    start: From = None,
    stages: Stages = "",
    nproc: Nproc = 1,
    dry_run: DryRun = False,
    print_config: PrintConfig = False,
    fresh: Fresh = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Do all stages that the recipe has, in order; finished ones are skipped."""
    with explained_errors(verbose):
        chosen = chosen_stages(stages)
        loaded = load(recipe, overrides, print_config, start)
        options = options_of(out, dry_run, fresh, quiet, verbose, nproc=nproc, stages=chosen)
        from d2v.commands import run as command

        show_once(command.run(loaded, options, tell=show_once))


app.add_typer(recipes_app, name="recipes")


def main() -> None:
    """Entry point of `d2v` and `python -m d2v`."""
    app(prog_name="d2v")
