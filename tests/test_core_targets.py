"""Proves: targets and loss are those of reference sections 1.2 and 1.3.

For every feature, norm and beta, with padding and without.
"""

import itertools
import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from d2v.core.encoder import Encoded
from d2v.core.targets import TargetFeature, TargetNorm, average_top_k, normalise, regression_loss
from d2v.types import Tokens
from tests.maths_case import normal, tail_padding, tiny_encoder

NORMS = get_args(TargetNorm)
FEATURES = get_args(TargetFeature)
SAMPLES, LENGTH, DIM = 3, 5, 12
PADDING = tail_padding([5, 2, 4], LENGTH)

Place = tuple[int, int, int]


def slow_normalise(x: Tensor, norm: str, padding: Tensor) -> Tensor:
    """Each place minus the mean of its group, over sqrt(biased variance + 1e-5)."""
    if norm == "none":
        return x
    groups: dict[object, list[Place]] = {}
    for b, t, d in itertools.product(*map(range, x.shape)):
        if not padding[b, t]:
            group = {"layer": (b, t), "instance": (b, d), "batch": d}[norm]
            groups.setdefault(group, []).append((b, t, d))
    out = torch.zeros_like(x)
    for places in groups.values():
        values = [float(x[place]) for place in places]
        mean = math.fsum(values) / len(values)
        variance = math.fsum((value - mean) ** 2 for value in values) / len(values)
        for place, value in zip(places, values, strict=True):
            out[place] = (value - mean) / math.sqrt(variance + 1e-5)
    return out


def slow_targets(features: list[Tensor], per_layer: str, after: str, padding: Tensor) -> Tensor:
    total = torch.zeros_like(features[0])
    for feature in features:
        total += slow_normalise(feature, per_layer, padding)
    return slow_normalise(total / len(features), after, padding)


def features_of(feature: TargetFeature, padding: Tensor | None) -> list[Tensor]:
    """Two real features of a post-norm encoder, where all four kinds differ."""
    with torch.no_grad():
        tokens = Tokens(values=normal(3, SAMPLES, LENGTH, DIM), padding=padding)
        encoded: Encoded = tiny_encoder(norm_position="post")(tokens, feature, 2)
        return encoded.features


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("after", NORMS)
@pytest.mark.parametrize("per_layer", NORMS)
@pytest.mark.parametrize("feature", FEATURES)
def test_targets__equal_plain_loops(
    feature: TargetFeature, per_layer: TargetNorm, after: TargetNorm, padded: bool
) -> None:
    padding = PADDING if padded else torch.zeros_like(PADDING)
    features = features_of(feature, padding if padded else None)
    fast = average_top_k(
        features, layer_norm=per_layer, mean_norm=after, padding=padding if padded else None
    )
    slow = slow_targets(features, per_layer, after, padding)
    torch.testing.assert_close(fast[~padding], slow[~padding], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("norm", NORMS)
def test_normalise__gradient_equals_differences(norm: TargetNorm, padded: bool) -> None:
    padding = PADDING[:, :, None] if padded else torch.zeros(SAMPLES, LENGTH, 1, dtype=torch.bool)

    def kept(x: Tensor) -> Tensor:
        return normalise(x, norm, padding.squeeze(2) if padded else None).masked_fill(padding, 0)

    x = normal(1, SAMPLES, LENGTH, 4).requires_grad_()
    assert torch.autograd.gradcheck(kept, (x,))


@pytest.mark.parametrize("norm", NORMS)
def test_targets__do_not_depend_on_what_lies_in_the_padding(norm: TargetNorm) -> None:
    x = normal(5, SAMPLES, LENGTH, DIM)
    other = torch.where(PADDING.unsqueeze(2), 1e6 * normal(6, *x.shape), x)
    one, two = (
        average_top_k([part], layer_norm=norm, mean_norm=norm, padding=PADDING)[~PADDING]
        for part in (x, other)
    )
    torch.testing.assert_close(one, two, rtol=0, atol=0)


@pytest.mark.parametrize("norm", ["layer", "instance", "batch"])
def test_targets__of_half_precision_features_are_computed_in_float32(norm: TargetNorm) -> None:
    x = (100 + normal(7, SAMPLES, LENGTH, DIM)).bfloat16()
    found = average_top_k([x], layer_norm=norm, mean_norm="none")
    assert found.dtype == torch.float32
    slow = slow_normalise(x.double(), norm, torch.zeros_like(PADDING))
    torch.testing.assert_close(found.double(), slow, rtol=1e-4, atol=1e-4)


def test_targets__norms_per_layer_and_after_the_mean_are_not_the_same() -> None:
    features = [normal(8, 2, 4, DIM), 100 * normal(9, 2, 4, DIM)]
    per_layer = average_top_k(features, layer_norm="layer", mean_norm="none")
    after = average_top_k(features, layer_norm="none", mean_norm="layer")
    first, second = (normalise(feature, "layer") for feature in features)
    torch.testing.assert_close(per_layer, (first + second) / 2)
    assert (after - second).abs().max() < 0.2, "the loud block drowns the quiet one"


# Loss


def slow_loss(p: float, y: float, beta: float) -> tuple[float, float]:
    """Value and derivative by the prediction of one element."""
    difference = p - y
    if beta == 0:
        return difference**2, 2 * difference
    if abs(difference) < beta:
        return 0.5 * difference**2 / beta, difference / beta
    return abs(difference) - 0.5 * beta, math.copysign(1, difference)


@pytest.mark.parametrize("beta", [0, 0.5, 2, 4])
def test_loss__equals_plain_loops_in_value_and_gradient(beta: float) -> None:
    prediction = (3 * normal(10, 7, 5)).requires_grad_()
    target = normal(11, 7, 5)
    loss = regression_loss(prediction, target, beta=beta)
    (gradient,) = torch.autograd.grad(loss.sum(), prediction)
    branches = set()
    for place in itertools.product(range(7), range(5)):
        p, y = prediction[place].item(), target[place].item()
        value, slope = slow_loss(p, y, beta)
        assert loss[place].item() == pytest.approx(value, rel=1e-12)
        assert float(gradient[place]) == pytest.approx(slope, rel=1e-12)
        branches.add(abs(p - y) < beta)
    assert beta in (0, 4) or branches == {True, False}, "both branches are tested"


def test_loss__at_beta_0_is_squared_error_not_absolute() -> None:
    found = regression_loss(torch.tensor([3.0, -2.0]), torch.zeros(2), beta=0)
    assert found.tolist() == [9, 4]


def test_loss__meets_itself_where_smooth_l1_turns() -> None:
    just = torch.tensor([2 - 1e-9, 2 + 1e-9], dtype=torch.float64)
    low, high = regression_loss(just, torch.zeros_like(just), beta=2).tolist()
    assert low == pytest.approx(1)
    assert high == pytest.approx(1)


@pytest.mark.parametrize("padded", [False, True])
def test_batch_norm__over_two_processes_is_that_of_the_whole_batch(padded: bool) -> None:
    """Each process sees a part; the sums that `total` hands back are those of both."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(5, 4, 3, generator=generator, dtype=torch.float64)
    padding = torch.rand(5, 4, generator=generator) < 0.3 if padded else None
    parts = [slice(0, 2), slice(2, 5)]

    def sums_of(calls: list[list[torch.Tensor]], part: int) -> torch.Tensor:
        own: list[torch.Tensor] = []

        def total(value: torch.Tensor) -> torch.Tensor:
            own.append(value.clone())
            known = calls[len(own) - 1] if len(own) <= len(calls) else [value]
            return torch.stack(known).sum(0)

        normalise(x[parts[part]], "batch", None if padding is None else padding[parts[part]], total)
        return own[len(calls)] if len(own) > len(calls) else own[-1]

    calls: list[list[torch.Tensor]] = []
    for _ in range(3):  # count, mean, variance: what one process sums, both must have computed
        calls.append([sums_of(calls, 0), sums_of(calls, 1)])
    whole = normalise(x, "batch", padding)
    for part in parts:
        queue = iter(calls)
        cut = normalise(
            x[part],
            "batch",
            None if padding is None else padding[part],
            lambda value, queue=queue: torch.stack(next(queue)).sum(0),  # type: ignore[misc]  # bound now
        )
        keep = slice(None) if padding is None else ~padding[part]
        assert torch.allclose(cut[keep], whole[part][keep], rtol=0, atol=1e-12)
