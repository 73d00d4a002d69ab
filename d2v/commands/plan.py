"""What a pre-training will cost, worked out from the settings alone."""

from __future__ import annotations

import os

import torch

from d2v.build import build_objective
from d2v.commands.batches import BatchFigures, check_max_length, expected_figures, figures_of
from d2v.commands.options import Options
from d2v.core.schedules import Horizon, ema_decay, learning_rate_scale, weight_decay
from d2v.data.index import Ints
from d2v.engine.job import TrainSettings
from d2v.errors import UsageError
from d2v.hardware import resolve_device, resolve_precision
from d2v.modalities import ModalityPlan, build_modality
from d2v.modalities.base import LengthUnit
from d2v.recipe import PretrainSettings, Recipe

_ACTIVATION_BYTES_PER_CHANNEL = 34
"""A block's stored activations in bytes for each token and channel in 16 bit, attention weights
aside (Korthikanti et al. 2022, section 4)."""


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
    with torch.device("meta"):
        model = build_objective(recipe, horizon)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    encoder = sum(p.numel() for p in model.encoder.parameters())
    encoder += sum(p.numel() for p in model.frontend.parameters())
    teacher = sum(p.numel() for p in model.teacher.parameters())
    plan = modality.plan(recipe.encoder, figures.mean_length)
    precision = resolve_precision(settings.precision, recipe.encoder, resolve_device(recipe))
    forward = forward_flops(recipe, plan.num_tokens) + plan.frontend_flops
    shared = plan.feature_flops if recipe.objective.teacher_averages == "encoder" else 0.0
    flops = (4 * forward - shared) * figures.samples_per_step
    micro = figures.largest_micro
    memory = memory_bytes(recipe, trained, teacher, micro, plan, precision)
    lines = [
        f"parameters     {encoder:,} in frontend and encoder; {trained:,} trained (with head); "
        f"{teacher:,} in the teacher",
        f"input          {plan.text}",
        f"tokens         {plan.num_tokens} a sample, {plan.num_masked} of them predicted",
        f"data           {_amount(figures, unit)}"
        f"{'' if lengths is not None else ' (the recipe says so: nothing is prepared yet)'}",
        f"global batch   {_batch(settings, figures, unit, devices)}",
        f"steps          {horizon.total_steps:,} ({horizon.steps_per_epoch:,.0f} an epoch)",
        f"samples seen   {horizon.total_steps * figures.samples_per_step:,.0f} "
        f"({horizon.total_steps / horizon.steps_per_epoch:.1f} epochs)",
        f"compute        {_scaled(flops)}FLOP a step (teacher 1, student 3 forward passes), "
        f"{_scaled(flops * horizon.total_steps)}FLOP in all",
        f"memory         about {_scaled(memory)}B a device ({precision})",
        "",
        *_schedules(recipe, settings, horizon),
    ]
    return "\n".join(lines)


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


def forward_flops(recipe: Recipe, num_tokens: int) -> float:
    """One sample through the encoder: two for each multiply-add of linear layers and attention."""
    e = recipe.encoder
    linear = 2 * num_tokens * e.dim * e.dim * (4 + 2 * e.mlp_ratio)
    attention = 4 * num_tokens**2 * e.dim
    return e.depth * (linear + attention)


def memory_bytes(
    recipe: Recipe, trained: int, teacher: int, micro: float, plan: ModalityPlan, precision: str
) -> float:
    """Weights, gradients, AdamW's averages, the teacher, and the student's activations."""
    e = recipe.encoder
    width = 1 if precision == "bfloat16" else 2
    blocks = plan.num_tokens * e.dim * e.depth * _ACTIVATION_BYTES_PER_CHANNEL
    activations = micro * (blocks + 2 * plan.kept_values) * width
    return 4 * (4 * trained + teacher) + activations


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
