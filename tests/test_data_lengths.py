"""Proves: batches of one total length are those of a plain-loop twin, waste little, lose nothing.

The rules are those that `LengthPlan` states: buckets of similar length, the longest first.
"""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch

from d2v.core.seeding import generator_for
from d2v.data.index import Ints
from d2v.data.lengths import LengthPlan
from d2v.data.order import BatchPlan, CountPlan, LengthLimit, Share, epoch_order

Lengths = list[int]


def drawn(count: int, median: float, sigma: float, seed: int = 0) -> Ints:
    """Lognormal lengths, as recordings and sentences have them."""
    rng = np.random.default_rng(seed)
    return np.maximum(1, rng.lognormal(np.log(median), sigma, count)).astype(np.int64)


CASES: list[tuple[Ints, int, LengthLimit]] = [
    (drawn(1000, 100, 0.5), 2000, LengthLimit()),
    (drawn(1000, 100, 0.5), 2000, LengthLimit(max_length=130)),
    (drawn(1000, 100, 0.5, seed=1), 777, LengthLimit(max_length=130, to_shortest=True)),
    (drawn(300, 40, 1.0), 1500, LengthLimit(to_shortest=True)),
    (drawn(37, 9, 0.4), 60, LengthLimit()),
    (np.ones(42, dtype=np.int64), 8, LengthLimit()),
    (np.full(101, 7), 50, LengthLimit()),
    (np.array([1000, *([3] * 200), *([1] * 99)]), 1000, LengthLimit()),
    (np.array([50, 50, 50, *([5] * 100), 1, 1]), 100, LengthLimit()),
    (np.array([4, 0, 3, 2, 0, 1]), 6, LengthLimit()),
]
"""Lengths, length of a batch, limit."""
cases = pytest.mark.parametrize(("lengths", "batch_length", "limit"), CASES)


# The twin


def buckets_by_loops(used: Lengths, batch_length: int, share: float) -> list[list[int]]:
    """Samples, longest first, in buckets down to a share of the longest or of four batches."""
    order = sorted(range(len(used)), key=lambda i: (-used[i], i))
    buckets: list[list[int]] = []
    while order:
        longest = used[order[0]]
        bucket: list[int] = []
        while order and (
            used[order[0]] >= share * longest or len(bucket) < 4 * (batch_length // longest)
        ):
            bucket.append(order.pop(0))
        if order and len(order) < batch_length // used[order[0]]:
            bucket, order = bucket + order, []
        buckets.append(bucket)
    return buckets


def epoch_by_loops(
    lengths: Ints, batch_length: int, limit: LengthLimit, *, seed: int, epoch: int
) -> list[tuple[Lengths, int | None]]:
    top = limit.max_length or 10**9
    used = [min(max(int(length), 1), top) for length in lengths]
    generator = generator_for("order", seed, epoch)
    keys = torch.randperm(len(used), generator=generator).tolist()
    batches, left, place = [], [], 0
    for bucket in buckets_by_loops(used, batch_length, 0.98 if limit.to_shortest else 0.9):
        longest = used[bucket[0]]
        size = batch_length // longest
        key_of = dict(zip(bucket, keys[place : place + len(bucket)], strict=True))
        place += len(bucket)
        bucket = sorted(bucket, key=key_of.__getitem__)
        while len(bucket) >= size:
            batches.append(bucket[:size])
            bucket = bucket[size:]
        left += [(sample, longest) for sample in bucket]
    while left and len(left) >= batch_length // left[0][1]:
        size = batch_length // left[0][1]
        batches.append([sample for sample, _ in left[:size]])
        left = left[size:]
    turns = torch.randperm(len(batches), generator=generator).tolist()
    shuffled = [batches[turn] for turn in turns]
    if limit.to_shortest:
        return [(batch, min(used[i] for i in batch)) for batch in shuffled]
    return [(batch, limit.max_length) for batch in shuffled]


def epoch_of(plan: BatchPlan, epoch: int) -> list[tuple[Lengths, int | None]]:
    batches = plan.epoch(epoch)
    return [batches.batch(position) for position in range(plan.steps_per_epoch)]


@cases
def test_length_plan__is_its_plain_loop_twin(
    lengths: Ints, batch_length: int, limit: LengthLimit
) -> None:
    plan = LengthPlan(lengths, batch_length, seed=4, limit=limit)
    for epoch in (0, 1, 17):
        twin = epoch_by_loops(lengths, batch_length, limit, seed=4, epoch=epoch)
        assert epoch_of(plan, epoch) == twin
        assert plan.samples_per_step == pytest.approx(np.mean([len(batch) for batch, _ in twin]))
        assert plan.smallest_batch == min(len(batch) for batch, _ in twin)


# What holds for any lengths


def random_cases() -> list[tuple[Ints, int, LengthLimit]]:
    rng = np.random.default_rng(3)
    found = []
    for seed in range(60):
        count, sigma = int(rng.integers(1, 400)), float(rng.uniform(0, 1.5))
        lengths = drawn(count, float(rng.uniform(1, 300)), sigma, seed)
        most = int(rng.integers(1, lengths.max() + 1)) if seed % 2 else None
        limit = LengthLimit(max_length=most, to_shortest=seed % 3 == 0)
        longest = int(limit.clipped(lengths).max())
        found.append((lengths, longest * int(rng.integers(1, 9)) + int(rng.integers(5)), limit))
    return found


def test_length_plan__keeps_its_promises_for_any_lengths() -> None:
    for lengths, batch_length, limit in [*random_cases(), *CASES]:
        plan, used = LengthPlan(lengths, batch_length, seed=1, limit=limit), limit.clipped(lengths)
        for epoch in range(2):
            batches = [batch for batch, _ in epoch_of(plan, epoch)]
            seen = Counter(sum(batches, []))
            assert len(batches) == plan.steps_per_epoch, "the same in every epoch"
            assert max(seen.values(), default=1) == 1, "no sample twice"
            assert all(len(batch) * used[batch].max() <= batch_length for batch in batches)
            dropped = np.delete(np.arange(len(lengths)), list(seen))
            assert used[dropped].sum() < batch_length, "less than a batch is dropped"


def test_length_plan__drops_other_samples_in_each_epoch() -> None:
    for lengths, batch_length, limit in CASES:
        plan = LengthPlan(lengths, batch_length, seed=1, limit=limit)
        ever = {i for epoch in range(120) for batch, _ in epoch_of(plan, epoch) for i in batch}
        assert len(ever) == len(lengths)


@pytest.mark.parametrize(
    ("count", "median", "sigma", "max_length", "batch_length"),
    [
        (20_000, 12.0, 0.5, None, 3800),
        (20_000, 12.0, 0.5, 20, 3800),
        (20_000, 22.0, 0.6, None, 8192),
        (900, 2.5, 0.5, None, 40),
    ],
)
def test_length_plan__pads_little_and_fills_its_batches(
    count: int, median: float, sigma: float, max_length: int | None, batch_length: int
) -> None:
    scale = 1000  # thousandths of a unit
    limit = LengthLimit(max_length=max_length and max_length * scale)
    lengths = drawn(count, median * scale, sigma)
    plan = LengthPlan(lengths, batch_length * scale, seed=0, limit=limit)
    used, batches = limit.clipped(lengths), [batch for batch, _ in epoch_of(plan, 0)]
    taken = sum(len(batch) * int(used[batch].max()) for batch in batches)
    waste = 1 - sum(int(used[batch].sum()) for batch in batches) / taken
    assert waste < 0.1
    assert taken / (len(batches) * batch_length * scale) > 0.9
    at_random = [batch for batch, _ in epoch_of(CountPlan(used, len(batches[0]), seed=0), 0)]
    padded = sum(len(batch) * int(used[batch].max()) for batch in at_random)
    assert 1 - sum(int(used[batch].sum()) for batch in at_random) / padded > 2 * waste


def test_length_plan__an_outlier_does_not_shrink_the_batches_of_the_rest() -> None:
    lengths = drawn(5000, 100, 0.3)
    plain = LengthPlan(lengths, 20_000, seed=0)
    with_one = LengthPlan(np.append(lengths, 19_000), 20_000, seed=0)
    assert with_one.steps_per_epoch <= plain.steps_per_epoch + 4


def test_length_plan__company_and_order_change_with_epoch_and_seed() -> None:
    lengths = drawn(2000, 100, 0.5)
    plans = [LengthPlan(lengths, 3000, seed=seed) for seed in (0, 0, 1)]
    first, again, other = ([batch for batch, _ in epoch_of(plan, 2)] for plan in plans)
    assert first == again
    later = [batch for batch, _ in epoch_of(plans[0], 3)]
    for batches in (other, later):
        assert {frozenset(batch) for batch in first} & {frozenset(b) for b in batches} == set()
    means = [float(lengths[batch].mean()) for batch in first]
    turns = np.diff(np.sign(np.diff(means)))
    assert np.count_nonzero(turns) > len(means) / 3, "lengths do not rise or fall over the epoch"


def test_length_plan__too_little_data_fill_no_batch() -> None:
    assert LengthPlan(np.array([3, 2, 2]), 12, seed=0).steps_per_epoch == 0
    assert LengthPlan(np.array([3, 2, 2]), 9, seed=0).steps_per_epoch == 1


# Limits


@pytest.mark.parametrize("plan_of", [
    lambda lengths, limit: CountPlan(lengths, 9, seed=2, limit=limit),
    lambda lengths, limit: LengthPlan(lengths, 900, seed=2, limit=limit),
])  # fmt: skip
def test_limit__is_none_or_the_longest_allowed_or_the_shortest_of_the_batch(
    plan_of: Callable[[Ints, LengthLimit], BatchPlan],
) -> None:
    lengths = drawn(200, 60, 0.6)
    assert all(limit is None for _, limit in epoch_of(plan_of(lengths, LengthLimit()), 1))
    most = LengthLimit(max_length=70)
    assert all(limit == 70 for _, limit in epoch_of(plan_of(lengths, most), 1))
    for batch, limit in epoch_of(plan_of(lengths, LengthLimit(max_length=70, to_shortest=True)), 1):
        assert limit == min(70, *(int(lengths[i]) for i in batch))


def test_count_plan__is_one_permutation_cut_evenly() -> None:
    plan = CountPlan(np.ones(42, dtype=np.int64), 8, seed=5)
    order = epoch_order(42, seed=5, epoch=3).tolist()
    assert epoch_of(plan, 3) == [(order[i : i + 8], None) for i in range(0, 40, 8)]
    assert (plan.steps_per_epoch, plan.samples_per_step) == (5, 8)


@cases
@pytest.mark.parametrize("num_pieces", [1, 2, 5])
def test_longest_piece__is_never_exceeded_and_is_reached(
    lengths: Ints, batch_length: int, limit: LengthLimit, num_pieces: int
) -> None:
    plan, used = LengthPlan(lengths, batch_length, seed=1, limit=limit), limit.clipped(lengths)
    pieces = [
        Share(world_size=num_pieces, rank=rank).piece(batch, 0)
        for epoch in range(2)
        for batch, _ in epoch_of(plan, epoch)
        for rank in range(num_pieces)
    ]
    longest = max(len(piece) * int(used[piece].max()) for piece in pieces if piece)
    bound = plan.longest_piece(num_pieces)
    assert 0.7 * bound <= longest <= bound


def test_crop__loses_little_sound_where_there_are_many_samples() -> None:
    lengths = np.random.default_rng(0).uniform(2_000, 17_000, 20_000).astype(np.int64)
    plan = LengthPlan(lengths, 380_000, seed=0, limit=LengthLimit(to_shortest=True))
    kept = sum(len(batch) * (limit or 0) for batch, limit in epoch_of(plan, 0))
    seen = sum(int(lengths[batch].sum()) for batch, _ in epoch_of(plan, 0))
    assert kept / seen > 0.97
    assert kept / plan.steps_per_epoch > 0.93 * 380_000
