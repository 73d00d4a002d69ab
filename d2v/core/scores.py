"""Scores of predictions: tensors in, floats out.

Letters: N samples, C classes. No samples, no score: every function answers NaN then.
"""

import math

import torch
from torch import Tensor


def accuracy(predicted: Tensor, truth: Tensor) -> float:
    """Share of samples whose predicted class is the true one.

    Args:
        predicted: (N,) class ids, integers.
        truth: (N,) class ids, integers.

    Returns:
        0..1; NaN without samples.
    """
    _check_pairs(predicted, truth)
    return float((predicted == truth).double().mean())


def among_top_k(logits: Tensor, truth: Tensor, k: int) -> Tensor:
    """Which samples have their true class among the k likeliest; their share is top-k accuracy.

    Of equal logits the class with the lower id goes first, so that a model which says the same of
    all classes gains nothing.

    Args:
        logits: (N, C), higher is likelier.
        truth: (N,) class ids, 0..C-1.
        k: 1 or more; from C on every sample counts as right.

    Returns:
        (N,) bool.
    """
    assert k >= 1
    assert logits.dim() == 2
    _check_pairs(logits[:, 0], truth)
    ranked = logits.argsort(dim=1, descending=True, stable=True)  # (N, C)
    return (ranked[:, :k] == truth.unsqueeze(1)).any(1)


def confusion(predicted: Tensor, truth: Tensor, num_classes: int) -> Tensor:
    """How often each class was taken for which.

    Args:
        predicted: (N,) class ids, 0..C-1.
        truth: (N,) class ids, 0..C-1.
        num_classes: C.

    Returns:
        (C, C) int64 counts: rows are true classes, columns predicted ones.
    """
    _check_pairs(predicted, truth)
    for ids in (predicted, truth):  # an id too large would be filed under another class
        assert ids.numel() == 0 or (int(ids.min()) >= 0 and int(ids.max()) < num_classes)
    cells = truth.long() * num_classes + predicted.long()
    return torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)


def macro_f1(predicted: Tensor, truth: Tensor, num_classes: int) -> float:
    """Mean of the classes' F1, over the classes that occur in truth or prediction.

    A class that is predicted but never true, or true but never predicted, counts with 0.

    Args:
        predicted: (N,) class ids, 0..C-1.
        truth: (N,) class ids, 0..C-1.
        num_classes: C.

    Returns:
        0..1; NaN without samples.

    Source: scikit-learn, `f1_score(average="macro", zero_division=0)`.
    """
    counts = confusion(predicted, truth, num_classes).double()
    occurrences = counts.sum(0) + counts.sum(1)  # (C,) of each class, predicted and true
    occurs = occurrences > 0
    return float((2 * counts.diagonal()[occurs] / occurrences[occurs]).mean())


def f1(predicted: Tensor, truth: Tensor) -> float:
    """Harmonic mean of precision and recall of class 1 of two.

    Args:
        predicted: (N,) class ids, 0 or 1.
        truth: (N,) class ids, 0 or 1.

    Returns:
        0..1; 0 where class 1 is neither true nor predicted of any sample; NaN without samples.

    Source: the figure of MRPC and QQP in GLUE (Wang et al. 2018, section 3).
    """
    counts = confusion(predicted, truth, 2)
    if not len(truth):
        return math.nan
    occurrences = int(counts[1].sum() + counts[:, 1].sum())
    return 2 * int(counts[1, 1]) / occurrences if occurrences else 0.0


def matthews(predicted: Tensor, truth: Tensor) -> float:
    """Matthews' correlation of two labellings with any number of classes.

    Args:
        predicted: (N,) class ids, 0 or more.
        truth: (N,) class ids, 0 or more.

    Returns:
        -1..1; 0 where either side knows one class only, since nothing varies together then; NaN
        without samples.

    Source: Matthews 1975 for two classes, R_K of Gorodkin 2004 for more; the figure of CoLA.
    """
    if not len(truth):
        _check_pairs(predicted, truth)
        return math.nan
    counts = confusion(predicted, truth, 1 + int(torch.maximum(predicted, truth).max()))
    said, true = counts.sum(0).double(), counts.sum(1).double()  # (C,)
    squared_size = float(len(truth)) ** 2
    covariance = float(counts.trace()) * len(truth) - float(said @ true)
    spread = (squared_size - float(said @ said)) * (squared_size - float(true @ true))
    return covariance / math.sqrt(spread) if spread > 0 else 0.0


def pearson(x: Tensor, y: Tensor) -> float:
    """Linear correlation of two series.

    Args:
        x: (N,) numbers.
        y: (N,) numbers.

    Returns:
        -1..1; 0 where a series is constant (so a single sample too): the quotient has no value
        there, and a model that always answers the same knows nothing. NaN without samples, or
        where a number is NaN or infinite.

    Source: Pearson 1895; in float64.
    """
    _check_pairs(x, y)
    x, y = x.double(), y.double()
    if not len(x) or not bool((x.isfinite() & y.isfinite()).all()):
        return math.nan
    if bool((x == x[0]).all()) or bool((y == y[0]).all()):  # rounding would hide it further on
        return 0.0
    return max(-1.0, min(1.0, float(_direction(x) @ _direction(y))))


def spearman(x: Tensor, y: Tensor) -> float:
    """Correlation of the ranks of two series; equal numbers share the mean of their ranks.

    Args:
        x: (N,) numbers.
        y: (N,) numbers.

    Returns:
        -1..1; 0 and NaN as `pearson`, of which this is a case.

    Source: Spearman 1904; ties as `scipy.stats.rankdata(method="average")`.
    """
    _check_pairs(x, y)
    if not bool((x.isfinite() & y.isfinite()).all()):
        return math.nan  # a NaN would get a rank
    return pearson(_mean_ranks(x), _mean_ranks(y))


def _mean_ranks(x: Tensor) -> Tensor:
    """(N,) float64 ranks, 1..N."""
    _, place, counts = x.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()  # rank of the last of each group of equal numbers
    ranks: Tensor = last - (counts.double() - 1) / 2
    return ranks.index_select(0, place)


def _direction(x: Tensor) -> Tensor:
    """(N,) without its mean, of length 1; divided by its largest first, so that no square is 0."""
    centred = x - x.mean()
    centred = centred / centred.abs().max()
    return centred / centred.square().sum().sqrt()


def _check_pairs(predicted: Tensor, truth: Tensor) -> None:
    """(N,) and (N, 1) would be compared as (N, N)."""
    assert predicted.shape == truth.shape == (len(truth),), (predicted.shape, truth.shape)
