"""The two classifiers that read frozen features: logistic regression and nearest neighbours.

Letters: N samples, Q queries, F width of a feature, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

_KNN_TEMPERATURE = 0.07
_SIMILARITIES_AT_ONCE = 1 << 27


@dataclass(frozen=True, kw_only=True)
class Logistic:
    """A fitted linear classifier: (F, C) weights and (C,) biases."""

    weight: Tensor
    bias: Tensor

    def scores(self, features: Tensor) -> Tensor:
        """(Q, F) -> (Q, C) logits."""
        return features @ self.weight + self.bias


def fit_logistic(
    features: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    penalties: Sequence[float],
    max_iterations: int = 200,
) -> list[Logistic]:
    """Multinomial logistic regression: minimises sum of cross entropies + l2 / 2 * |weight|^2.

    One classifier for each l2 in `penalties`. With fewer samples than features the search runs in
    the samples' span, where the solution lies (representer theorem), and from zero: the classes are
    separable there, and a start from another penalty's answer stalls. With more samples it starts
    from the next larger penalty's answer. Both save work and keep the answers.

    Args:
        features: (N, F) float.
        labels: (N,) int64, 0..C-1.
        num_classes: C.
        penalties: on the weights, not on the biases; each is scikit-learn's 1 / C.
        max_iterations: of L-BFGS, for each penalty.

    Returns:
        The classifiers, in the order of `penalties`.
    """
    basis: Tensor | None = None
    x = features
    if len(features) < features.shape[1]:
        u, s, v = torch.linalg.svd(features, full_matrices=False)
        x, basis = u * s, v  # features = x @ basis, with orthonormal rows of basis
    weight = x.new_zeros(x.shape[1], num_classes, requires_grad=True)
    bias = x.new_zeros(num_classes, requires_grad=True)
    found: dict[float, Logistic] = {}
    for l2 in sorted(penalties, reverse=True):
        if basis is not None:
            weight, bias = (torch.zeros_like(t, requires_grad=True) for t in (weight, bias))
        _minimise(x, labels, weight, bias, l2, max_iterations)
        solution = weight.detach().clone()
        found[l2] = Logistic(
            weight=solution if basis is None else basis.T @ solution, bias=bias.detach().clone()
        )
    return [found[l2] for l2 in penalties]


def _minimise(
    x: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, l2: float, max_iterations: int
) -> None:
    """Move weight and bias to the minimum, in place."""
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=max_iterations,
        tolerance_grad=1e-6,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight + bias, labels, reduction="sum")
        loss = (loss + 0.5 * l2 * weight.square().sum()) / len(x)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)


def knn_predictions(
    train: Tensor, labels: Tensor, queries: Tensor, *, num_classes: int, ks: list[int]
) -> dict[int, Tensor]:
    """Vote of the k most similar training samples by cosine, weighted by exp(similarity / 0.07).

    Args:
        train: (N, F) float.
        labels: (N,) int64.
        queries: (Q, F) float.
        num_classes: C.
        ks: numbers of neighbours; those above N count as N.

    Returns:
        k -> (Q,) int64 predicted class.
    """
    train, queries = F.normalize(train, dim=1), F.normalize(queries, dim=1)
    most = min(max(ks), len(train))
    found: dict[int, list[Tensor]] = {k: [] for k in ks}
    for some in queries.split(max(1, min(1024, _SIMILARITIES_AT_ONCE // len(train)))):
        similarity, nearest = (some @ train.T).topk(most, dim=1)  # (q, most)
        weights = ((similarity - 1) / _KNN_TEMPERATURE).exp()
        votes = F.one_hot(labels[nearest], num_classes) * weights.unsqueeze(-1)  # (q, most, C)
        running = votes.cumsum(1)
        for k in ks:
            found[k].append(running[:, min(k, most) - 1].argmax(1))
    return {k: torch.cat(parts) for k, parts in found.items()}
