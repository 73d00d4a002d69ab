"""`d2v recipes`: list what is shipped, copy one."""

from pathlib import Path

from d2v.config import copy_recipe, shipped_recipes
from d2v.report import Report


def run() -> Report:
    """All shipped recipes with their purpose."""
    rows = [[recipe.name, recipe.purpose] for recipe in shipped_recipes()]
    return Report(
        headline=f"{len(rows)} recipe{'' if len(rows) == 1 else 's'}",
        columns=["name", "what it is for"],
        rows=rows,
        remarks=["Run one: d2v run NAME. Change one: d2v recipes copy NAME my.yaml"],
    )


def copy(name: str, dest: Path) -> Report:
    """Copy a recipe to a folder or a .yaml file, renamed after the new file."""
    target = copy_recipe(name, dest)
    return Report(headline=f"Copied {name} to {target}.", remarks=[f"Next: d2v run {target}"])
