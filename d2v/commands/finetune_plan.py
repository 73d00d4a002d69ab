"""What a fine-tuning will do, worked out from the settings alone."""

from __future__ import annotations

import torch

from d2v.commands.batches import expected_figures, figures_of
from d2v.commands.fitted_batch import fitted
from d2v.commands.options import Options
from d2v.commands.plan import horizon_of
from d2v.commands.stage import shards_folder
from d2v.commands.trials import check_thaw, trials_of
from d2v.config import Loaded
from d2v.core.encoder import Encoder
from d2v.data.shards import Shards
from d2v.hardware import resolve_device, resolve_precision
from d2v.modalities import build_modality
from d2v.recipe import FinetuneSettings, Recipe
from d2v.report import Report


def finetune_plan(
    recipe: Recipe, settings: FinetuneSettings, loaded: Loaded[Recipe], options: Options
) -> Report:
    """The report of `d2v finetune --dry-run`.

    Args:
        recipe: as it is while fine-tuning.
        settings: its finetune section.
        loaded: the recipe as loaded.
        options: where runs lie, and how many processes.

    Raises:
        UsageError: the settings do not go together, or too little is known of the data.
    """
    modality = build_modality(recipe.modality)
    unit = modality.length_unit
    folder = shards_folder(loaded, options, *recipe.data_set("finetune"))
    lines = [f"task           {settings.task.name}, freeze {settings.task.freeze}"]
    if (folder / "train" / "index.json").exists():
        lengths = Shards.open(folder / "train").lengths
        settings = fitted(settings, lengths, unit, world_size=options.nproc)
        figures = figures_of(settings, lengths, unit, world_size=options.nproc)
    elif recipe.data.num_train_samples is not None:
        figures = expected_figures(
            settings, recipe.data.num_train_samples, recipe.data.mean_train_length, unit,
            world_size=options.nproc,
        )  # fmt: skip
    else:
        figures = None
        lines.append("data           not prepared yet, and data.num_train_samples is not set")
    with torch.device("meta"):
        frontend = modality.build_frontend(recipe.encoder)
        encoder = Encoder(recipe.encoder)
    count = sum(p.numel() for part in (frontend, encoder) for p in part.parameters())
    lines.append(f"parameters     {count:,} in frontend and encoder, and the head")
    if figures is not None:
        horizon = horizon_of(settings, figures.steps_per_epoch)
        check_thaw(settings, horizon)
        epochs = horizon.total_steps / figures.steps_per_epoch
        lines.append(
            f"length         {horizon.total_steps:,} updates of {figures.samples_per_step:,.4g} "
            f"samples ({epochs:,.4g} epochs over {figures.num_train:,} samples), "
            f"{figures.cut.accumulation} micro-batch(es) on each device"
        )
    trials = trials_of(recipe, settings)
    lines.append(f"trials         {len(trials)}: " + ", ".join(trial.name for trial in trials[:6])
                 + (", ..." if len(trials) > 6 else ""))  # fmt: skip
    optimizer = settings.optimizer
    lines.append(
        f"optimiser      AdamW {optimizer.betas}, weight decay {optimizer.weight_decay:g}, layer "
        f"decay {optimizer.layer_decay:g}, {optimizer.schedule.schedule}, warm-up "
        f"{optimizer.schedule.warmup}"
    )
    precision = resolve_precision(settings.precision, recipe.encoder, resolve_device(recipe))
    lines.append(f"precision      {precision}")
    return Report(
        headline=f"Plan of finetune {loaded.name} on {resolve_device(recipe)} (nothing is written)",
        text="\n".join(lines),
    )
