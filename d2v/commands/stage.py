"""What every stage does around its work: its folder, its settings, its second call."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from d2v.commands.deciding import deciding_settings, setting_defaults
from d2v.commands.options import Options
from d2v.config import Loaded, as_yaml
from d2v.data.shards import Shards
from d2v.data_sets import DataSet
from d2v.engine.checkpoint import Checkpoint
from d2v.engine.distributed import World, joined
from d2v.engine.run_directory import RunDirectory, opened, stage_result
from d2v.errors import UsageError
from d2v.hardware import resolve_device
from d2v.modalities import build_modality
from d2v.recipe import Recipe
from d2v.report import Report

_HASHED_BELOW_BYTES = 2 * 10**9
LEARNED = "learned"
"""Folder, beside the shards' own, of what encoding must know of all the data."""


def stage_folder(loaded: Loaded[Recipe], options: Options, stage: str) -> Path:
    """`<out>/<recipe name>/<stage>`."""
    return options.out / loaded.name / stage


@contextmanager
def working(
    loaded: Loaded[Recipe], options: Options, stage: str, inputs: Mapping[str, Any]
) -> Iterator[tuple[RunDirectory, Report | None]]:
    """Own the stage's folder, and say what a finished stage had to report.

    Yields:
        The folder, and the earlier report where there is nothing left to do.

    Raises:
        UsageError: the folder is in use, or was started with other settings or inputs.
    """
    settings = deciding_settings(loaded.settings, stage)
    folder = stage_folder(loaded, options, stage)
    with opened(folder, fresh=options.fresh) as run:
        run.check_same(settings, inputs, setting_defaults(loaded.settings, settings))
        result = run.result()
        if result is not None:
            yield run, finished_report(folder, result)
            return
        device, begun_before = resolve_device(loaded.settings), run.is_started()
        run.start(settings, inputs, as_yaml(loaded, with_origins=False), device)
        try:
            yield run, None
        except UsageError:
            # Unless something was begun, which these settings made, the next try may have others.
            if not begun_before and not run.has_progress():
                run.forget_start()
            raise


def finished_report(folder: Path, result: Mapping[str, Any]) -> Report:
    """The earlier report, saying that nothing was done now."""
    earlier = Report(**result["report"])
    return Report(
        headline=f"{folder} is already finished; nothing was done (--fresh starts over).",
        columns=earlier.columns,
        rows=earlier.rows,
        highlight=earlier.highlight,
        remarks=earlier.remarks,
    )


def need(recipe: Recipe, section: str, loaded: Loaded[Recipe]) -> Any:
    """A stage's section of the recipe.

    Raises:
        UsageError: the recipe has none, or is a suite.
    """
    if recipe.suite is not None:
        raise UsageError(
            f"{loaded.path} is a suite of recipes, not one experiment",
            remedy="Call d2v finetune with it, which prepares and fine-tunes each; or name one of "
            f"{', '.join(part.recipe for part in recipe.suite.parts.values())}.",
        )
    found = getattr(recipe, section)
    if found is None:
        raise UsageError(
            f"{loaded.path} has no {section} section",
            expected=f"a section `{section}:` with its settings",
            remedy="Copy one from a shipped recipe: d2v recipes copy vision/digits .",
        )
    return found


def shards_folder(loaded: Loaded[Recipe], options: Options, name: str, data: DataSet) -> Path:
    """Where a data set's splits lie."""
    if data.shards is not None:
        return data.shards
    return stage_folder(loaded, options, "prepare") / "shards" / name


def open_split(recipe: Recipe, folder: Path, split: str) -> Shards:
    """One split, checked as `data.verify` asks.

    Raises:
        UsageError: it is not there, damaged, of a newer format, or does not fit the modality.
    """
    verify = recipe.data.verify
    if verify == "auto":
        small = Shards.open(folder / split).num_bytes < _HASHED_BELOW_BYTES
        verify = "hash" if small else "size"
    shards = Shards.open(folder / split, verify=verify)
    build_modality(recipe.modality).check_data(shards.about)
    return shards


def open_splits(recipe: Recipe, folder: Path, need: str) -> dict[str, Shards]:
    """train, val and, where it is there, test of a set with labels.

    Args:
        recipe: the experiment.
        folder: of the set.
        need: what val is needed for, for the message.

    Raises:
        UsageError: one of them cannot be used, or there is no val.
    """
    if (folder / "train" / "index.json").exists() and not (folder / "val" / "index.json").exists():
        raise UsageError(
            f"{folder} has no val split, and {need}",
            expected="train/ and val/ with labels",
            remedy="Set prepare.val_fraction above 0 (and prepare.split_by=sample where there are "
            "too few groups to share out), or add val/ to the source; then run d2v prepare with "
            "--fresh.",
        )
    names = ["train", "val"] + ["test"] * (folder / "test" / "index.json").exists()
    return {name: open_split(recipe, folder, name) for name in names}


def pretrain_result(loaded: Loaded[Recipe], options: Options) -> dict[str, Any] | None:
    """What pre-training reported; None where it is not finished."""
    return stage_result(stage_folder(loaded, options, "pretrain"))


def about_weights(checkpoint: Checkpoint, loaded: Loaded[Recipe], options: Options) -> list[str]:
    """Which weights a stage began with; whether they are the end of the run's own pre-training."""
    remarks = [f"Pre-trained weights: {checkpoint.path}"]
    if checkpoint.path.is_relative_to(stage_folder(loaded, options, "pretrain")):
        finished = pretrain_result(loaded, options)
        if finished is None:
            remarks.append("Pre-training is not finished: these are scores of an earlier step.")
        elif finished["checkpoint_digest"] != checkpoint.digest:
            remarks.append(f"The last checkpoint ({finished['checkpoint']}) is missing or damaged.")
    return remarks


@contextmanager
def this_world(recipe: Recipe) -> Iterator[World]:
    """This process among those that torchrun or `--nproc` started; alone without them."""
    with joined(
        rank=int(os.environ.get("RANK", "0")),
        size=int(os.environ.get("WORLD_SIZE", "1")),
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        device=resolve_device(recipe),
    ) as world:
        yield world


def agree(world: World, *, finished: bool) -> bool:
    """Rank 0 tells the others whether there is anything to do."""
    flag = torch.tensor(float(finished), device=world.device)
    return bool(world.sum(flag) > 0)


def spare_workers(recipe: Recipe) -> int:
    """Reading processes: as set, or one for each core that this process does not need."""
    if recipe.data.workers is not None:
        return recipe.data.workers
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores = len(os.sched_getaffinity(0)) // processes
    return min(8, max(0, cores - 1))


def share_cores(num_workers: int) -> None:
    """Leave the readers their cores: more threads than cores slow each other down badly."""
    if "OMP_NUM_THREADS" not in os.environ:
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        cores = len(os.sched_getaffinity(0)) // processes
        torch.set_num_threads(max(1, cores - min(num_workers, cores // 2)))
