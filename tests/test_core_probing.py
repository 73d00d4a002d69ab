"""Proves: labelled samples are drawn by class and seed, and shared by all features.

Choices fall on val and scores on test, features are pooled over data alone, and intervals are the
textbook's.
"""

import hashlib
import math
from collections import Counter
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from scipy import stats
from torch import Tensor, nn

from d2v.core import probing
from d2v.core.features import mean_over_tokens, pooled_features
from d2v.core.probing import FeatureSet, ProbeSettings, draw_labelled, probe_scores
from d2v.core.seeding import generator_for, seed_for
from d2v.core.statistics import accuracy_estimate
from d2v.errors import UsageError
from d2v.types import Batch, Tokens
from tests.maths_case import Given, normal, seeded, tail_padding, tiny_encoder

LABELS = torch.tensor([0] * 30 + [1] * 7 + [2] * 3 + [-1] * 5)[
    torch.randperm(45, generator=seeded(0))
]


def split(seed: int, num: int) -> FeatureSet:
    labels = torch.arange(num) % 3
    return FeatureSet(
        features=(normal(seed, num, 6) + 2 * labels.unsqueeze(1)).float(), labels=labels
    )


# Draws


@pytest.mark.parametrize("budget", [1, 3, 5, 100])
def test_draw__takes_the_budget_of_every_class_or_all_of_a_smaller_one(budget: int) -> None:
    for seed in range(20):
        drawn = draw_labelled(LABELS, budget, seeded(seed))
        counts = Counter(LABELS[drawn].tolist())
        assert counts == {0: min(30, budget), 1: min(7, budget), 2: min(3, budget)}
        assert len(set(drawn.tolist())) == len(drawn), "nobody twice"


def test_draw__of_all_is_every_labelled_sample() -> None:
    drawn = draw_labelled(LABELS, "all", seeded(1))
    assert sorted(drawn.tolist()) == (LABELS >= 0).nonzero().flatten().tolist()


def test_draw__is_fixed_by_its_seed_and_every_sample_can_be_drawn() -> None:
    draws = [draw_labelled(LABELS, 2, seeded(seed)).tolist() for seed in range(300)]
    assert draws[7] == draw_labelled(LABELS, 2, seeded(7)).tolist()
    assert {number for drawn in draws for number in drawn} == set(
        (LABELS >= 0).nonzero().flatten().tolist()
    )


def test_draw__of_a_larger_budget_contains_the_smaller() -> None:
    small, large = (set(draw_labelled(LABELS, n, seeded(4)).tolist()) for n in (2, 5))
    assert small < large


def drawn_labels(monkeypatch: pytest.MonkeyPatch, features: int, seed: int) -> list[list[int]]:
    found: list[list[int]] = []

    def keep(labels: Tensor, budget: probing.Budget, generator: torch.Generator) -> Tensor:
        drawn = draw_labelled(labels, budget, generator)
        found.append(drawn.tolist())
        return drawn

    settings = ProbeSettings(labels_per_class=(1, 4, "all"), draws=3, l2_grid=(0.1,), k_grid=(1,))
    with monkeypatch.context() as patch:
        patch.setattr(probing, "draw_labelled", keep)
        train, val, test = (split(features + i, 40) for i in range(3))
        probe_scores(train, val, test, settings, num_classes=3, seed=seed)
    return found


def test_draws__are_shared_by_all_features_and_change_with_the_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = drawn_labels(monkeypatch, features=10, seed=0)
    assert [len(drawn) for drawn in one] == [3] * 3 + [12] * 3 + [40]
    assert len({tuple(drawn) for drawn in one}) == 7, "every draw is another"
    assert one == drawn_labels(monkeypatch, features=20, seed=0)
    assert one != drawn_labels(monkeypatch, features=10, seed=1)


def test_seeds__differ_by_purpose_and_number_and_never_change() -> None:
    packed = b"labels" + bytes([0] * 8) + bytes([1] + [0] * 7)  # whole numbers, little end first
    digest = hashlib.blake2b(packed, digest_size=8).digest()
    assert seed_for("labels", 0, 1) == int.from_bytes(digest, "little") >> 1 == 3296567512266326910
    others = [seed_for("labels", 1, 0), seed_for("weights", 0, 1), seed_for("labels", 0)]
    assert len({seed_for("labels", 0, 1), *others}) == 4
    one, two = (torch.rand(3, generator=generator_for("labels", 5)) for _ in range(2))
    assert torch.equal(one, two)


# Scores


def test_scores__are_fixed_by_the_seed_and_cover_every_budget() -> None:
    settings = ProbeSettings(labels_per_class=(2, "all"), draws=3)
    train, val, test = split(1, 60), split(2, 30), split(3, 50)
    runs = [probe_scores(train, val, test, settings, num_classes=3, seed=0) for _ in range(2)]
    assert runs[0] == runs[1]
    assert [(s.classifier, s.budget, len(s.accuracies)) for s in runs[0]] == [
        ("linear", 2, 3),
        ("knn", 2, 3),
        ("linear", "all", 1),
        ("knn", "all", 1),
    ]
    for score in runs[0]:
        assert score.accuracy == accuracy_estimate(score.accuracies, 50)
        assert 0.5 < score.accuracy.mean <= 1


def test_scores__choose_on_val_and_do_not_look_at_test() -> None:
    settings = ProbeSettings(labels_per_class=(4, "all"), draws=2)
    train, val, test = split(1, 60), split(2, 30), split(3, 51)
    wrong = FeatureSet(features=test.features, labels=(test.labels + 1) % 3)
    honest, spoilt = (
        probe_scores(train, val, part, settings, num_classes=3, seed=0) for part in (test, wrong)
    )
    for one, other in zip(honest, spoilt, strict=True):
        assert one.chosen == other.chosen
        assert one.accuracy.mean + other.accuracy.mean <= 1 + 1e-6


def test_scores__do_not_depend_on_the_features_unit_or_origin() -> None:
    settings = ProbeSettings(labels_per_class=(3,), draws=2)
    found = []
    for unit, origin in ((1, 0), (64, 512)):
        train, val, test = (
            FeatureSet(features=unit * part.features + origin, labels=part.labels)
            for part in (split(1, 60), split(2, 30), split(3, 50))
        )
        scores = probe_scores(train, val, test, settings, num_classes=3, seed=0)
        found.append([score.accuracies for score in scores])
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "changes",
    [{"labels_per_class": ()}, {"labels_per_class": (0,)}, {"l2_grid": (0.0,)}, {"k_grid": ()}],
)
def test_settings__nonsense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(changes))):
        ProbeSettings.model_validate(changes)


# Pooling


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("block", [None, 1, 2, 3])
def test_pooling__is_over_tokens_with_data(block: int | None, padded: bool) -> None:
    encoder = tiny_encoder()
    padding = tail_padding([6, 3], 6) if padded else None
    tokens = Tokens(values=normal(1, 2, 6, 12), padding=padding, num_prefix=1)
    x = tokens.values
    for inner in encoder.blocks[:block]:
        blocked = None if padding is None else torch.where(padding, -math.inf, 0.0)
        x = inner(x, None if blocked is None else blocked[:, None, None].double()).end_of_block
    norm = (
        encoder.norm if block in (None, 3) else nn.LayerNorm(12, elementwise_affine=False).double()
    )
    x = norm(x).detach()
    lengths = [6, 3] if padded else [6, 6]
    mean = torch.stack([x[b, 1 : lengths[b]].mean(0) for b in range(2)])
    expected = {
        "mean": mean,
        "cls": x[:, 0],
        "mean_cls": torch.cat([mean, x[:, 0]], 1),
    }
    if not padded:
        expected["tokens"] = x[:, 1:].flatten(1)
    batch = Batch(inputs=tokens.values)
    assert torch.equal(mean_over_tokens(x[:, 1:], None), x[:, 1:].mean(1))
    for pool, vector in expected.items():
        found = pooled_features(Given(tokens), encoder, batch, pool=pool, block=block)  # type: ignore[arg-type]  # a key of the table above
        torch.testing.assert_close(found, vector.float(), rtol=1e-5, atol=1e-5)


def test_pooling__all_tokens_of_samples_that_differ_in_length_are_refused() -> None:
    tokens = Tokens(values=normal(1, 2, 6, 12), padding=tail_padding([6, 3], 6))
    batch = Batch(inputs=tokens.values)
    with pytest.raises(UsageError, match=r"probe\.pool is tokens.*differ in length.*pool=mean"):
        pooled_features(Given(tokens), tiny_encoder(), batch, pool="tokens", block=None)


def test_pooling__cls_is_the_first_token_where_nothing_stands_before_the_data() -> None:
    tokens = Tokens(values=normal(1, 2, 6, 12), padding=tail_padding([6, 3], 6), num_prefix=0)
    encoder, batch = tiny_encoder(), Batch(inputs=tokens.values)
    x = encoder(tokens).last.detach()
    mean = torch.stack([x[0].mean(0), x[1, :3].mean(0)])
    found = pooled_features(Given(tokens), encoder, batch, pool="mean_cls", block=None)
    torch.testing.assert_close(found, torch.cat([mean, x[:, 0]], 1).float())


# Intervals


@pytest.mark.parametrize(("right", "num"), [(0, 10), (1, 10), (81, 263), (15, 148), (500, 500)])
def test_interval__of_one_draw_is_wilsons(right: int, num: int) -> None:
    found = accuracy_estimate([right / num], num)
    exact = stats.binomtest(right, num).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-12)
    assert (found.mean, found.std) == (right / num, 0.0)


def test_interval__of_newcombes_table_is_met() -> None:
    """81 of 263: 0.2553 to 0.3662; 15 of 148: 0.0624 to 0.1605 (Newcombe 1998, method 3)."""
    for right, num, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)):
        found = accuracy_estimate([right / num], num)
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_interval__of_several_draws_is_students_plus_the_test_sets() -> None:
    accuracies = [0.52, 0.61, 0.47, 0.58, 0.55]
    found = accuracy_estimate(accuracies, 400)
    mean = sum(accuracies) / 5
    std = math.sqrt(sum((a - mean) ** 2 for a in accuracies) / 4)
    from_draws = 2.7764451 * std / math.sqrt(5)  # Student's t, 4 degrees of freedom, 97.5 %
    p = (sum(accuracies) / 5 * 400 + 2) / 404  # Agresti and Coull: two right and two wrong more
    half = math.sqrt(from_draws**2 + 1.95996398**2 * p * (1 - p) / 400)
    assert (found.mean, found.std) == pytest.approx((mean, std))
    assert (found.low, found.high) == pytest.approx((mean - half, mean + half), rel=1e-7)
    endless = accuracy_estimate(accuracies, 10**12)
    t = stats.t.interval(0.95, 4, loc=mean, scale=stats.sem(accuracies))
    assert (endless.low, endless.high) == pytest.approx(t, rel=1e-6)


def test_interval__stays_in_0_to_1() -> None:
    found = accuracy_estimate([0.99, 1.0, 0.9], 20)
    assert (found.low > 0, found.high) == (True, 1.0)
    assert accuracy_estimate([0.0, 0.1], 20).low == 0


def test_interval__of_draws_that_are_all_right_leaves_doubt() -> None:
    found = accuracy_estimate([1.0] * 5, 50)
    assert (found.mean, found.std, found.high) == (1, 0, 1)
    assert 0.9 < found.low < 0.97
