"""The recipes that come with d2v: where they lie, what they are called, how to copy one."""

import difflib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from d2v.errors import UsageError

_NEEDS_QUOTES = {"true", "false", "yes", "no", "on", "off", "null", "nan", "inf"}
"""Words that YAML would read as something other than text."""


@dataclass(frozen=True, kw_only=True)
class ShippedRecipe:
    """One entry of `d2v recipes`."""

    name: str
    """Folder and file without the ending, e.g. `vision/digits`."""
    purpose: str
    """The file's first comment line."""
    path: Path


def packaged_folder(name: str) -> Path:
    """Where `conf` or `recipes` lies: inside an installed package, beside it in a checkout.

    The inside is asked first: beside an installed package lie other people's packages, and one of
    them may be called `conf`.
    """
    package = Path(__file__).resolve().parents[1]
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def shipped_recipes() -> list[ShippedRecipe]:
    """All shipped recipes, sorted by name; files that start with `_` are parts, not recipes."""
    root = packaged_folder("recipes")
    found = [
        ShippedRecipe(name=shipped_name(path) or path.stem, purpose=_purpose(path), path=path)
        for path in root.rglob("*.yaml")
        if not path.name.startswith("_")
    ]
    return sorted(found, key=lambda shipped: shipped.name)


def shipped_name(path: Path) -> str | None:
    """`vision/digits` for a file of ours, None for a user's file."""
    root = packaged_folder("recipes")
    path = path.resolve()
    return path.relative_to(root).with_suffix("").as_posix() if path.is_relative_to(root) else None


def find_recipe(recipe: str) -> Path:
    """The file that a user means by a path or by a shipped recipe's name.

    Raises:
        UsageError: there is no such recipe, or the file cannot be one.
    """
    path = Path(os.path.abspath(recipe))  # not resolve(): a link's own name names the run
    if path.is_file():
        return _readable(path, recipe)
    recipes = shipped_recipes()
    for shipped in recipes:
        if shipped.name == recipe:
            return shipped.path
    what = f"{recipe} is a folder" if path.is_dir() else f"There is no recipe {recipe}"
    names = [shipped.name for shipped in recipes]
    near = _near(recipe, names + _files_beside(path))
    guess = f"Did you mean {' or '.join(near)}? " if near else ""
    raise UsageError(
        what,
        expected="the path of a .yaml file, or the name of a shipped recipe",
        remedy=f"{guess}Shipped: {', '.join(names) or 'none'}",
    )


def copy_recipe(name: str, dest: Path) -> Path:
    """Copy a recipe to a folder or to a .yaml file, named after the new file.

    Raises:
        UsageError: no such recipe, or the file exists.
    """
    source = find_recipe(name)
    target = dest if dest.suffix in (".yaml", ".yml") else dest / source.name
    if target.suffix == ".yml":
        raise UsageError(f"{target} ends in .yml", expected="the ending .yaml")
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    group = (shipped_name(source) or "").rpartition("/")[0]
    lines = _absolute_defaults(lines, source.parent, group) if group else lines
    text = "".join(_renamed(line, target.stem) for line in lines)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        remedy = "Choose another name, or delete it first"
        raise UsageError(f"{target} exists already", remedy=remedy) from None
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror}") from error
    return target


def _readable(path: Path, recipe: str) -> Path:
    if path.suffix != ".yaml":
        raise UsageError(f"{recipe} is not a recipe", expected="a file that ends in .yaml")
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{recipe} is not text: byte {error.start} is no UTF-8", remedy="Save it as UTF-8"
        ) from error
    except OSError as error:
        raise UsageError(f"{recipe} cannot be read: {error.strerror}") from error
    return path


def _purpose(path: Path) -> str:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            return ""
        if line.startswith("#") and not re.match(r"#\s*@", line):  # "# @package" is for Hydra
            return line.lstrip("#").strip()
    return ""


def _files_beside(path: Path) -> list[str]:
    folder = path.parent
    return [os.path.relpath(file) for file in folder.glob("*.yaml")] if folder.is_dir() else []


def _near(wanted: str, names: list[str]) -> list[str]:
    """Names that look like the wanted one, or that end in it (`digits`, `digits.yaml`)."""
    stem = Path(wanted).stem.lower()
    same = [name for name in names if Path(name).stem.lower() == stem]
    return same or difflib.get_close_matches(wanted, names, n=3)


def _renamed(line: str, stem: str) -> str:
    """The line with the new name, where it is the recipe's own `name:` and no section's."""
    plain = re.fullmatch(r"[A-Za-z][\w.-]*", stem) and stem.lower() not in _NEEDS_QUOTES
    value = stem if plain else json.dumps(stem, ensure_ascii=False)
    pattern = r"""^name:\s*("[^"]*"|'[^']*'|[^#\n]*?)(?P<rest>\s*(\s#.*)?)$"""
    return re.sub(pattern, lambda match: f"name: {value}{match['rest']}", line)


def _absolute_defaults(lines: list[str], folder: Path, group: str) -> list[str]:
    """Point the entries of `defaults:` that name a file of the same folder to where it stays."""
    result, inside = [], False
    for line in lines:
        if line.strip() and not line.startswith((" ", "-", "#")):
            inside = line.startswith("defaults:")
        result.append(_absolute_entry(line, folder, group) if inside else line)
    return result


def _absolute_entry(line: str, folder: Path, group: str) -> str:
    entry = re.match(r"(\s*- )([\w.-][\w./-]*)(: *([\w./-]+))?(\s*(#.*)?\n?)$", line)
    if entry is None:
        return line
    start, key, choice, option, rest = entry.group(1, 2, 3, 4, 5)
    path = f"{key}/{option}" if option else key
    if not (folder / f"{path}.yaml").is_file():
        return line
    package = key.replace("/", ".") if option else "_global_"  # else Hydra nests it under the group
    return f"{start}/{group}/{key}@{package}{choice or ''}{rest}"
