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

    The interval holds both what varies, added in squares: the draws (Student's t) and the finite
    test set (Agresti and Coull). One draw: Wilson's interval.

    Args:
        accuracies: one a draw, 0..1.
        num_test: test samples behind each.

    Returns:
        The estimate; the interval lies in 0..1.
    """
    n, mean = len(accuracies), sum(accuracies) / len(accuracies)
    z = float(stats.norm.ppf(0.975))
    if n == 1:
        centre = (mean + z * z / (2 * num_test)) / (1 + z * z / num_test)
        half = (
            z
            / (1 + z * z / num_test)
            * math.sqrt(mean * (1 - mean) / num_test + z * z / (4 * num_test**2))
        )
        return Estimate(mean=mean, std=0.0, low=centre - half, high=centre + half)
    std = math.sqrt(sum((a - mean) ** 2 for a in accuracies) / (n - 1))
    from_draws = float(stats.t.ppf(0.975, n - 1)) * std / math.sqrt(n)
    shrunk = (mean * num_test + 2) / (num_test + 4)  # Agresti-Coull: some doubt is left at 0 and 1
    from_test = z * math.sqrt(shrunk * (1 - shrunk) / num_test)
    half = math.hypot(from_draws, from_test)
    return Estimate(mean=mean, std=std, low=max(0.0, mean - half), high=min(1.0, mean + half))
