"""Means with honest intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A score with its spread over draws and a 95 % confidence interval."""

    mean: float
    std: float
    """Over the draws; 0 for one draw."""
    low: float
    high: float


def accuracy_estimate(accuracies: Sequence[float], num_test: int) -> Estimate:
    """Mean accuracy over draws of the labelled samples, all scored on the same test samples.

    The interval holds both what varies: the draws (Student's t) and the finite test set
    (binomial). One draw: Wilson's interval.

    Args:
        accuracies: one a draw, 0..1.
        num_test: test samples behind each.

    Returns:
        The estimate; the interval lies in 0..1.
    """
    n, mean = len(accuracies), sum(accuracies) / len(accuracies)
    if n == 1:
        z = stats.norm.ppf(0.975)
        centre = (mean + z * z / (2 * num_test)) / (1 + z * z / num_test)
        half = (
            z
            / (1 + z * z / num_test)
            * math.sqrt(mean * (1 - mean) / num_test + z * z / (4 * num_test**2))
        )
        return Estimate(mean=mean, std=0.0, low=centre - half, high=centre + half)
    std = math.sqrt(sum((a - mean) ** 2 for a in accuracies) / (n - 1))
    error = math.sqrt(std**2 / n + mean * (1 - mean) / num_test)
    half = float(stats.t.ppf(0.975, n - 1)) * error
    return Estimate(mean=mean, std=std, low=max(0.0, mean - half), high=min(1.0, mean + half))
