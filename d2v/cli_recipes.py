"""The command line's part for `d2v recipes`."""

from pathlib import Path
from typing import Annotated

import typer

from d2v.parameters import RecipeName, examples
from d2v.terminal import explained_errors, show

recipes_app = typer.Typer(no_args_is_help=False)


@recipes_app.callback(
    invoke_without_command=True,
    epilog=examples("d2v recipes", "d2v recipes copy vision/digits my.yaml"),
)
def recipes(context: typer.Context) -> None:
    """List the shipped recipes, or copy one to change it."""
    if context.invoked_subcommand is None:
        with explained_errors():
            from d2v.commands import recipes as command

            show(command.run())


@recipes_app.command()
def copy(
    name: RecipeName,
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="A folder, or a .yaml file.")],
) -> None:
    """Copy a recipe, renamed after the new file."""
    with explained_errors():
        from d2v.commands import recipes as command

        show(command.copy(name, dest))
