"""Scores of frozen features at several label budgets, chosen on val, told on test.

Letters: N samples, F width of a feature, C classes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from d2v.core.classifiers import fit_logistic, knn_predictions
from d2v.core.features import Pool
from d2v.core.seeding import generator_for
from d2v.core.statistics import Estimate, accuracy_estimate
from d2v.errors import UsageError
from d2v.settings import Settings

Budget = int | Literal["all"]


class ProbeSettings(Settings):
    """What is read from the frozen encoder, and how it is scored."""

    network: Literal["student", "teacher"] = "student"
    """Whose features."""
    pool: Pool = "mean"
    """How a sample's tokens become one vector."""
    block: int | None = Field(None, ge=1)
    """Which block's output, 1..depth; null for the encoder's output."""
    labels_per_class: tuple[Budget, ...] = (1, 5, 20, "all")
    """Label budgets, each a row of the result."""
    draws: int = Field(5, ge=1)
    """Seeded draws of the labelled samples for each budget below all."""
    l2_grid: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    """Penalties of the linear probe over the number of labelled samples; chosen on val."""
    k_grid: tuple[int, ...] = (1, 5, 10, 20)
    """Neighbours of the kNN probe; chosen on val."""
    batch_size: int = Field(256, ge=1)
    """Samples encoded at once."""
    batch_length: float | None = Field(None, gt=0)
    """Their total length at most, each counted as the longest of them, in the modality's unit
    (seconds, tokens); null: what suits the modality."""
    baselines: bool = True
    """Also score raw features and the untrained encoder."""
    supervised: bool = False
    """Also train the same encoder from scratch with labels for equal steps, and probe that."""

    @field_validator("labels_per_class")
    @classmethod
    def _positive(cls, budgets: tuple[Budget, ...]) -> tuple[Budget, ...]:
        if not budgets or any(isinstance(budget, int) and budget < 1 for budget in budgets):
            raise ValueError("needs at least one budget; a number is 1 or more")
        return budgets

    @field_validator("l2_grid", "k_grid")
    @classmethod
    def _above_zero(cls, grid: tuple[float, ...]) -> tuple[float, ...]:
        if not grid or min(grid) <= 0:
            raise ValueError("needs at least one value; all are above 0")
        return grid


@dataclass(frozen=True, kw_only=True)
class FeatureSet:
    """Features (N, F) float32, dense or sparse (COO), and labels (N,) int64 of one split."""

    features: Tensor
    labels: Tensor


@dataclass(frozen=True, kw_only=True)
class Score:
    """One cell of the table."""

    classifier: Literal["linear", "knn"]
    budget: Budget
    accuracy: Estimate
    accuracies: list[float]
    """One a draw."""
    chosen: list[float]
    """The grid value that won on val, one a draw."""

    def as_json(self) -> dict[str, Any]:
        """Plain dictionaries, for result.json."""
        return asdict(self)


def probe_scores(
    train: FeatureSet,
    val: FeatureSet,
    test: FeatureSet,
    settings: ProbeSettings,
    *,
    num_classes: int,
    seed: int,
) -> list[Score]:
    """Linear and kNN accuracy on test for every budget.

    Features are centred and divided by their overall deviation on train (no labels used), so that
    one grid of penalties serves every kind of feature. Sparse features are divided alone, which
    keeps them sparse, and scored as if they were centred. Draws depend on the seed and the labels
    alone: all features that share a split are scored on the same labelled samples.

    Args:
        train: labelled samples are drawn from it.
        val: chooses the grid value.
        test: touched once for each draw, after the choice.
        settings: budgets and grids.
        num_classes: C.
        seed: of the draws.

    Returns:
        One score for each classifier and budget.

    Raises:
        UsageError: another number of features in another split.
    """
    unit = _Unit.of(train.features)
    centre = unit.centre if train.features.is_sparse else None
    train, val, test = to_unit_scale(train, val, test)
    results: dict[tuple[str, Budget], list[tuple[float, float]]] = {}
    for budget in settings.labels_per_class:
        for draw in range(1 if budget == "all" else settings.draws):
            drawn = draw_labelled(train.labels, budget, generator_for("labels", seed, draw))
            some = FeatureSet(
                features=train.features.index_select(0, drawn), labels=train.labels[drawn]
            )
            linear = _linear(some, val, test, settings.l2_grid, num_classes)
            knn = _knn(some, val, test, settings.k_grid, num_classes, centre)
            results.setdefault(("linear", budget), []).append(linear)
            results.setdefault(("knn", budget), []).append(knn)
    return [
        Score(
            classifier="linear" if classifier == "linear" else "knn",
            budget=budget,
            accuracy=accuracy_estimate([accuracy for accuracy, _ in outcomes], len(test.labels)),
            accuracies=[accuracy for accuracy, _ in outcomes],
            chosen=[choice for _, choice in outcomes],
        )
        for (classifier, budget), outcomes in results.items()
    ]


def to_unit_scale(train: FeatureSet, *others: FeatureSet) -> list[FeatureSet]:
    """All splits centred and divided by the overall deviation on train; sparse ones divided alone.

    Raises:
        UsageError: another number of features in another split.
    """
    _check_widths(train, *others)
    unit = _Unit.of(train.features)
    return [unit.applied(part) for part in (train, *others)]


def draw_labelled(labels: Tensor, budget: Budget, generator: torch.Generator) -> Tensor:
    """Numbers of `budget` samples of each class (all of a smaller class), (n,) int64."""
    order = torch.randperm(len(labels), generator=generator).to(labels.device)
    if budget == "all":
        return order[labels[order] >= 0]
    shuffled = labels[order]
    classes = [c for c in shuffled.unique().tolist() if c >= 0]
    return torch.cat([order[shuffled == c][:budget] for c in classes])


@dataclass(frozen=True, kw_only=True)
class _Unit:
    """What brings features to mean 0 and an overall deviation of 1: (F,) and a scalar."""

    mean: Tensor
    scale: Tensor

    @staticmethod
    def of(x: Tensor) -> "_Unit":
        """Measured on (N, F), dense or sparse."""
        if x.is_sparse:
            mean = x.sum(0).to_dense() / len(x)
            variance = (x * x).sum() / x.numel() - mean.square().mean()
        else:
            mean = x.mean(0)
            variance = (x - mean).square().mean()
        return _Unit(mean=mean, scale=variance.clamp_min(1e-24).sqrt())

    @property
    def centre(self) -> Tensor:
        """(F,) what is still to be taken off sparse features after `applied`."""
        return self.mean / self.scale

    def applied(self, part: FeatureSet) -> FeatureSet:
        """Dense features centred and scaled, sparse ones scaled: centring would fill them."""
        x = part.features if part.features.is_sparse else part.features - self.mean
        return FeatureSet(features=x / self.scale, labels=part.labels)


def _check_widths(*parts: FeatureSet) -> None:
    widths = [part.features.shape[1] for part in parts]
    if len(set(widths)) > 1:
        raise UsageError(
            f"Samples of train, val and test have {widths} features",
            expected="as many in every split; probe.pool=tokens needs samples of one length",
            remedy="Set probe.pool=mean.",
        )


def _linear(
    train: FeatureSet, val: FeatureSet, test: FeatureSet, grid: Sequence[float], num_classes: int
) -> tuple[float, float]:
    """Test accuracy and penalty of the classifier that is best on val."""
    penalties = [l2 * len(train.labels) for l2 in grid]
    fitted = fit_logistic(
        train.features, train.labels, num_classes=num_classes, penalties=penalties
    )
    on_val = [_accuracy(one.scores(val.features).argmax(1), val.labels) for one in fitted]
    best = on_val.index(max(on_val))  # the first of equals
    return _accuracy(fitted[best].scores(test.features).argmax(1), test.labels), grid[best]


def _knn(
    train: FeatureSet,
    val: FeatureSet,
    test: FeatureSet,
    grid: Sequence[int],
    num_classes: int,
    centre: Tensor | None,
) -> tuple[float, float]:
    """Test accuracy and k of the vote that is best on val."""
    ks = list(grid)
    vote = partial(
        knn_predictions, train.features, train.labels, num_classes=num_classes, centre=centre
    )
    on_val = vote(val.features, ks=ks)
    best = max(ks, key=lambda k: _accuracy(on_val[k], val.labels))  # the first of equals
    on_test = vote(test.features, ks=[best])
    return _accuracy(on_test[best], test.labels), float(best)


def _accuracy(predicted: Tensor, labels: Tensor) -> float:
    return float((predicted == labels).float().mean())
