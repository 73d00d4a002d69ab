"""The command line: signatures and help. A command is imported when it is called."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d2v import __version__
from d2v.cli_predict import predict
from d2v.errors import UsageError
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
    without_nproc,
)
from d2v.terminal import explained_errors, show

if TYPE_CHECKING:
    from d2v.commands.options import Options
    from d2v.config import Loaded
    from d2v.recipe import Recipe
    from d2v.report import Report

app = typer.Typer(
    help="Self-supervised learning with data2vec: images, speech and text, one recipe each.",
    epilog="Start with [b]d2v recipes[/b], then [b]d2v run vision/digits[/b].",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _examples(*lines: str) -> str:
    return "\n\n".join(("[b]Examples[/b]", *lines))  # rich makes a paragraph of each


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
    epilog=_examples("d2v prepare vision/digits", "d2v prepare my.yaml data.source=photos --check")
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
        loaded = _load(recipe, overrides, print_config, start)
        options = _options(out, dry_run, fresh, quiet, verbose, check=check)
        from d2v.commands import prepare as command

        _show(command.run(loaded, options))


@app.command(
    epilog=_examples(
        "d2v pretrain vision/digits", "d2v pretrain my.yaml objective.top_k=6 --nproc 2"
    )
)
def pretrain(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Out = Path("runs"),
    nproc: Nproc = 1,
    dry_run: DryRun = False,
    print_config: PrintConfig = False,
    fresh: Fresh = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a student to predict its own moving average."""
    with explained_errors(verbose):
        loaded = _load(recipe, overrides, print_config)
        options = _options(out, dry_run, fresh, quiet, verbose, nproc=nproc)
        _launch(options)
        from d2v.commands import pretrain as command

        _show(command.run(loaded, options))


@app.command(
    epilog=_examples("d2v probe vision/digits", "d2v probe my.yaml pretrain.checkpoint=PATH")
)
def probe(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Out = Path("runs"),
    dry_run: DryRun = False,
    print_config: PrintConfig = False,
    fresh: Fresh = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure what the frozen encoder learned: linear and kNN scores."""
    with explained_errors(verbose):
        loaded = _load(recipe, overrides, print_config)
        options = _options(out, dry_run, fresh, quiet, verbose)
        from d2v.commands import probe as command

        _show(command.run(loaded, options))


@app.command(
    epilog=_examples(
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
        options = _options(out, dry_run, fresh, quiet, verbose, nproc=nproc)
        loaded = _load(recipe, overrides, print_config, start)
        if loaded.settings.suite is not None:
            from d2v.commands import suite

            _show(suite.run(loaded, options, tell=_show))
            return
        _launch(options)
        from d2v.commands import finetune as command

        _show(command.run(loaded, options))


app.command(
    epilog=_examples(
        "d2v predict runs/vision/digits photos/", "echo A fine film. | d2v predict runs/text/sst2 -"
    )
)(predict)


@app.command(
    epilog=_examples("d2v run vision/digits", "d2v run my.yaml --stages prepare,probe --dry-run")
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
        loaded = _load(recipe, overrides, print_config, start)
        options = _options(out, dry_run, fresh, quiet, verbose, nproc=nproc, stages=chosen)
        from d2v.commands import run as command

        _show(command.run(loaded, options, tell=_show))


recipes_app = typer.Typer(no_args_is_help=False)
app.add_typer(recipes_app, name="recipes")


@recipes_app.callback(
    invoke_without_command=True,
    epilog=_examples("d2v recipes", "d2v recipes copy vision/digits my.yaml"),
)
def recipes(context: typer.Context) -> None:
    """List the shipped recipes, or copy one to change it."""
    if context.invoked_subcommand is None:
        with explained_errors():
            from d2v.commands import recipes as command

            _show(command.run())


@recipes_app.command()
def copy(
    name: RecipeName,
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="A folder, or a .yaml file.")],
) -> None:
    """Copy a recipe, renamed after the new file."""
    with explained_errors():
        from d2v.commands import recipes as command

        _show(command.copy(name, dest))


def main() -> None:
    """Entry point of `d2v` and `python -m d2v`."""
    app(prog_name="d2v")


def _load(
    recipe: str, overrides: list[str] | None, print_config: bool, start: Path | None = None
) -> "Loaded[Recipe]":
    from d2v.config import as_yaml, find_recipe, load_recipe

    find_recipe(recipe)  # a misspelt name is answered before torch is loaded
    from d2v.recipe import Recipe

    adopted = None
    if start is not None:
        from d2v.architecture import architecture_of

        adopted = architecture_of(start)
    loaded = load_recipe(recipe, overrides or [], Recipe, adopted)
    if print_config:
        typer.echo(as_yaml(loaded, with_origins=True), nl=False)
        raise typer.Exit
    return loaded


def _options(
    out: Path,
    dry_run: bool,
    fresh: bool,
    quiet: bool,
    verbose: bool,
    *,
    check: bool = False,
    nproc: int = 1,
    stages: tuple[str, ...] = (),
) -> "Options":
    from d2v.commands.options import Options

    if quiet and verbose:
        raise UsageError("--quiet and --verbose exclude each other", remedy="Drop one of them")
    return Options(
        out=out,
        dry_run=dry_run,
        fresh=fresh,
        verbosity=verbose - quiet,
        check=check,
        nproc=nproc,
        stages=stages,
    )


def _launch(options: "Options") -> None:
    """Start the same command once for each process, unless this is already one of them."""
    if options.nproc == 1 or options.dry_run or "RANK" in os.environ:
        return
    from d2v.engine.launch import launch

    raise typer.Exit(launch(without_nproc(sys.argv[1:]), options.nproc))


def _show(report: "Report") -> None:
    if os.environ.get("RANK", "0") == "0":  # every process has the report, one prints it
        show(report)
