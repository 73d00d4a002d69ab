"""Recipe + conf/ + overrides -> one plain dictionary, and where each value came from."""

import difflib
from collections.abc import Sequence
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
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from d2v.config.adopted import Adopted, adopt, check_same, fitting
from d2v.config.origins import roots, sources_of, spelled
from d2v.config.shipped import packaged_folder
from d2v.errors import UsageError

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


def compose(path: Path, overrides: Sequence[str], adopted: Adopted | None = None) -> Composed:
    """Compose a recipe.

    Args:
        path: an existing .yaml file.
        overrides: KEY=VALUE, GROUP=OPTION, ~KEY; a leading + or ++ changes nothing.
        adopted: settings from elsewhere.

    Raises:
        UsageError: bad YAML, a missing group or option, a malformed override, a value left open.
    """
    parsed = [_parse(override) for override in overrides]
    recipe = spelled(path)
    try:
        # Leaving the block puts Hydra's global state back as it was, on errors too.
        with initialize_config_dir(str(path.parent), version_base="1.3", job_name="d2v"):
            return _compose(path, parsed, recipe, adopted)
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


def _compose(path: Path, parsed: list[Override], recipe: str, adopted: Adopted | None) -> Composed:
    request = _sorted_request(path, parsed)
    overrides = [_search_path(), *request.choices]
    config = hydra_compose(path.stem, overrides)
    OmegaConf.set_struct(config, False)  # a key may exist only as a default in the code
    adopted = fitting(config, adopted)
    if adopted is not None and not adopted.over_all:
        check_same(config, adopted, recipe)
        adopt(config, adopted.values)
    for override in request.values:
        OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
    if adopted is not None and adopted.over_all:
        adopt(config, adopted.values)
    sources = sources_of(
        path,
        overrides,
        request.values,
        None if adopted is None else (adopted.values, adopted.origin),
        adopted_last=adopted is not None and adopted.over_all,
    )
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


def _options(folder: Path, group: str) -> list[str]:
    return sorted({file.stem for root in roots(folder) for file in root.glob(f"{group}/*.yaml")})


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


def _without_search_path(message: str) -> str:
    head = message.partition("Config search path")[0].partition("Search path")[0]
    return " ".join(head.split())
