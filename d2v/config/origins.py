"""Which file set which value of a composed recipe."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from d2v.config.shipped import packaged_folder
from d2v.errors import UsageError

COMMAND_LINE = "command line"


def spelled(path: Path) -> str:
    """A file as a person knows it: `conf/...`, `recipes/...`, else relative to where they are."""
    for name in ("conf", "recipes"):
        root = packaged_folder(name)
        if path.resolve().is_relative_to(root):
            return f"{name}/{path.resolve().relative_to(root).as_posix()}"
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def roots(folder: Path) -> list[Path]:
    """Where Hydra looks for a file, in this order."""
    return [folder, packaged_folder("conf"), packaged_folder("recipes")]


def sources_of(
    path: Path,
    overrides: list[str],
    values: list[Override],
    adopted: tuple[dict[str, Any], str] | None,
    *,
    adopted_last: bool = False,
) -> dict[str, str]:
    """Retrace Hydra's merge: the files in the order of its defaults list, then the command line.

    Args:
        path: of the recipe.
        overrides: what Hydra chose from.
        values: set after it.
        adopted: values from elsewhere, set in between, and who set them.
        adopted_last: they were set after the command line's.

    Returns:
        Dotted key -> the file as a person knows it, the other origin, or "command line".
    """
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
    late = [(_leaves(v.value(), v.key_or_group), COMMAND_LINE) for v in values]
    if adopted is not None:
        late.insert(len(late) if adopted_last else 0, (_leaves(adopted[0], ""), adopted[1]))
    for leaves, origin in late:
        _note(sources, leaves, origin)
    return sources


def _file_of(folder: Path, config_path: str) -> Path:
    files = [root / f"{config_path}.yaml" for root in roots(folder)]
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
