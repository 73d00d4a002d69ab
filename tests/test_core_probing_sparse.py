"""Proves: sparse features get the scores of the same features stored densely."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from d2v.core import classifiers
from d2v.core.classifiers import fit_logistic, knn_predictions
from d2v.core.probing import FeatureSet, ProbeSettings, Score, probe_scores
from d2v.errors import UsageError
from tests.maths_case import normal, seeded

CLASSES = 3


def words(seed: int, num: int, width: int) -> tuple[Tensor, Tensor]:
    """Rows with a few entries, more of them in their class's features; some rows are empty."""
    labels = torch.randint(CLASSES, (num,), generator=seeded(seed))
    labels[:CLASSES] = torch.arange(CLASSES)
    often = torch.where(torch.arange(width) % CLASSES == labels.unsqueeze(1), 0.25, 0.08)
    there = torch.rand(num, width, generator=seeded(seed + 1)) < often
    there[5::20] = False
    return there * (1 + normal(seed + 2, num, width).abs()), labels


def loss(x: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, l2: float) -> Tensor:
    """Sum of cross entropies + l2 / 2 * |weight|^2, sample by sample."""
    total = 0.5 * l2 * weight.square().sum()
    for row, label in zip(x, labels.tolist(), strict=True):
        scores = row @ weight + bias
        total = total + scores.logsumexp(0) - scores[label]
    return total


# Logistic regression


@pytest.mark.parametrize(("num", "width"), [(120, 31), (40, 90), (9, 50)])
def test_logistic__of_sparse_features_is_that_of_dense_ones(num: int, width: int) -> None:
    x, labels = words(0, num, width)
    shares = [0.1, 1e-2, 10.0]
    penalties = [share * num for share in shares]
    options = {"num_classes": CLASSES, "penalties": penalties, "max_iterations": 2000}
    dense = fit_logistic(x, labels, **options)  # type: ignore[arg-type]  # mixed values
    sparse = fit_logistic(x.to_sparse(), labels, **options)  # type: ignore[arg-type]  # ditto
    for one, other, share in zip(sparse, dense, shares, strict=True):
        assert one.weight.shape == (width, CLASSES)
        assert not one.weight.is_sparse
        found, expected = (
            loss(x, labels, fit.weight, fit.bias, share * num) for fit in (one, other)
        )
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=0)
        torch.testing.assert_close(one.weight, other.weight, rtol=0, atol=1e-4)
        torch.testing.assert_close(one.scores(x.to_sparse()), one.scores(x))


def test_logistic__of_sparse_features_is_at_the_minimum_for_centred_ones() -> None:
    """The slope by automatic differentiation of the loss as written, on the centred features."""
    x, labels = words(1, 60, 20)
    (fitted,) = fit_logistic(x.to_sparse(), labels, num_classes=CLASSES, penalties=[3.0])
    weight, mean = fitted.weight.requires_grad_(), x.mean(0)
    bias = (fitted.bias + mean @ fitted.weight).detach().requires_grad_()
    gradients = torch.autograd.grad(loss(x - mean, labels, weight, bias, 3.0), [weight, bias])
    assert max(float(g.abs().max()) for g in gradients) < 60 * 1e-5


def test_logistic__gives_features_that_no_labelled_sample_has_no_weight() -> None:
    x, labels = words(2, 50, 30)
    x[:, [0, 7, 29]] = 0
    (fitted,) = fit_logistic(x.to_sparse(), labels, num_classes=CLASSES, penalties=[1.0])
    unused = torch.zeros(30, dtype=torch.bool)
    unused[[0, 7, 29]] = True
    assert torch.equal((fitted.weight == 0).all(1), unused)


# Nearest neighbours


def slow_cosine(a: Tensor, b: Tensor, centre: Tensor) -> float:
    a, b = a - centre, b - centre
    return math.fsum((a * b).tolist()) / math.sqrt(
        math.fsum((a * a).tolist()) * math.fsum((b * b).tolist())
    )


@pytest.mark.parametrize("centred", [True, False])
def test_cosine__of_sparse_and_dense_samples_equals_plain_loops(centred: bool) -> None:
    train, _ = words(3, 26, 17)
    train = train[train.any(1)]
    queries, _ = words(4, 9, 17)
    queries = queries[queries.any(1)]
    centre = train.mean(0) if centred else torch.zeros(17, dtype=torch.float64)
    expected = [[slow_cosine(q, row, centre) for row in train] for q in queries]
    for kind in (train.to_sparse(), train):
        found = classifiers._cosine(kind, centre)(queries)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_cosine__with_a_sample_that_is_the_centre_is_none() -> None:
    train = torch.tensor([[0.1, 0.7, 0.3], [0.3, 0.2, 0.9]])
    found = classifiers._cosine(train.to_sparse(), train[0])(torch.eye(3))
    assert float(found[:, 0].abs().max()) < 1e-3
    nothing = torch.zeros(2, 3).to_sparse()
    assert torch.equal(
        classifiers._cosine(nothing, torch.zeros(3))(torch.eye(3)), torch.zeros(3, 2)
    )


def test_knn__of_sparse_features_is_that_of_dense_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    train, labels = words(5, 80, 40)
    queries, _ = words(6, 57, 40)
    centre, ks = train.mean(0), [1, 5, 100]
    expected = knn_predictions(train - centre, labels, queries - centre, num_classes=CLASSES, ks=ks)
    for at_once in (1 << 20, 80 * 10):  # all queries, ten at a time
        monkeypatch.setattr(classifiers, "_SIMILARITIES_AT_ONCE", at_once)
        found = knn_predictions(
            train.to_sparse(), labels, queries.to_sparse(), num_classes=CLASSES, ks=ks,
            centre=centre,
        )  # fmt: skip
        for k in ks:
            assert torch.equal(found[k], expected[k])


# Scores


def scores(sparse: bool, unit: float = 1, **settings: Any) -> list[Score]:
    found = []
    for seed, num in ((10, 150), (20, 60), (30, 70)):
        x, labels = words(seed, num, 45)
        x = unit * x
        found.append(FeatureSet(features=x.to_sparse() if sparse else x, labels=labels))
    chosen = ProbeSettings.model_validate({"l2_grid": (1e-2, 0.1, 1.0), "draws": 3} | settings)
    train, val, test = found
    return probe_scores(train, val, test, chosen, num_classes=CLASSES, seed=0)


def test_scores__of_sparse_features_are_those_of_dense_ones() -> None:
    sparse, dense = (scores(kind, labels_per_class=(2, 10, "all")) for kind in (True, False))
    assert sparse == dense
    assert {score.classifier for score in sparse} == {"linear", "knn"}
    assert max(score.accuracy.mean for score in sparse) > 0.6, "there is something to find"


def test_scores__of_sparse_features_do_not_depend_on_their_unit() -> None:
    one, other = (scores(True, unit, labels_per_class=(4, "all")) for unit in (1, 64))
    assert one == other


def test_scores__of_splits_with_features_of_another_width_are_refused() -> None:
    x, labels = words(40, 30, 45)
    one = FeatureSet(features=x, labels=labels)
    wide = FeatureSet(features=torch.cat([x, x], 1), labels=labels)
    with pytest.raises(UsageError, match=r"45, 45, 90\] features.*pool=mean"):
        probe_scores(one, one, wide, ProbeSettings(), num_classes=CLASSES, seed=0)
