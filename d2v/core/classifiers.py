"""The two classifiers that read frozen features: logistic regression and nearest neighbours.

Letters: N samples, Q queries, F width of a feature, C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from d2v.core.sparse import SparseProduct

_KNN_TEMPERATURE = 0.07
_SIMILARITIES_AT_ONCE = 1 << 27
_ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True)
class Logistic:
    """A fitted linear classifier: (F, C) weights and (C,) biases."""

    weight: Tensor
    bias: Tensor

    def scores(self, features: Tensor) -> Tensor:
        """(Q, F), dense or sparse -> (Q, C) logits."""
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

    One classifier for each l2 in `penalties`. With fewer samples than features the search starts
    from zero: the classes are separable there, and a start from another penalty's answer stalls.
    With more samples it starts from the next larger penalty's answer. That saves work and keeps the
    answers, as does the smaller space that the search runs in, see `_space`.

    Args:
        features: (N, F) float, dense or sparse (COO). The biases are free, so that centring changes
            no answer: sparse features need none.
        labels: (N,) int64, 0..C-1.
        num_classes: C.
        penalties: on the weights, not on the biases; each is scikit-learn's 1 / C.
        max_iterations: of L-BFGS, for each penalty.

    Returns:
        The classifiers, in the order of `penalties`.
    """
    from_zero = len(features) < features.shape[1]
    space = _space(features)
    weight = features.new_zeros(space.width, num_classes, layout=torch.strided, requires_grad=True)
    bias = weight.new_zeros(num_classes, requires_grad=True)
    found: dict[float, Logistic] = {}
    for l2 in sorted(penalties, reverse=True):
        if from_zero:
            weight, bias = (torch.zeros_like(t, requires_grad=True) for t in (weight, bias))
        _minimise(space.product, labels, weight, bias, l2, max_iterations)
        found[l2] = Logistic(weight=space.widen(weight.detach()), bias=bias.detach().clone())
    return [found[l2] for l2 in penalties]


@dataclass(frozen=True, kw_only=True)
class _Space:
    """Where the search runs: weights (W, C) that stand for weights of all F features.

    Args:
        width: W.
        product: (W, C) -> (N, C), what the features times the weights would be.
        widen: (W, C) -> (F, C), a new tensor.
    """

    width: int
    product: Callable[[Tensor], Tensor]
    widen: Callable[[Tensor], Tensor]


def _space(features: Tensor) -> _Space:
    """The smallest space at hand that holds the solution.

    Sparse: the features that some sample has; the penalty holds all other weights at 0. Dense, with
    fewer samples than features: the samples' span (representer theorem).
    """
    if features.is_sparse:
        num_features, used = features.shape[1], features.coalesce().indices()[1].unique()
        product = SparseProduct(features.index_select(1, used))

        def spread(w: Tensor) -> Tensor:
            return w.new_zeros(num_features, w.shape[1]).index_copy_(0, used, w)

        return _Space(width=len(used), product=product, widen=spread)
    if len(features) < features.shape[1]:
        u, s, basis = torch.linalg.svd(features, full_matrices=False)
        x = u * s  # features = x @ basis, with orthonormal rows of basis
        return _Space(width=len(s), product=lambda w: x @ w, widen=lambda w: basis.T @ w)
    return _Space(width=features.shape[1], product=lambda w: features @ w, widen=torch.clone)


def _minimise(
    product: Callable[[Tensor], Tensor],
    labels: Tensor,
    weight: Tensor,
    bias: Tensor,
    l2: float,
    max_iterations: int,
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
        loss = F.cross_entropy(product(weight) + bias, labels, reduction="sum")
        loss = (loss + 0.5 * l2 * weight.square().sum()) / len(labels)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)


def knn_predictions(
    train: Tensor,
    labels: Tensor,
    queries: Tensor,
    *,
    num_classes: int,
    ks: list[int],
    centre: Tensor | None = None,
) -> dict[int, Tensor]:
    """Vote of the k most similar training samples by cosine, weighted by exp(similarity / 0.07).

    Args:
        train: (N, F) float, dense or sparse (COO).
        labels: (N,) int64.
        queries: (Q, F) float, like `train`.
        num_classes: C.
        ks: numbers of neighbours; those above N count as N.
        centre: (F,), taken off train and queries first; None for nothing. Sparse features stay
            sparse all the same, but for a few queries at once.

    Returns:
        k -> (Q,) int64 predicted class.
    """
    if centre is None:
        centre = train.new_zeros(train.shape[1], layout=torch.strided)
    similarities = _cosine(train, centre)
    most = min(max(ks), len(train))
    found: dict[int, list[Tensor]] = {k: [] for k in ks}
    at_once = max(1, min(1024, _SIMILARITIES_AT_ONCE // max(train.shape)))
    for numbers in torch.arange(len(queries), device=queries.device).split(at_once):
        some = queries.index_select(0, numbers).to_dense()
        similarity, nearest = similarities(some).topk(most, dim=1)  # (q, most)
        weights = ((similarity - 1) / _KNN_TEMPERATURE).exp()
        votes = F.one_hot(labels[nearest], num_classes) * weights.unsqueeze(-1)  # (q, most, C)
        running = votes.cumsum(1)
        for k in ks:
            found[k].append(running[:, min(k, most) - 1].argmax(1))
    return {k: torch.cat(parts) for k, parts in found.items()}


def _cosine(train: Tensor, centre: Tensor) -> Callable[[Tensor], Tensor]:
    """(q, F) dense -> (q, N) cosines of queries and training samples, both less `centre`.

    Of a sparse training sample b and the centre m, (a - m)'(b - m) = (a - m)'b - (a - m)'m, and the
    squared length of b - m is b'b + m'm - 2 b'm: nothing of the size (N, F) is ever filled.
    """
    if not train.is_sparse:
        others = F.normalize(train - centre, dim=1)
        return lambda queries: F.normalize(queries - centre, dim=1) @ others.T
    squared = (train * train).sum(1).to_dense() + centre.square().sum()
    # A difference below the sums' rounding is none: then no similarity is made of it.
    lengths = (squared - 2 * (train @ centre)).maximum(_ROUNDING * squared).sqrt().clamp_min(1e-12)
    product = SparseProduct(train)

    def similarities(queries: Tensor) -> Tensor:
        unit = F.normalize(queries - centre, dim=1)
        # Contiguous: with strides the product, and later the search in it, take ten times as long.
        found = product(unit.T.contiguous()).T.contiguous()  # (q, N)
        return found.sub_((unit @ centre).unsqueeze(1)).div_(lengths)

    return similarities
