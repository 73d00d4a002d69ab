"""Proves: intervals hold the truth as often as they say, and repeat with their generator."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Generator

from d2v.core.intervals import bootstrap_intervals, mean_interval
from tests.maths_case import seeded

Places = NDArray[np.int64]


def bootstrap_interval(
    score: Callable[[Places], float], num_samples: int, generator: Generator, draws: int = 1000
) -> tuple[float, float]:
    """The interval of one score."""
    return bootstrap_intervals(
        lambda places: {"score": score(places)}, num_samples, generator, draws
    )["score"]


def mean_of(values: NDArray[np.float64]) -> Callable[[Places], float]:
    return lambda places: float(values[places].mean())


def normal_scores(seed: int, n: int) -> NDArray[np.float64]:
    drawn: NDArray[np.float64] = torch.randn(n, generator=seeded(seed)).double().numpy()
    return drawn


def right_or_wrong(seed: int, n: int) -> NDArray[np.float64]:
    drawn: NDArray[np.float64] = (torch.rand(n, generator=seeded(seed)) < 0.7).double().numpy()
    return drawn


@pytest.mark.parametrize(
    ("sample", "truth"), [(normal_scores, 0.0), (right_or_wrong, 0.7)], ids=["normal", "accuracy"]
)
def test_bootstrap_interval__holds_the_truth_95_times_in_100(sample: Any, truth: float) -> None:
    held = 0
    for seed in range(300):
        low, high = bootstrap_interval(mean_of(sample(seed, 100)), 100, seeded(seed), draws=300)
        assert low < high
        held += low <= truth <= high
    assert 0.91 <= held / 300 <= 0.98  # 95 % +- three deviations of 300 trials


def test_bootstrap_interval__of_a_mean_is_that_of_the_normal_distribution() -> None:
    values = normal_scores(3, 400)
    low, high = bootstrap_interval(mean_of(values), 400, seeded(4), draws=4000)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.08 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.08 * half)


def test_bootstrap_interval__equals_plain_loops() -> None:
    values, generator = normal_scores(5, 30), seeded(6)
    drawn = []
    for _ in range(101):
        places = torch.randint(30, (30,), generator=generator).tolist()
        drawn.append(sum(values[place] for place in places) / 30)
    drawn.sort()  # 2.5 % of the 100 steps between them: outside the 3rd and the 99th
    interval = bootstrap_interval(mean_of(values), 30, seeded(6), draws=101)
    assert interval == pytest.approx((drawn[2], drawn[98]), abs=1e-12)


def test_bootstrap_interval__repeats_with_its_generator_and_differs_with_another() -> None:
    score = mean_of(normal_scores(7, 50))
    first = bootstrap_interval(score, 50, seeded(1))
    assert bootstrap_interval(score, 50, seeded(1)) == first
    assert bootstrap_interval(score, 50, seeded(2)) != first


def test_bootstrap_intervals__of_several_scores_are_of_the_same_draws_made_once() -> None:
    values, calls = normal_scores(7, 40), []

    def scores(places: Places) -> dict[str, float]:
        calls.append(places)
        return {"mean": float(values[places].mean()), "largest": float(values[places].max())}

    found = bootstrap_intervals(scores, 40, seeded(8), draws=200)
    assert len(calls) == 200
    assert list(found) == ["mean", "largest"]
    assert found["mean"] == bootstrap_interval(mean_of(values), 40, seeded(8), draws=200)
    largest = bootstrap_interval(lambda places: float(values[places].max()), 40, seeded(8), 200)
    assert found["largest"] == largest


def test_bootstrap_interval__draws_as_many_places_as_there_are_samples() -> None:
    seen: list[Places] = []

    def score(places: Places) -> float:
        seen.append(places.copy())
        return 0.0

    assert bootstrap_interval(score, 9, seeded(0), draws=40) == (0.0, 0.0)
    assert len(seen) == 40
    assert all(places.shape == (9,) and places.dtype == np.int64 for places in seen)
    assert {int(place) for places in seen for place in places} == set(range(9))


@pytest.mark.parametrize("num_samples", [0, 1])
def test_bootstrap_interval__of_fewer_than_two_samples_is_unknown(num_samples: int) -> None:
    ends = bootstrap_interval(lambda places: 1.0, num_samples, seeded(0))
    assert all(math.isnan(end) for end in ends)


def test_bootstrap_interval__is_unknown_where_a_score_is() -> None:
    ends = bootstrap_interval(
        lambda places: math.nan if 0 in places else 1.0, 20, seeded(0), draws=50
    )
    assert all(math.isnan(end) for end in ends)


def test_bootstrap_interval__bears_a_score_without_bound() -> None:
    values = np.array([0.0, 0.0, 0.0, math.inf])
    low, high = bootstrap_interval(lambda places: float(values[places].max()), 4, seeded(0))
    assert (low, high) == (0.0, math.inf)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_mean_interval__equals_scipy(n: int) -> None:
    values = normal_scores(n, n)
    mean, std, half = mean_interval(values.tolist())
    low, high = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert mean == pytest.approx(values.mean())
    assert std == pytest.approx(values.std(ddof=1))
    assert (mean - half, mean + half) == pytest.approx((low, high))


def test_mean_interval__of_three_seeds_by_hand() -> None:
    mean, std, half = mean_interval([0.8, 0.9, 1.0])
    assert mean == pytest.approx(0.9)
    assert std == pytest.approx(0.1)
    assert half == pytest.approx(4.302652729911275 * 0.1 / math.sqrt(3))  # t, 2 degrees of freedom


def test_mean_interval__of_one_value_knows_no_spread() -> None:
    mean, std, half = mean_interval([0.25])
    assert mean == 0.25
    assert math.isnan(std)
    assert math.isnan(half)


def test_mean_interval__of_nothing_is_unknown() -> None:
    assert all(math.isnan(value) for value in mean_interval([]))
