"""Recipe + conf/ + overrides -> one plain dictionary, and where each value came from."""

import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from d2v.config.shipped import packaged_folder
from d2v.errors import UsageError

COMMAND_LINE = "command line"
DEFAULT = "default"


@dataclass(frozen=True, kw_only=True)
class Composed:
    """What a recipe says before its types are checked.

    Args:
        values: nested dictionaries, interpolations resolved.
        sources: dotted key -> the file that set it, or "command line".
        recipe: the recipe's file as `sources` spells it.
    """

    values: dict[str, Any]
    sources: dict[str, str]
    recipe: str

    def origin(self, key: str) -> str:
        """Who set a key. A value drawn in whole by `${other}` belongs to its nearest parent."""
        while key:
            if key in self.sources:
                return self.sources[key]
            key = key.rpartition(".")[0]
        return DEFAULT


@dataclass(frozen=True, kw_only=True)
class _Request:
    """The command line, sorted: what Hydra must choose, what is set afterwards."""

    choices: list[str] = field(default_factory=list)
    values: list[Override] = field(default_factory=list)


def compose(path: Path, overrides: Sequence[str]) -> Composed:
    """Compose a recipe.

    Args:
        path: an existing .yaml file.
        overrides: KEY=VALUE, GROUP=OPTION, ~KEY; a leading + or ++ changes nothing.

    Raises:
        UsageError: bad YAML, a missing group or option, a malformed override, a value left open.
    """
    parsed = [_parse(override) for override in overrides]
    recipe = spelled(path)
    try:
        # Leaving the block puts Hydra's global state back as it was, on errors too.
        with initialize_config_dir(str(path.parent), version_base="1.3", job_name="d2v"):
            return _compose(path, parsed, recipe)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{spelled(Path(mark.name))}, line {mark.line + 1}" if mark else recipe
        raise UsageError(f"{where} is not valid YAML: {error.problem}") from error
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if error.full_key else ""
        raise UsageError(f"{recipe}: {key}{str(error).splitlines()[0]}") from error
    except HydraException as error:
        raise UsageError(f"{recipe}: {_without_search_path(str(error))}") from error
    except (ValueError, TypeError, yaml.YAMLError) as error:
        remedy = "Expected KEY: VALUE lines, as in the recipes that `d2v recipes` lists"
        raise UsageError(f"{recipe} cannot be read: {error}", remedy=remedy) from error


def spelled(path: Path) -> str:
    """A file as a person knows it: `conf/...`, `recipes/...`, else relative to where they are."""
    for name in ("conf", "recipes"):
        root = packaged_folder(name)
        if path.resolve().is_relative_to(root):
            return f"{name}/{path.resolve().relative_to(root).as_posix()}"
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def as_value(value: Any) -> str:
    """One value as YAML on one line."""
    if isinstance(value, str | int | float | bool | None) and "${" not in str(value):
        line = OmegaConf.to_yaml({"_": value}).rstrip("\n")
        if "\n" not in line:  # long text is folded; JSON, which is YAML too, is not
            return line.removeprefix("_: ")
    return OmegaConf.to_yaml(value) if value is None else _json(value)


def _compose(path: Path, parsed: list[Override], recipe: str) -> Composed:
    request = _sorted_request(path, parsed)
    overrides = [_search_path(), *request.choices]
    config = hydra_compose(path.stem, overrides)
    OmegaConf.set_struct(config, False)  # a key may exist only as a default in the code
    for override in request.values:
        OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
    sources = _sources(path, overrides, request.values)
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise UsageError(
            f"{recipe} leaves {', '.join(missing)} open (???)",
            expected="a value for each",
            remedy=f"Set it in the recipe or on the command line: {missing[0]}=...",
        )
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return Composed(values={str(k): v for k, v in values.items()}, sources=sources, recipe=recipe)
