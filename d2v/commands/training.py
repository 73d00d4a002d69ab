"""One training, put together from a recipe: cut, data, length, objective, precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from d2v.build import identity, identity_defaults
from d2v.commands.batches import batch_cut, batch_plan, check_max_length
from d2v.commands.plan import horizon_of
from d2v.commands.stage import share_cores, spare_workers
from d2v.core.schedules import Horizon
from d2v.data.loader import TrainLoader, read_split
from d2v.data.order import Share
from d2v.data.reading import ManyMasks, Reader
from d2v.data.shards import Shards
from d2v.data2vec2 import Data2Vec2Settings
from d2v.engine.distributed import World
from d2v.engine.job import Job, TrainSettings
from d2v.hardware import resolve_precision
from d2v.modalities import build_modality
from d2v.recipe import Recipe
from d2v.types import Batch, Objective

_CALIBRATION_SAMPLES = 1000
"""Enough for means and deviations; read once, at the start of a run."""
_CALIBRATION_BATCH = 16

BuildObjective = Callable[[Horizon, str], Objective]
"""From the length of the run and the precision that it computes in."""


def training_job(
    recipe: Recipe,
    settings: TrainSettings,
    shards: Shards,
    world: World,
    *,
    stage: str,
    folder: Path,
    objective: BuildObjective,
    verbosity: int,
    reader: Reader | None = None,
) -> Job:
    """Everything about a training but its scores; its cores are shared out here.

    Args:
        recipe: seed, modality, encoder and data of the run.
        settings: length, batch and optimiser.
        shards: what it reads.
        world: this process among all.
        stage: name shown to the person.
        folder: where checkpoints, metrics and unusable samples go.
        objective: builds what is trained.
        verbosity: -1 quiet, 0 normal, 1 verbose.
        reader: reads the samples in the modality's place, None for the modality itself.
    """
    modality = build_modality(recipe.modality)
    check_max_length(settings, modality, recipe.encoder)
    unit = modality.length_unit
    plan = batch_plan(settings, shards.lengths, unit, seed=recipe.seed)
    cut = batch_cut(settings, plan, unit, world_size=world.size)
    horizon = horizon_of(settings, plan.steps_per_epoch)
    num_workers = spare_workers(recipe)
    share_cores(num_workers)
    precision = resolve_precision(settings.precision, recipe.encoder, world.device.type)
    return Job(
        stage=stage,
        objective=objective(horizon, precision),
        data=TrainLoader(
            shards,
            reader or modality,
            plan,
            Share(accumulation=cut.accumulation, rank=world.rank, world_size=world.size),
            seed=recipe.seed,
            num_workers=num_workers,
            max_bad_fraction=recipe.data.max_bad_fraction,
            on_problem=problem_writer(folder, world),
            pin=world.device.type == "cuda",
        ),
        cut=cut,
        settings=settings,
        horizon=horizon,
        seed=recipe.seed,
        folder=folder,
        world=world,
        precision=precision,
        identity=identity(recipe),
        identity_defaults=identity_defaults(recipe),
        about=dict(shards.about),
        verbosity=verbosity,
    )


def pretrain_reader(recipe: Recipe) -> Reader:
    """The modality, masking as often as the objective wants."""
    modality = build_modality(recipe.modality)
    if isinstance(recipe.objective, Data2Vec2Settings):
        return ManyMasks(modality, recipe.objective.masks_per_sample)
    return modality


def calibration_batches(recipe: Recipe, shards: Shards) -> Iterator[Batch]:
    """Evenly spaced training samples without random changes, for `Frontend.calibrate`.

    Nothing is read until the first batch is asked for. Every process reads the same.
    """
    return read_split(
        shards,
        build_modality(recipe.modality),
        batch_size=_CALIBRATION_BATCH,
        limit=_CALIBRATION_SAMPLES,
    )


def problem_writer(folder: Path, world: World) -> Callable[[str], None]:
    """Unusable samples go to bad_samples.txt, a file a process."""
    path = folder / ("bad_samples.txt" if world.rank == 0 else f"bad_samples.{world.rank}.txt")
    told = set(path.read_text(encoding="utf-8").splitlines()) if path.exists() else set()

    def write(text: str) -> None:
        if text not in told:  # by an earlier start
            with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text + "\n")

    return write
