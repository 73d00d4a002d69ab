"""How much an update takes, counted or measured, and how it is cut over devices.

Settings are in the modality's unit (seconds, tokens); plans count lengths as stored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from d2v.core.encoder import EncoderSettings
from d2v.data.index import Ints
from d2v.data.lengths import LengthPlan
from d2v.data.order import BatchPlan, CountPlan, LengthLimit
from d2v.engine.job import BatchCut, TrainSettings
from d2v.errors import UsageError
from d2v.modalities.base import LengthUnit, Modality


@dataclass(frozen=True, kw_only=True)
class BatchFigures:
    """The batches of a training in figures.

    Args:
        num_train: training samples.
        mean_length: of them, as stored, after cropping to `max_length`; None where unknown.
        steps_per_epoch: updates in one pass over the data.
        samples_per_step: samples of an update, the mean where they differ.
        cut: how an update is cut.
        largest_micro: largest micro-batch, in samples of mean length.
    """

    num_train: int
    mean_length: float | None
    steps_per_epoch: int
    samples_per_step: float
    cut: BatchCut
    largest_micro: float


def batch_plan(settings: TrainSettings, lengths: Ints, unit: LengthUnit, *, seed: int) -> BatchPlan:
    """Which samples make which update.

    Args:
        settings: how much an update takes.
        lengths: (N,) int64, of the training samples as stored.
        unit: what settings measure in.
        seed: of the run.

    Raises:
        UsageError: the data do not fill a batch, or a sample is longer than one.
    """
    limit = _length_limit(settings, unit)
    if settings.batch_length is None:
        assert settings.batch_size is not None
        plan: BatchPlan = CountPlan(lengths, settings.batch_size, seed=seed, limit=limit)
    else:
        longest = int(limit.clipped(lengths).max(initial=0))
        batch_length = _stored(settings.batch_length, unit)
        if longest > batch_length:
            raise UsageError(
                f"The longest training sample has {longest / unit.size:,g} {unit.name}, and "
                f"{settings.section}.batch_length is {settings.batch_length:,g}",
                expected="room for every sample",
                remedy=f"Raise {settings.section}.batch_length, or crop with "
                f"{settings.section}.max_length.",
            )
        plan = LengthPlan(lengths, batch_length, seed=seed, limit=limit)
    total = float(limit.clipped(lengths).sum()) / unit.size
    _check_enough(settings, plan.steps_per_epoch, len(lengths), total, unit)
    return plan


def batch_cut(
    settings: TrainSettings, plan: BatchPlan, unit: LengthUnit, *, world_size: int
) -> BatchCut:
    """The fewest micro-batches that fit a device.

    Raises:
        UsageError: the batches cannot be cut like that.
    """
    if not isinstance(plan, LengthPlan):
        assert settings.batch_size is not None
        return BatchCut.of(
            settings.batch_size, world_size, settings.max_batch_per_device, settings.section
        )
    accumulation = 1
    if settings.max_length_per_device is not None:
        limit = _stored(settings.max_length_per_device, unit)
        longest = plan.longest_piece(len(plan.lengths))
        if longest > limit:
            raise UsageError(
                f"The longest training sample has {longest / unit.size:,g} {unit.name}, and "
                f"{settings.section}.max_length_per_device is {settings.max_length_per_device:,g}",
                expected="room for every sample",
                remedy=f"Raise {settings.section}.max_length_per_device, or crop with "
                f"{settings.section}.max_length.",
            )
        while plan.longest_piece(world_size * accumulation) > limit:
            accumulation += 1
    if plan.smallest_batch < world_size * accumulation:
        raise UsageError(
            f"The smallest batch has {plan.smallest_batch} samples, to be shared by {world_size} "
            f"device(s) with {accumulation} micro-batch(es) each",
            expected="at least one sample for each micro-batch",
            remedy=f"Raise {settings.section}.batch_length or "
            f"{settings.section}.max_length_per_device, lower "
            f"{settings.section}.max_length, or take fewer devices.",
        )
    micro = plan.samples_per_step / (world_size * accumulation)
    return BatchCut(micro=micro, accumulation=accumulation)


def figures_of(
    settings: TrainSettings, lengths: Ints, unit: LengthUnit, *, world_size: int
) -> BatchFigures:
    """What batches come to on data that is there.

    Raises:
        UsageError: as `batch_plan` and `batch_cut`.
    """
    plan = batch_plan(settings, lengths, unit, seed=0)  # figures are the same for every seed
    cut = batch_cut(settings, plan, unit, world_size=world_size)
    mean = float(_length_limit(settings, unit).clipped(lengths).mean())
    largest = cut.micro
    if isinstance(plan, LengthPlan):
        largest = plan.longest_piece(world_size * cut.accumulation) / mean
    return BatchFigures(
        num_train=len(lengths),
        mean_length=mean,
        steps_per_epoch=plan.steps_per_epoch,
        samples_per_step=plan.samples_per_step,
        cut=cut,
        largest_micro=largest,
    )


def expected_figures(
    settings: TrainSettings,
    num_train: int,
    mean_length: float | None,
    unit: LengthUnit,
    *,
    world_size: int,
) -> BatchFigures:
    """What batches will come to, about, before the data is there.

    Args:
        settings: how much an update takes.
        num_train: training samples.
        mean_length: of them, in `unit`; None where unknown.
        unit: what settings measure in.
        world_size: devices.

    Raises:
        UsageError: too little data, a batch that does not divide, an unknown mean that matters.
    """
    mean = mean_length
    if mean is not None and settings.max_length is not None:
        mean = min(mean, settings.max_length)
    cut = _expected_cut(settings, mean, world_size)
    samples = cut.micro * cut.accumulation * world_size
    steps = math.floor(num_train / samples + 1e-9)  # 0.3 / 0.1 is a little less than 3
    _check_enough(settings, steps, num_train, num_train * (mean or 0), unit)
    return BatchFigures(
        num_train=num_train,
        mean_length=None if mean is None else mean * unit.size,
        steps_per_epoch=steps,
        samples_per_step=samples,
        cut=cut,
        largest_micro=cut.micro,
    )


def check_max_length(settings: TrainSettings, modality: Modality, encoder: EncoderSettings) -> None:
    """Refuse to crop so short that there is nothing to predict from.

    Raises:
        UsageError: fewer than two tokens would be left.
    """
    if settings.max_length is None:
        return
    unit = modality.length_unit
    num_tokens = modality.plan(encoder, float(_stored(settings.max_length, unit))).num_tokens
    if num_tokens < 2:
        raise UsageError(
            f"{settings.section}.max_length is {settings.max_length:g} {unit.name}, and of a "
            "sample of that length the model sees "
            f"{num_tokens} token{'' if num_tokens == 1 else 's'}",
            expected="at least two: one to predict, and one to predict it from",
            remedy=f"Raise {settings.section}.max_length.",
        )


def _expected_cut(settings: TrainSettings, mean: float | None, world_size: int) -> BatchCut:
    """As if every sample had the mean length."""
    if settings.batch_length is None:
        assert settings.batch_size is not None
        return BatchCut.of(
            settings.batch_size, world_size, settings.max_batch_per_device, settings.section
        )
    if mean is None:
        raise UsageError(
            f"{settings.section}.batch_length is set, and how long the training samples are is "
            "unknown",
            remedy="Run d2v prepare first, or set data.mean_train_length for the dry run.",
        )
    limit = settings.max_length_per_device or math.inf
    accumulation = max(1, math.ceil(settings.batch_length / world_size / limit))
    micro = settings.batch_length / mean / (world_size * accumulation)
    return BatchCut(micro=micro, accumulation=accumulation)


def _length_limit(settings: TrainSettings, unit: LengthUnit) -> LengthLimit:
    return LengthLimit(
        max_length=None if settings.max_length is None else _stored(settings.max_length, unit),
        to_shortest=settings.length_mode == "crop",
    )


def _stored(length: float, unit: LengthUnit) -> int:
    return max(1, round(length * unit.size))


def _check_enough(
    settings: TrainSettings, steps: int, num_train: int, total: float, unit: LengthUnit
) -> None:
    if steps:
        return
    there, wanted = f"{num_train:,} training samples", f"{settings.batch_size or 0:,}"
    if settings.batch_length is not None:
        there = f"{total:,.6g} {unit.name} of training data"
        wanted = f"{settings.batch_length:,g}"
    setting = "batch_size" if settings.batch_length is None else "batch_length"
    raise UsageError(
        f"There are {there}, and one batch takes {wanted}",
        expected="at least one whole batch",
        remedy=f"Lower {settings.section}.{setting} or add data.",
    )
