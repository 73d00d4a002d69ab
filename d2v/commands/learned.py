"""What encoding must know of all the data: learnt here, or taken from the run that did."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from d2v.commands.stage import LEARNED
from d2v.data.results import FILES, SUMMARY
from d2v.data_sets import DataSet
from d2v.engine.run_directory import RunDirectory
from d2v.errors import D2VError, UsageError
from d2v.modalities import Modality
from d2v.recipe import Recipe
from d2v.samples import SourceItem

_INSIDE_A_RUN = ("checkpoints", "pretrain", "finetune", "model")
"""Folders of a run that a checkpoint may be named by."""


@contextmanager
def learned_files(
    stage: RunDirectory,
    modality: Modality,
    recipe: Recipe,
    listed: Callable[[DataSet], Iterable[SourceItem]],
) -> Iterator[Path]:
    """The folder of what encoding must know; it stays once something is stored.

    It is learnt from what pre-training reads. Where that was prepared elsewhere, it lies beside the
    splits there, among the files that the modality asked for. A recipe that only fine-tunes another
    run's encoder (`finetune.checkpoint`, no `pretrain` section) gets a copy of that run's, which
    counts before the settings: the encoder knows no other.

    Args:
        stage: of preparing.
        modality: as the recipe has it.
        recipe: the experiment.
        listed: the items of a set.

    Raises:
        UsageError: the other run has none, or it does not fit the settings.
    """
    first = next(iter(recipe.data_sets().values()), recipe.data)
    if first.shards is not None:
        yield first.shards
        return
    folder = stage.path / LEARNED
    try:
        if not stage.has_progress():  # left by a start whose settings bind nobody
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        start = _other_start(recipe)
        if start is not None:
            take_over(start, folder, modality)
        else:
            modality.learn(lambda: listed(first), folder)
        yield folder
    finally:
        if not stage.has_progress():
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # not empty: there is something to keep
            folder.rmdir()


def kept_learned(shards: Path, learned: Path, copy: Path) -> Path | None:
    """A folder with what encoding must know of all the data, for a model that is to stand alone.

    Args:
        shards: of a set; where it was prepared elsewhere, what was learned lies beside its splits.
        learned: where preparing this recipe would have put it.
        copy: folder to collect it in, if so.

    Returns:
        None where nothing was learned.
    """
    if learned.is_dir():
        return learned
    files = _listed_files(shards)
    if not files:
        return None
    copy.mkdir(exist_ok=True)
    for path in files:
        _copy(path, copy / path.name)
    return copy


def learned_folder(run: Path) -> Path | None:
    """Where what a run has learned lies, imported or its own; None where nothing was learned."""
    files = _files_of(run)
    return files[0].parent if files else None


def _listed_files(shards: Path) -> list[Path]:
    """What the modality asked for beside the splits; nothing where nobody tells."""
    with suppress(OSError, ValueError, AttributeError, TypeError):
        names = json.loads((shards / SUMMARY).read_bytes()).get(FILES, [])
        return [shards / name for name in names if (shards / name).is_file()]
    return []


def _other_start(recipe: Recipe) -> Path | None:
    """The run, or a part of one, that the encoder to fine-tune comes from."""
    if recipe.finetune is None or recipe.pretrain is not None:
        return None
    return recipe.finetune.checkpoint


def take_over(
    start: Path, folder: Path, modality: Modality, asked: str = "finetune.checkpoint is"
) -> None:
    """Copy what another run has learned, once, and let the modality check it.

    Args:
        start: the run, or a part of one.
        folder: to copy to.
        modality: to be built with it.
        asked: the words before `start`, for the message.

    Raises:
        UsageError: the modality needs something, and it is not there or does not fit.
    """

    def no_data() -> Iterable[SourceItem]:
        raise UsageError(
            f"{asked} {start}, and what preparing the data of that run has learned is not there",
            expected=f"{run_of(start) / 'prepare' / LEARNED}, as d2v prepare leaves it",
            remedy="Name the run directory, or set modality.tokenizer.path to the tokenizer.json "
            "that the encoder was trained with.",
        )

    if not any(folder.iterdir()):
        for path in _files_of(run_of(start)):
            _copy(path, folder / path.name)
    modality.learn(no_data, folder)


def run_of(start: Path) -> Path:
    """The run directory that a checkpoint lies in; the path itself where it is one."""
    run = start.expanduser()
    while run.name in _INSIDE_A_RUN or run.name.startswith("step-"):
        run = run.parent
    return run


def _files_of(run: Path) -> list[Path]:
    """What a run learned or was imported with, or what lies beside the shards it learned from."""
    imported = run / "tokenizer.json"
    if imported.is_file():
        return [imported]
    learned = run / "prepare" / LEARNED
    if learned.is_dir():
        return sorted(path for path in learned.iterdir() if path.is_file())
    for shards in _shards_of(run):
        if found := _listed_files(shards):
            return found
    return []


def _shards_of(run: Path) -> Iterator[Path]:
    """Folders of the set that a run pre-trained on, as far as anything tells."""
    with suppress(OSError, yaml.YAMLError, AttributeError, KeyError):  # never trained there
        data = yaml.safe_load((run / "pretrain" / "config.yaml").read_bytes())["data"]
        for section in (data.get("pretrain") or {}, data):
            if section.get("shards"):
                yield Path(section["shards"])
    yield from (run / "prepare" / "shards" / name for name in ("pretrain", "common"))


def _copy(path: Path, target: Path) -> None:
    """All of it or nothing."""
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        shutil.copyfile(path, temporary)
        temporary.replace(target)
    except OSError as error:
        raise D2VError(
            f"{path} cannot be copied to {target}: {error.strerror}",
            remedy="Make room and check permissions, then start again.",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
