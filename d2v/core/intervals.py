"""How far a score can be trusted: 95 % intervals over samples and over seeds."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

_LEVEL = 0.95


def bootstrap_intervals(
    scores: Callable[[NDArray[np.int64]], Mapping[str, float]],
    num_samples: int,
    generator: torch.Generator,
    draws: int = 1000,
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap: the middle 95 % of scores of samples drawn with replacement.

    It tells what another test set of the same kind might have said of the same model, and nothing
    about other seeds. Its ends are scores that were drawn, the outer of the two next to a
    percentile, so that an infinite score does no harm.

    Args:
        scores: places (num_samples,) int64 of samples, some several times -> their scores by name,
            the same names every time. It is called `draws` times: look up figures of each sample
            there, do not make them.
        num_samples: in the test set.
        generator: on the CPU.
        draws: resamples.

    Returns:
        Lower and upper end of each score; both NaN for fewer than two samples, or where a score is
        NaN.

    Source: Efron and Tibshirani 1993, chapter 13.
    """
    assert draws >= 1
    if num_samples < 2:
        return dict.fromkeys(scores(np.arange(num_samples)), (math.nan, math.nan))
    places = (torch.randint(num_samples, (num_samples,), generator=generator) for _ in range(draws))
    rows = [scores(drawn.numpy()) for drawn in places]
    return {name: _middle([float(row[name]) for row in rows]) for name in rows[0]}


def _middle(values: list[float]) -> tuple[float, float]:
    """The ends of the middle 95 %; NaN where one of the values is."""
    if any(math.isnan(value) for value in values):
        return math.nan, math.nan
    ranked, last = sorted(values), len(values) - 1
    outside = (1 - _LEVEL) / 2 * last
    return ranked[math.floor(outside)], ranked[math.ceil(last - outside)]


class MeanInterval(NamedTuple):
    """The mean of a few runs; NaN is what they cannot tell."""

    mean: float
    std: float
    """Over the runs, with n - 1; NaN for a single one."""
    half_width: float
    """The mean +- this is the 95 % interval; NaN for a single run."""


def mean_interval(values: Sequence[float]) -> MeanInterval:
    """Mean over seeds with Student's interval, which is honest for a few of them.

    Args:
        values: a score for each seed.

    Returns:
        Mean, deviation and half the interval's width: one value has neither of the latter, no
        values have none of the three.

    Source: Student 1908; normal scores with an unknown deviation.
    """
    n = len(values)
    if not n:
        return MeanInterval(math.nan, math.nan, math.nan)
    mean = math.fsum(values) / n
    if n == 1:
        return MeanInterval(mean, math.nan, math.nan)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    quantile = float(stats.t.ppf((1 + _LEVEL) / 2, n - 1))
    return MeanInterval(mean, std, quantile * std / math.sqrt(n))


def paired_interval(values: Mapping[int, float], others: Mapping[int, float]) -> MeanInterval:
    """Mean difference of two settings over the seeds that both have, with Student's interval.

    What a seed does to both alike cancels, so that the interval is narrower than that of two
    independent means.

    Args:
        values: seed -> score.
        others: seed -> score that is taken away from it.

    Source: Student 1908, the paired test.
    """
    return mean_interval([values[seed] - others[seed] for seed in sorted({*values} & {*others})])


def excludes_zero(interval: MeanInterval) -> bool | None:
    """Whether zero lies outside the 95 % interval; None where there is none."""
    if math.isnan(interval.half_width):
        return None
    return abs(interval.mean) > interval.half_width
