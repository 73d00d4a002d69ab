"""The baseline that has labels: the same encoder, trained from scratch for equal steps."""

from __future__ import annotations

from pathlib import Path

import torch

from d2v.build import (
    FrozenEncoder,
    choose_attention,
    frozen,
    identity,
    resolve_device,
    resolve_precision,
)
from d2v.commands.options import Options
from d2v.commands.plan import horizon_of
from d2v.commands.stage import need, share_cores, spare_workers
from d2v.config import Loaded
from d2v.core.encoder import Encoder
from d2v.core.seeding import generator_for
from d2v.data.loader import TrainLoader
from d2v.data.order import Share
from d2v.data.shards import Shards
from d2v.engine.distributed import World
from d2v.engine.job import BatchCut, Job
from d2v.engine.loop import train
from d2v.engine.signals import stop_requests
from d2v.modalities import build_modality
from d2v.recipe import PretrainSettings, Recipe
from d2v.tasks.classify import Classify


def train_supervised(
    loaded: Loaded[Recipe], options: Options, splits: dict[str, Shards], folder: Path
) -> FrozenEncoder:
    """Train with pre-training's batch, optimiser and number of updates on all labels of train.

    Continues from its own checkpoints in `folder`/supervised like any training.
    """
    recipe = loaded.settings
    settings: PretrainSettings = need(recipe, "pretrain", loaded)
    modality = build_modality(recipe.modality)
    cut = BatchCut.of(settings.batch_size, 1, settings.max_batch_per_device)
    num_workers = spare_workers(recipe)
    share_cores(num_workers)
    model = Classify(
        modality.build_frontend(recipe.encoder),
        Encoder(recipe.encoder),
        len(splits["train"].classes),
    )
    model.initialise(generator_for("supervised", recipe.seed))
    place = folder / "supervised"
    place.mkdir(exist_ok=True)
    world = World(device=torch.device(resolve_device(recipe)))  # alone, whatever came before
    precision = resolve_precision(settings.precision, recipe.encoder, world.device.type)
    choose_attention(model.encoder, world.device.type, precision)
    with stop_requests() as stop:
        loader = TrainLoader(
            splits["train"],
            modality,
            Share(micro=cut.micro, accumulation=cut.accumulation),
            seed=recipe.seed,
            num_workers=num_workers,
            max_bad_fraction=recipe.data.max_bad_fraction,
            pin=world.device.type == "cuda",
        )
        job = Job(
            stage="train with labels",
            objective=model,
            data=loader,
            cut=cut,
            settings=settings,
            horizon=horizon_of(settings, len(splits["train"])),
            seed=recipe.seed,
            folder=place,
            world=world,
            precision=precision,
            identity=identity(recipe),
            verbosity=options.verbosity,
        )
        train(job, stop)
    return frozen(model.frontend, model.encoder, recipe, "trained with labels")
