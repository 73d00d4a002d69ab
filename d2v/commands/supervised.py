"""The baseline that has labels: the same encoder, trained from scratch for equal steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from d2v.build import FrozenEncoder, frozen
from d2v.commands.options import Options
from d2v.commands.stage import need
from d2v.commands.training import calibration_batches, training_job
from d2v.config import Loaded
from d2v.core.encoder import Encoder
from d2v.core.schedules import Horizon
from d2v.core.seeding import generator_for
from d2v.data.shards import Shards
from d2v.engine.distributed import World
from d2v.engine.loop import train
from d2v.engine.signals import stop_requests
from d2v.hardware import choose_attention, resolve_device
from d2v.modalities import build_modality
from d2v.recipe import PretrainSettings, Recipe
from d2v.tasks import Classify, ClassifySettings, TaskModel, TaskReader


def train_supervised(
    loaded: Loaded[Recipe], options: Options, splits: dict[str, Shards], folder: Path
) -> FrozenEncoder:
    """Train with pre-training's batch, optimiser and number of updates on all labels of train.

    Continues from its own checkpoints in `folder`/supervised like any training.
    """
    recipe = loaded.settings
    settings: PretrainSettings = need(recipe, "pretrain", loaded)
    place = folder / "supervised"
    place.mkdir(exist_ok=True)
    world = World(device=torch.device(resolve_device(recipe)))  # alone, whatever came before
    task = Classify(ClassifySettings(name="classify"), tuple(splits["train"].classes))
    modality = build_modality(recipe.modality)
    model = task.build(modality.build_frontend(recipe.encoder), Encoder(recipe.encoder))
    model.initialise(generator_for("supervised", recipe.seed))

    def objective(horizon: Horizon, precision: str) -> TaskModel:
        choose_attention(model.encoder, world.device.type, precision)
        return model

    with stop_requests() as stop:
        job = training_job(
            recipe, settings, splits["train"], world, stage="train with labels", folder=place,
            objective=objective, verbosity=options.verbosity, reader=TaskReader(modality, task),
        )  # fmt: skip
        batches = calibration_batches(recipe, splits["train"])
        train(replace(job, begin=lambda: model.frontend.calibrate(batches)), stop)
    return frozen(model.frontend, model.encoder, recipe, "trained with labels")
