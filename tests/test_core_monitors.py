"""Proves: the monitors are those of reference section 1.4, and see a collapse to positions."""

import math

import pytest
import torch
from torch import Tensor

from d2v.core.monitors import effective_rank, mean_std, spread_across_samples
from d2v.core.targets import average_top_k
from tests.maths_case import normal


def unbiased_variance(values: list[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


@pytest.mark.parametrize("shape", [(2, 5), (17, 3), (40, 1)])
def test_mean_std__equals_plain_loops(shape: tuple[int, int]) -> None:
    x = normal(0, *shape) * torch.arange(1, shape[1] + 1) + 7
    channels = [unbiased_variance(x[:, d].tolist()) for d in range(shape[1])]
    slow = math.fsum(math.sqrt(variance + 1e-6) for variance in channels) / shape[1]
    assert float(mean_std(x)) == pytest.approx(slow, rel=1e-5)


def test_mean_std__equals_the_all_reduced_form_of_the_reference() -> None:
    x = normal(1, 23, 4)
    n, s1, s2 = len(x), x.sum(0), x.square().sum(0)
    variance = s2 / (n - 1) - s1.square() / (n * (n - 1))
    assert float(mean_std(x)) == pytest.approx(float((variance + 1e-6).sqrt().mean()), rel=1e-5)


def test_mean_std__of_a_constant_is_the_root_of_1e_6() -> None:
    assert float(mean_std(torch.full((9, 4), 3.0))) == pytest.approx(1e-3)


def test_mean_std__of_one_row_is_not_a_number() -> None:
    assert math.isnan(float(mean_std(torch.ones(1, 4))))


def slow_spread(x: Tensor, keep: Tensor) -> float:
    deviations = []
    for t in range(x.shape[1]):
        rows = [b for b in range(len(x)) if keep[b, t]]
        if len(rows) >= 2:
            for d in range(x.shape[2]):
                variance = unbiased_variance([float(x[b, t, d]) for b in rows])
                deviations.append(math.sqrt(variance))
    return math.fsum(deviations) / len(deviations)


@pytest.mark.parametrize("rate", [0.3, 0.6, 1.0])
@pytest.mark.parametrize("shape", [(2, 9, 3), (6, 5, 4)])
def test_spread__equals_plain_loops_on_partly_masked_positions(
    shape: tuple[int, int, int], rate: float
) -> None:
    x = normal(2, *shape)
    keep = torch.rand(shape[:2], generator=torch.Generator().manual_seed(3)) < rate
    keep[:2, 0] = True  # at least one position is shared
    hidden = x.masked_fill(~keep.unsqueeze(2), 1e3)  # what does not count must not matter
    assert float(spread_across_samples(hidden, keep)) == pytest.approx(
        slow_spread(x, keep), rel=1e-5
    )


def test_spread__without_keep_counts_everything() -> None:
    x = normal(4, 5, 3, 2)
    everywhere = torch.ones(5, 3, dtype=torch.bool)
    assert float(spread_across_samples(x)) == pytest.approx(slow_spread(x, everywhere), rel=1e-5)


def test_spread__of_positions_that_nobody_shares_is_not_a_number() -> None:
    keep = torch.eye(3, dtype=torch.bool)
    assert math.isnan(float(spread_across_samples(normal(5, 3, 3, 2), keep)))


def test_spread__sees_a_collapse_to_positions_that_the_plain_deviation_misses() -> None:
    by_position = normal(6, 1, 20, 8).expand(16, -1, -1)
    collapsed = [by_position + 1e-6 * normal(7, 16, 20, 8)]
    healthy = [normal(8, 16, 20, 8)]
    for features, spread in ((collapsed, 0.0), (healthy, 1.0)):
        targets = average_top_k(features, layer_norm="instance", mean_norm="none")
        assert float(mean_std(targets.flatten(0, 1))) == pytest.approx(1, abs=0.02)
        assert float(spread_across_samples(targets)) == pytest.approx(spread, abs=0.1)
    assert float(spread_across_samples(collapsed[0])) < 1e-5


# Effective rank


def with_singular_values(values: list[float], num_rows: int, dim: int) -> Tensor:
    """A matrix (N, D) of centred rows with these singular values."""
    rows = normal(9, num_rows, len(values) + 1)
    rows[:, 0] = 1  # the columns after it are orthogonal to the ones, hence centred
    left = torch.linalg.qr(rows).Q[:, 1:]
    right = torch.linalg.qr(normal(10, dim, len(values))).Q
    product: Tensor = left * torch.tensor(values, dtype=torch.float64) @ right.T
    return product


@pytest.mark.parametrize("offset", [0.0, 50.0])
@pytest.mark.parametrize(
    ("values", "rank"),
    [
        ([1.0], 1.0),
        ([2.0] * 3, 3.0),
        ([1.0] * 16, 16.0),
        ([3.0, 1.0], math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))),
    ],
)
def test_effective_rank__of_known_matrices(values: list[float], rank: float, offset: float) -> None:
    x = with_singular_values(values, 60, 16) + offset
    assert float(effective_rank(x)) == pytest.approx(rank, rel=1e-4)


@pytest.mark.parametrize("shape", [(500, 300), (100, 300)])
def test_effective_rank__of_a_line_is_1_at_real_widths(shape: tuple[int, int]) -> None:
    """In float32 the squared matrix's rounding counts as hundreds of small directions."""
    line = (normal(11, shape[0], 1) @ normal(12, 1, shape[1])).float()
    assert float(effective_rank(line)) == pytest.approx(1, abs=1e-3)


def test_effective_rank__equals_the_entropy_of_the_singular_values() -> None:
    x = normal(13, 30, 7) * torch.arange(1, 8)
    values = torch.linalg.svdvals(x - x.mean(0)).tolist()
    shares = [value / math.fsum(values) for value in values]
    slow = math.exp(-math.fsum(share * math.log(share) for share in shares))
    assert float(effective_rank(x)) == pytest.approx(slow, rel=1e-6)


def test_effective_rank__reads_the_first_rows_only() -> None:
    x = normal(14, 50, 6)
    assert float(effective_rank(x, max_rows=20)) == pytest.approx(float(effective_rank(x[:20])))
    assert float(effective_rank(x, max_rows=20)) != pytest.approx(float(effective_rank(x)))


def test_monitors__carry_no_gradient() -> None:
    x = normal(15, 4, 3).requires_grad_()
    placed = normal(16, 4, 3, 2).requires_grad_()
    found = [mean_std(x), effective_rank(x), spread_across_samples(placed)]
    assert [value.requires_grad for value in found] == [False] * 3
