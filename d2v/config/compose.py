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
    values = _text_keys(OmegaConf.to_container(config, resolve=True))
    return Composed(values=values, sources=sources, recipe=recipe)


def _text_keys(value: Any) -> Any:
    """YAML allows `1: ...`; a setting's name is text."""
    if isinstance(value, dict):
        return {str(key): _text_keys(part) for key, part in value.items()}
    return [_text_keys(part) for part in value] if isinstance(value, list) else value


def _parse(text: str) -> Override:
    try:
        if not (override := OverridesParser.create().parse_override(text)).key_or_group:
            raise HydraException("no key")
    except HydraException as error:
        remedy = "Quote spaces, brackets and commas, for both the shell and d2v: 'key=\"a, b\"'"
        raise UsageError(f"{text!r} is not KEY=VALUE", remedy=remedy) from error
    key = override.key_or_group
    if key.split(".")[0].split("/")[0] == "hydra":
        raise UsageError(f"{text} sets Hydra itself", expected="a setting of the recipe")
    if override.is_sweep_override():
        raise UsageError(
            f"{text} gives {key} several values",
            expected="one value",
            remedy=f"A list is {key}=[a,b], text with a comma is '{key}=\"a,b\"'; to compare "
            "several values use d2v ablate",
        )
    return override


def _sorted_request(path: Path, parsed: list[Override]) -> _Request:
    """Leave choices and deletions to Hydra, and values for afterwards.

    Those are set without asking whether the key exists: keys with a default in the code need no
    `+`, and the schema finds the wrong ones.
    """
    request = _Request()
    chosen: dict[str, Any] = {}
    for override in parsed:
        text = (override.input_line or "").lstrip("+")
        options = _options(path.parent, override.key_or_group)
        if override.is_delete():
            request.choices.append(text)
        elif isinstance(override.value(), str | list) and options:
            _check_option(override, options)
            chosen = chosen or _chosen_groups(path)
            present = override.get_key_element().lstrip("+") in chosen
            request.choices.append(text if present else f"+{text}")
        else:
            request.values.append(override)
    return request


def _roots(folder: Path) -> list[Path]:
    """Where Hydra looks for a file, in this order."""
    return [folder, packaged_folder("conf"), packaged_folder("recipes")]


def _options(folder: Path, group: str) -> list[str]:
    return sorted({file.stem for root in _roots(folder) for file in root.glob(f"{group}/*.yaml")})


def _check_option(override: Override, options: list[str]) -> None:
    value = override.value()
    for option in value if isinstance(value, list) else [value]:
        if option not in options:
            near = difflib.get_close_matches(str(option), options, n=1)
            raise UsageError(
                f"{override.key_or_group} has no option {option}",
                expected=", ".join(options),
                remedy=f"Did you mean {override.key_or_group}={near[0]}?" if near else "",
            )


def _search_path() -> str:
    folders = (packaged_folder("conf"), packaged_folder("recipes"))
    escaped = (str(folder).replace("\\", "\\\\").replace("'", "\\'") for folder in folders)
    return "hydra.searchpath=[" + ",".join(f"'file://{text}'" for text in escaped) + "]"


def _chosen_groups(path: Path) -> dict[str, Any]:
    """Groups that the recipe picks by itself, and what it picks."""
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    loader = hydra.config_loader
    defaults = loader.compute_defaults_list(path.stem, [_search_path()], RunMode.RUN)
    return dict(defaults.overrides.known_choices)


def _sources(path: Path, overrides: list[str], values: list[Override]) -> dict[str, str]:
    """Retrace Hydra's merge: the files in the order of its defaults list, then the command line."""
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    sources: dict[str, str] = {}
    listed = hydra.config_loader.compute_defaults_list(path.stem, overrides, RunMode.RUN).defaults
    for entry in listed:
        if entry.config_path is None or entry.config_path.startswith("hydra/"):
            continue
        file = _file_of(path.parent, entry.config_path)
        content = OmegaConf.load(file)
        assert isinstance(content, DictConfig)
        if "hydra" in content:
            raise UsageError(f"{spelled(file)} sets Hydra itself", expected="settings of d2v")
        package = "" if entry.package in (None, "_global_") else str(entry.package)
        plain = OmegaConf.to_container(content, resolve=False)
        assert isinstance(plain, dict)
        plain.pop("defaults", None)
        _note(sources, _leaves(plain, package), spelled(file))
    for override in values:
        _note(sources, _leaves(override.value(), override.key_or_group), COMMAND_LINE)
    return sources


def _file_of(folder: Path, config_path: str) -> Path:
    files = [root / f"{config_path}.yaml" for root in _roots(folder)]
    return next(file for file in files if file.is_file())


def _leaves(value: Any, key: str) -> Iterator[str]:
    """Dotted keys of everything that is not a section; empty sections set nothing."""
    if not isinstance(value, dict):
        yield key
        return
    for name, part in value.items():
        yield from _leaves(part, f"{key}.{name}" if key else str(name))


def _note(sources: dict[str, str], keys: Iterator[str], origin: str) -> None:
    for key in keys:
        for other in [other for other in sources if other.startswith(f"{key}.")]:
            del sources[other]  # a whole section was replaced by one value
        sources[key] = origin


def _without_search_path(message: str) -> str:
    head = message.partition("Config search path")[0].partition("Search path")[0]
    return " ".join(head.split())
