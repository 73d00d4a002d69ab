"""Proves: the linear probe is scikit-learn's logistic regression, the kNN vote is as documented."""

import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from d2v.core.classifiers import Logistic, fit_logistic, knn_predictions
from tests.maths_case import normal, seeded


def clusters(seed: int, num: int, dim: int, classes: int) -> tuple[Tensor, Tensor]:
    """Overlapping clusters, every class present."""
    labels = torch.randint(classes, (num,), generator=seeded(seed))
    labels[:classes] = torch.arange(classes)
    centres = normal(1000, classes, dim) / math.sqrt(dim) * 2
    return centres[labels] + 0.7 * normal(seed + 1, num, dim) + 0.3, labels


def penalised_loss(fitted: Logistic, x: Tensor, labels: Tensor, l2: float) -> float:
    """Sum of cross entropies + l2 / 2 * |weight|^2, sample by sample."""
    total = 0.5 * l2 * float(fitted.weight.double().square().sum())
    for row, label in zip(fitted.scores(x).double(), labels.tolist(), strict=True):
        total += float(torch.logsumexp(row, 0) - row[label])
    return total


def fit_one(x: Tensor, labels: Tensor, classes: int, l2: float) -> Logistic:
    (fitted,) = fit_logistic(x, labels, num_classes=classes, penalties=[l2])
    return fitted


def scikit_learns(x: Tensor, labels: Tensor, classes: int, l2: float) -> Logistic:
    """The same problem, solved by scikit-learn."""
    # Of two classes it keeps one column: a sigmoid of w is a softmax of (-w / 2, w / 2), whose
    # penalty is half as large.
    strength = (2 if classes == 2 else 1) / l2
    theirs = LogisticRegression(C=strength, tol=1e-8, max_iter=10_000)
    theirs.fit(x.numpy(), labels.numpy())
    weight, bias = torch.from_numpy(theirs.coef_).T, torch.from_numpy(theirs.intercept_)
    if classes == 2:
        weight, bias = torch.cat([-weight, weight], 1) / 2, torch.cat([-bias, bias]) / 2
    return Logistic(weight=weight, bias=bias)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("num", "dim", "classes"), [(150, 7, 4), (90, 30, 3), (20, 60, 5), (10, 200, 10), (40, 5, 2)]
)
def test_logistic__equals_scikit_learns_for_every_penalty(
    num: int, dim: int, classes: int, dtype: torch.dtype
) -> None:
    x, labels = clusters(0, num, dim, classes)
    queries, _ = clusters(7, 200, dim, classes)
    penalties = [share * num for share in (1e-3, 1.0, 1e-4, 10.0, 0.1)]  # in no order
    fitted = fit_logistic(x.to(dtype), labels, num_classes=classes, penalties=penalties)
    for ours, l2 in zip(fitted, penalties, strict=True):
        reference = scikit_learns(x, labels, classes, l2)
        assert ours.weight.shape == (dim, classes)
        found = penalised_loss(ours, x.to(dtype), labels, l2)
        assert found == pytest.approx(penalised_loss(reference, x, labels, l2), rel=1e-3)
        expected = reference.scores(queries)
        first, second = expected.topk(2, dim=1).values.T
        other = ours.scores(queries.to(dtype)).argmax(1) != expected.argmax(1)
        assert int(other.sum()) <= 4, "of 200"
        assert not (other & (first - second > 0.05 * expected.std())).any(), "toss-ups only"


def test_logistic__is_at_a_minimum() -> None:
    x, labels = clusters(3, 60, 5, 3)
    fitted = fit_one(x, labels, 3, 0.5)
    weight, bias = fitted.weight.requires_grad_(), fitted.bias.requires_grad_()
    loss = torch.nn.functional.cross_entropy(x @ weight + bias, labels, reduction="sum")
    gradients = torch.autograd.grad(loss + 0.25 * weight.square().sum(), [weight, bias])
    assert max(float(g.abs().max()) for g in gradients) < 60 * 1e-4


def test_logistic__in_the_samples_span_equals_the_search_in_all_features() -> None:
    """One feature more than samples takes the short way, two samples twice the long one."""
    x, labels = clusters(4, 12, 13, 3)
    short = fit_one(x, labels, 3, 0.4)
    doubled = fit_one(torch.cat([x, x]), labels.repeat(2), 3, 0.8)
    torch.testing.assert_close(short.weight, doubled.weight, rtol=1e-3, atol=2e-4)


def test_logistic__the_penalty_spares_the_biases() -> None:
    labels = torch.tensor([0] * 30 + [1] * 10)
    fitted = fit_one(normal(5, 40, 3), labels, 2, 1e6)
    assert float(fitted.weight.abs().max()) < 1e-3
    assert float(fitted.bias[0] - fitted.bias[1]) == pytest.approx(math.log(3), abs=1e-3)


def test_logistic__works_where_gradients_are_off() -> None:
    x, labels = clusters(6, 30, 4, 3)
    with torch.no_grad():
        inside = fit_one(x, labels, 3, 1.0)
    outside = fit_one(x, labels, 3, 1.0)
    assert torch.equal(inside.weight, outside.weight)
    assert not inside.weight.requires_grad


# Nearest neighbours


def slow_vote(train: Tensor, labels: Tensor, query: Tensor, classes: int, k: int) -> int:
    similarities = []
    for row, label in zip(train, labels.tolist(), strict=True):
        dot = math.fsum((row * query).tolist())
        lengths = math.sqrt(math.fsum((row**2).tolist()) * math.fsum((query**2).tolist()))
        similarities.append((dot / lengths, label))
    votes = [0.0] * classes
    for similarity, label in sorted(similarities, reverse=True)[:k]:
        votes[label] += math.exp(similarity / 0.07)
    return votes.index(max(votes))


@pytest.mark.parametrize(("num", "dim"), [(35, 6), (11, 40)])
def test_knn__equals_plain_loops(num: int, dim: int) -> None:
    train, labels = clusters(8, num, dim, 4)
    queries, _ = clusters(9, 25, dim, 4)
    ks = [5, 1, 12, 100]
    found = knn_predictions(train, labels, queries, num_classes=4, ks=ks)
    assert list(found) == ks
    for k in ks:
        slow = [slow_vote(train, labels, query, 4, k) for query in queries]
        assert found[k].tolist() == slow
    assert len({tuple(found[k].tolist()) for k in ks}) > 1, "k matters here"


def test_knn__of_one_equals_scikit_learns() -> None:
    train, labels = clusters(10, 120, 9, 5)
    queries, _ = clusters(11, 80, 9, 5)
    theirs = KNeighborsClassifier(n_neighbors=1, metric="cosine", algorithm="brute")
    theirs.fit(train.numpy(), labels.numpy())
    found = knn_predictions(train, labels, queries, num_classes=5, ks=[1])[1]
    assert found.tolist() == theirs.predict(queries.numpy()).tolist()


def test_knn__answers_every_query_beyond_one_batch_of_them() -> None:
    train, labels = clusters(12, 50, 4, 3)
    queries = train.repeat(50, 1)  # 2,500, each its own nearest neighbour
    found = knn_predictions(train, labels, queries, num_classes=3, ks=[1])[1]
    assert torch.equal(found, labels.repeat(50))


def test_knn__does_not_depend_on_lengths() -> None:
    train, labels = clusters(13, 40, 5, 3)
    queries, _ = clusters(14, 30, 5, 3)
    one = knn_predictions(train, labels, queries, num_classes=3, ks=[7])[7]
    scaled = train * torch.arange(1, 41).unsqueeze(1)
    two = knn_predictions(scaled, labels, 0.01 * queries, num_classes=3, ks=[7])[7]
    assert torch.equal(one, two)
