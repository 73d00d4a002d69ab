"""Proves: scores are those of scikit-learn and scipy; where those have no value, as documented."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics
from torch import Tensor

from d2v.core.scores import (
    accuracy,
    among_top_k,
    confusion,
    f1,
    macro_f1,
    matthews,
    pearson,
    spearman,
)
from tests.maths_case import seeded

NOTHING = torch.zeros(0, dtype=torch.int64)


def labellings(seed: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """Predictions and truth (N,), N from 1 to 60, right half of the time; some classes lack."""
    generator = seeded(seed)
    n = int(torch.randint(1, 61, (), generator=generator))
    truth = torch.randint(num_classes, (n,), generator=generator)
    other = torch.randint(num_classes, (n,), generator=generator)
    right = torch.rand(n, generator=generator) < 0.5
    return torch.where(right, truth, other), truth


def share(where: Tensor) -> float:
    return float(where.double().mean())


@pytest.mark.parametrize("num_classes", [2, 3, 10, 40])
def test_scores_of_classes__equal_scikit_learn(num_classes: int) -> None:
    names = list(range(num_classes))
    for seed in range(40):
        predicted, truth = labellings(seed, num_classes)
        p, t = predicted.numpy(), truth.numpy()
        matrix = metrics.confusion_matrix(t, p, labels=names)
        assert confusion(predicted, truth, num_classes).tolist() == matrix.tolist()
        assert accuracy(predicted, truth) == pytest.approx(metrics.accuracy_score(t, p), abs=1e-9)
        macro = metrics.f1_score(t, p, average="macro", zero_division=0)
        assert macro_f1(predicted, truth, num_classes) == pytest.approx(macro, abs=1e-9)
        mcc = metrics.matthews_corrcoef(t, p)
        assert matthews(predicted, truth) == pytest.approx(mcc, abs=1e-9)


def test_f1__equals_scikit_learn() -> None:
    for seed in range(60):
        predicted, truth = labellings(seed, 2)
        expected = metrics.f1_score(truth.numpy(), predicted.numpy(), zero_division=0)
        assert f1(predicted, truth) == pytest.approx(expected, abs=1e-9)


def test_f1__of_a_hand_worked_case() -> None:
    predicted = torch.tensor([1, 1, 1, 0, 0, 0])
    truth = torch.tensor([1, 1, 0, 1, 0, 0])  # precision 2/3, recall 2/3
    assert f1(predicted, truth) == pytest.approx(2 / 3)
    assert f1(1 - predicted, truth) == pytest.approx(1 / 3)
    assert f1(torch.zeros(6), torch.zeros(6)) == 0.0


def test_macro_f1__leaves_out_classes_that_do_not_occur() -> None:
    predicted, truth = torch.tensor([0, 0, 7]), torch.tensor([0, 5, 5])
    assert macro_f1(predicted, truth, 9) == pytest.approx((2 / 3 + 0 + 0) / 3)  # of 0, 5 and 7


def test_matthews__of_hand_worked_cases() -> None:
    truth = torch.tensor([1, 1, 1, 0, 0, 0, 0])
    predicted = torch.tensor([1, 1, 0, 1, 0, 0, 0])  # TP 2, TN 3, FP 1, FN 1
    assert matthews(predicted, truth) == pytest.approx((2 * 3 - 1 * 1) / math.sqrt(3 * 3 * 4 * 4))
    assert matthews(truth, truth) == 1.0
    assert matthews(1 - truth, truth) == -1.0


@pytest.mark.parametrize("constant", [0, 1, 3])
def test_matthews__is_0_where_one_side_knows_one_class_only(constant: int) -> None:
    truth = torch.tensor([0, 1, 1, 0, 2])
    assert matthews(torch.full((5,), constant), truth) == 0.0
    assert matthews(truth, torch.full((5,), constant)) == 0.0


def test_matthews__keeps_its_digits_with_very_many_samples() -> None:
    truth = torch.zeros(3_000_000, dtype=torch.int64)
    truth[:1_000_000] = 1
    predicted = truth.clone()
    predicted[:2] = 0  # TP 999998, FN 2
    n, tp, fn = 3_000_000, 999_998, 2
    expected = tp * (n - 1_000_000) / math.sqrt(tp * 1_000_000 * 2_000_000 * (2_000_000 + fn))
    assert matthews(predicted, truth) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_among_top_k__equals_scikit_learn(k: int) -> None:
    for seed in range(30):
        _, truth = labellings(seed, 7)
        logits = torch.randn(len(truth), 7, generator=seeded(seed))
        expected = metrics.top_k_accuracy_score(
            truth.numpy(), logits.numpy(), k=k, labels=list(range(7))
        )
        assert share(among_top_k(logits, truth, k)) == pytest.approx(expected, abs=1e-9)


def test_among_top_k__of_one_is_the_accuracy_with_ties_too() -> None:
    for seed in range(30):
        _, truth = labellings(seed, 4)
        logits = torch.randint(3, (len(truth), 4), generator=seeded(seed)).float()
        first = torch.tensor([row.index(max(row)) for row in logits.tolist()])
        assert share(among_top_k(logits, truth, 1)) == accuracy(first, truth)


def test_among_top_k__gains_nothing_from_equal_logits() -> None:
    truth = torch.arange(10)
    assert share(among_top_k(torch.zeros(10, 10), truth, 5)) == 0.5
    assert share(among_top_k(torch.zeros(10, 10), truth, 10)) == 1.0
    assert share(among_top_k(torch.zeros(10, 10), truth, 99)) == 1.0


def test_confusion__has_truth_in_rows() -> None:
    counts = confusion(torch.tensor([1, 1, 0]), torch.tensor([0, 0, 2]), 3)
    assert counts.dtype == torch.int64
    assert counts.tolist() == [[0, 2, 0], [0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("ids", [[0, 3], [-1, 0]])
def test_confusion__does_not_file_an_unknown_class_under_another(ids: list[int]) -> None:
    for pair in ((ids, [0, 0]), ([0, 0], ids)):
        with pytest.raises(AssertionError):
            confusion(torch.tensor(pair[0]), torch.tensor(pair[1]), 3)


@pytest.mark.parametrize("step", [0.0, 0.5, 2.0], ids=["no ties", "some ties", "many ties"])
def test_correlations__equal_scipy(step: float) -> None:
    for seed in range(60):
        generator = seeded(seed)
        n = int(torch.randint(12, 80, (), generator=generator))
        x = torch.randn(n, generator=generator, dtype=torch.float64)
        y = 0.6 * x + torch.randn(n, generator=generator, dtype=torch.float64)
        if step:
            x, y = (x / step).round() * step, (y / step).round() * step
        assert pearson(x, y) == pytest.approx(stats.pearsonr(x.numpy(), y.numpy())[0], abs=1e-9)
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x.numpy(), y.numpy())[0], abs=1e-9)


def test_pearson__keeps_its_digits_far_from_zero_and_close_to_it() -> None:
    x = torch.randn(50, generator=seeded(1), dtype=torch.float64)
    y = x + torch.randn(50, generator=seeded(2), dtype=torch.float64)
    expected = float(np.corrcoef(x.numpy(), y.numpy())[0, 1])
    for scale, shift in ((1.0, 1e6), (1e-200, 0.0), (1e200, 0.0)):
        assert pearson(x * scale + shift, y) == pytest.approx(expected, abs=1e-8)


def test_spearman__of_a_hand_worked_case_with_ties() -> None:
    x = torch.tensor([10.0, 20.0, 20.0, 30.0])  # ranks 1, 2.5, 2.5, 4
    y = torch.tensor([1.0, 3.0, 2.0, 4.0])  # ranks 1, 3, 2, 4
    assert spearman(x, y) == pytest.approx(4.5 / math.sqrt(4.5 * 5.0))
    assert spearman(x, y.exp()) == spearman(x, y)


@pytest.mark.parametrize("score", [pearson, spearman])
def test_correlations__are_0_with_a_constant_that_has_no_exact_mean(score: object) -> None:
    assert callable(score)
    for value in (0.1, 3.0, 1e30):
        constant, y = torch.full((7,), value), torch.arange(7.0)
        assert score(constant, y) == 0.0
        assert score(y, constant) == 0.0
    assert score(torch.tensor([1.0]), torch.tensor([2.0])) == 0.0


@pytest.mark.parametrize("score", [pearson, spearman])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_correlations__are_nan_with_a_number_that_is_not_finite(
    score: object, value: float
) -> None:
    assert callable(score)
    x, y = torch.tensor([1.0, value, 3.0]), torch.tensor([1.0, 2.0, 3.0])
    assert math.isnan(score(x, y))
    assert math.isnan(score(y, x))


def test_scores__of_no_samples_are_nan() -> None:
    values = (
        accuracy(NOTHING, NOTHING), macro_f1(NOTHING, NOTHING, 3), f1(NOTHING, NOTHING),
        matthews(NOTHING, NOTHING), share(among_top_k(torch.zeros(0, 3), NOTHING, 2)),
        pearson(NOTHING, NOTHING), spearman(NOTHING, NOTHING),
    )  # fmt: skip
    assert all(math.isnan(value) for value in values)
    assert confusion(NOTHING, NOTHING, 2).tolist() == [[0, 0], [0, 0]]


def test_scores__refuse_a_column_beside_a_row() -> None:
    row, column = torch.zeros(4), torch.zeros(4, 1)
    for score in (accuracy, pearson, spearman, matthews, f1):
        with pytest.raises(AssertionError):
            score(column, row)
        with pytest.raises(AssertionError):
            score(row, column)
