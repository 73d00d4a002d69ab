"""What a pre-training will cost, worked out from the settings alone."""

from __future__ import annotations

import os

import torch

from d2v.build import build_objective
from d2v.commands.batches import BatchFigures, check_max_length, expected_figures, figures_of
from d2v.commands.cost import SampleCost, memory_bytes, sample_cost
from d2v.commands.options import Options
from d2v.core.decoder import Decoder
from d2v.core.schedules import Horizon, ema_decay, learning_rate_scale, weight_decay
from d2v.data.index import Ints
from d2v.data2vec import Distillation
from d2v.data2vec2 import Data2Vec2Settings
from d2v.engine.job import TrainSettings
from d2v.errors import UsageError
from d2v.hardware import resolve_device, resolve_precision
from d2v.modalities import ModalityPlan, build_modality
from d2v.modalities.base import LengthUnit
from d2v.recipe import PretrainSettings, Recipe


def pretrain_plan(
    recipe: Recipe, settings: PretrainSettings, options: Options, lengths: Ints | None
) -> str:
    """The text of `d2v pretrain --dry-run`.

    Args:
        recipe: the experiment.
        settings: its pretrain section.
        options: `nproc` says how many devices.
        lengths: (N,) int64, of the training samples; None before the data is there.

    Raises:
        UsageError: the settings do not go together, or too little is known of the data.
    """
    devices = int(os.environ.get("WORLD_SIZE", str(options.nproc)))
    modality = build_modality(recipe.modality)
    check_max_length(settings, modality, recipe.encoder)
    unit = modality.length_unit
    figures = _figures(recipe, settings, lengths, unit, devices)
    horizon = horizon_of(settings, figures.steps_per_epoch)
    model, plan, cost = _costs(recipe, figures, horizon)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    encoder = sum(p.numel() for p in model.encoder.parameters())
    encoder += sum(p.numel() for p in model.frontend.parameters())
    teacher = sum(p.numel() for p in model.teacher.parameters())
    precision = resolve_precision(settings.precision, recipe.encoder, resolve_device(recipe))
    flops = cost.flops * figures.samples_per_step
    memory = memory_bytes(trained, teacher, figures.largest_micro, cost, precision)
    lines = [
        f"parameters     {encoder:,} in frontend and encoder; {trained:,} trained (with "
        f"{'head' if cost.decoder == 0 else 'decoder'}); "
        f"{teacher:,} in the teacher",
        f"input          {plan.text}",
        f"tokens         {plan.num_tokens} a sample, {plan.num_masked} of them predicted",
        *_views(recipe, plan, model),
        f"data           {_amount(figures, unit)}"
        f"{'' if lengths is not None else ' (the recipe says so: nothing is prepared yet)'}",
        f"global batch   {_batch(settings, figures, unit, devices)}",
        f"steps          {horizon.total_steps:,} ({horizon.steps_per_epoch:,.0f} an epoch)",
        f"samples seen   {horizon.total_steps * figures.samples_per_step:,.0f} "
        f"({horizon.total_steps / horizon.steps_per_epoch:.1f} epochs)",
        f"compute        {_scaled(flops)}FLOP a step ({_passes(recipe, cost)}), "
        f"{_scaled(flops * horizon.total_steps)}FLOP in all",
        f"memory         about {_scaled(memory)}B a device ({precision})",
        "",
        *_schedules(recipe, settings, horizon),
    ]
    return "\n".join(lines)


def step_flops(recipe: Recipe, settings: PretrainSettings, lengths: Ints) -> float:
    """Floating-point operations of one update: the teacher's and the student's.

    A backward pass counts as two forward passes, a sample as one of mean length.

    Args:
        recipe: the experiment.
        settings: its pretrain section.
        lengths: (N,) int64, of the training samples.
    """
    unit = build_modality(recipe.modality).length_unit
    figures = figures_of(settings, lengths, unit, world_size=1)
    horizon = horizon_of(settings, figures.steps_per_epoch)
    _, _, cost = _costs(recipe, figures, horizon)
    return cost.flops * figures.samples_per_step


def horizon_of(settings: TrainSettings, steps_per_epoch: int) -> Horizon:
    """Length of the run in updates.

    Raises:
        UsageError: the rate never comes to its peak.
    """
    total = Horizon(total_steps=0, steps_per_epoch=steps_per_epoch).steps(settings.steps)
    horizon = Horizon(total_steps=total, steps_per_epoch=steps_per_epoch)
    schedule = settings.optimizer.schedule
    warmup = horizon.steps(schedule.warmup)
    if warmup >= total > 0:
        raise UsageError(
            f"{settings.section}.optimizer.schedule.warmup is {warmup:,} steps of a run of "
            f"{total:,}",
            expected="a warm-up that ends before the run does",
            remedy=f"Shorten it ('5 %' is usual) or lengthen {settings.section}.steps.",
        )
    return horizon


def _costs(
    recipe: Recipe, figures: BatchFigures, horizon: Horizon
) -> tuple[Distillation, ModalityPlan, SampleCost]:
    """The objective without memory, what a sample of mean length is to it, and what that takes."""
    with torch.device("meta"):
        model = build_objective(recipe, horizon)
    plan = build_modality(recipe.modality).plan(recipe.encoder, figures.mean_length)
    return model, plan, sample_cost(recipe, plan, model)


def _figures(
    recipe: Recipe,
    settings: PretrainSettings,
    lengths: Ints | None,
    unit: LengthUnit,
    devices: int,
) -> BatchFigures:
    """From the data, or from what the recipe says of it."""
    if lengths is not None:
        return figures_of(settings, lengths, unit, world_size=devices)
    data = recipe.data
    if data.num_train_samples is None:
        raise UsageError(
            "The data is not prepared yet, so the length of an epoch is unknown",
            remedy="Run d2v prepare first, or set data.num_train_samples for the dry run.",
        )
    return expected_figures(
        settings, data.num_train_samples, data.mean_train_length, unit, world_size=devices
    )


def _amount(figures: BatchFigures, unit: LengthUnit) -> str:
    """`281,241 training samples, 12.3 seconds each on average`; without lengths where all are 1."""
    text = f"{figures.num_train:,} training samples"
    if figures.mean_length is None or figures.mean_length == 1:
        return text
    return f"{text}, {figures.mean_length / unit.size:,.3g} {unit.name} each on average"


def _batch(
    settings: PretrainSettings, figures: BatchFigures, unit: LengthUnit, devices: int
) -> str:
    """`3,800 seconds = 16 device(s) x 1 micro-batch(es) x 237.5 seconds, ... samples`."""
    pieces = f"{devices} device(s) x {figures.cut.accumulation} micro-batch(es)"
    if settings.batch_length is None:
        return f"{figures.samples_per_step:,.0f} = {pieces} x {figures.cut.micro:,.0f}"
    piece = settings.batch_length / (devices * figures.cut.accumulation)
    return (
        f"{settings.batch_length:,g} {unit.name} = {pieces} x {piece:,.4g} {unit.name}, about "
        f"{figures.samples_per_step:,.0f} samples"
    )


def _views(recipe: Recipe, plan: ModalityPlan, model: Distillation) -> list[str]:
    """What the student sees of a sample, and what fills in the rest; nothing where it sees all."""
    objective, decoder = recipe.objective, model.head
    if not isinstance(objective, Data2Vec2Settings):
        return []
    assert isinstance(decoder, Decoder)
    places = plan.num_tokens - plan.num_prefix
    seen = f"{places - plan.num_masked} of {places} {plan.token_name} visible in each"
    if plan.exact_kind is not None:
        seen = f"about {seen} (exactly as many with modality.mask.kind={plan.exact_kind})"
    kernel = " x ".join([str(objective.decoder.kernel)] * (1 if decoder.grid is None else 2))
    count = sum(p.numel() for p in decoder.parameters())
    return [
        f"views          {objective.masks_per_sample} a sample, {seen}",
        f"decoder        {objective.decoder.layers} convolutions of {kernel} {plan.token_name}, "
        f"{decoder.width} wide in {objective.decoder.groups} group(s): {count:,} parameters",
    ]


def _passes(recipe: Recipe, cost: SampleCost) -> str:
    """What is computed of each sample."""
    if not isinstance(recipe.objective, Data2Vec2Settings):
        return "teacher 1, student 3 forward passes"
    return (
        f"a sample: teacher {_scaled(cost.teacher)}FLOP, student 3 x {_scaled(cost.student)}FLOP "
        f"for its {recipe.objective.masks_per_sample} views, {cost.decoder / cost.student:.0%} of "
        "it the decoder's"
    )


def _scaled(value: float) -> str:
    """Three figures and the SI prefix that suits them: 1.84e11 -> "184 G"."""
    for power, prefix in ((18, "E"), (15, "P"), (12, "T"), (9, "G")):
        if value >= 10**power:
            return f"{value / 10**power:.3g} {prefix}"
    return f"{value / 1e6:.3g} M"


def _schedules(recipe: Recipe, settings: PretrainSettings, horizon: Horizon) -> list[str]:
    """Learning rate, weight decay and tau at five places."""
    optim = settings.optimizer
    end = optim.weight_decay if optim.weight_decay_end is None else optim.weight_decay_end
    lines = [
        "               "
        + "".join(f"{share:>12}" for share in ("0 %", "25 %", "50 %", "75 %", "100 %"))
    ]
    places = [round(share * horizon.total_steps / 4) for share in range(5)]
    rows = {
        "learning rate": [
            optim.learning_rate * learning_rate_scale(n, optim.schedule, horizon) for n in places
        ],
        "weight decay": [
            weight_decay(n, start=optim.weight_decay, end=end, total_steps=horizon.total_steps)
            for n in places
        ],
        "tau": [ema_decay(n, recipe.objective.tau, horizon) for n in places],
    }
    return lines + [
        f"{name:<15}" + "".join(f"{value:>12.6g}" for value in values)
        for name, values in rows.items()
    ]
