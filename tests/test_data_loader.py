"""Proves: which sample comes when, and how it is changed and masked, hangs on the seed alone."""

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch

from d2v.core.seeding import generator_for
from d2v.data.loader import TrainLoader, read_split
from d2v.data.order import Share, epoch_order
from d2v.data.shards import Shards
from d2v.errors import D2VError, UsageError
from d2v.types import Batch, Mask
from tests.training_case import make_loader, make_shards, modality


@pytest.fixture(scope="module", name="shards")
def shards_fixture(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return make_shards(tmp_path_factory.mktemp("pictures"), 42)


def taken(loader: TrainLoader, count: int, start: int = 0) -> list[tuple[Batch, Mask]]:
    pairs = islice(loader.iterate(start), count)
    return [(batch, mask) for batch, mask in pairs if mask is not None]


def numbers(pairs: list[tuple[Batch, Mask]]) -> list[list[int]]:
    return [batch.samples.tolist() for batch, _ in pairs if batch.samples is not None]


def same(a: tuple[Batch, Mask], b: tuple[Batch, Mask]) -> bool:
    return torch.equal(a[0].inputs, b[0].inputs) and torch.equal(a[1].predict, b[1].predict)


# The order


@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_epoch_order__is_a_permutation(count: int) -> None:
    assert sorted(epoch_order(count, seed=3, epoch=5).tolist()) == list(range(count))


def test_epoch_order__is_another_one_for_each_seed_and_epoch() -> None:
    orders = {
        tuple(epoch_order(30, seed=seed, epoch=epoch)) for seed in range(4) for epoch in range(4)
    }
    assert len(orders) == 16
    assert tuple(epoch_order(30, seed=2, epoch=1)) in orders


def test_order__an_epoch_has_no_sample_twice(shards: Shards) -> None:
    loader = make_loader(shards)  # 42 samples: 5 batches of 8 an epoch, 2 left over
    for epoch in range(3):
        seen = Counter(sum(numbers(taken(loader, 5, start=5 * epoch)), []))
        assert max(seen.values()) == 1
        assert len(seen) == 40


@pytest.mark.parametrize("start", [0, 1, 4, 5, 6, 23])
def test_order__starting_at_a_step_is_the_same_as_skipping_to_it(
    shards: Shards, start: int
) -> None:
    share = Share(accumulation=2)
    whole = taken(make_loader(shards, share=share), 2 * start + 6)
    for a, b in zip(taken(make_loader(shards, share=share), 6, start), whole[-6:], strict=True):
        assert torch.equal(a[0].inputs, b[0].inputs)
        assert torch.equal(a[1].predict, b[1].predict)
        assert numbers([a]) == numbers([b])


@pytest.mark.parametrize(
    ("accumulation", "world_size"), [(1, 1), (4, 1), (3, 1), (1, 2), (2, 2), (1, 3), (2, 4)]
)
def test_order__however_a_batch_is_cut_it_holds_the_same_samples_in_the_same_order(
    shards: Shards, accumulation: int, world_size: int
) -> None:
    steps = 7  # into the second epoch
    expected = numbers(taken(make_loader(shards), steps))
    ranks = [
        numbers(
            taken(
                make_loader(
                    shards,
                    share=Share(accumulation=accumulation, rank=rank, world_size=world_size),
                ),
                steps * accumulation,
            )
        )
        for rank in range(world_size)
    ]
    for step in range(steps):
        pieces = range(step * accumulation, (step + 1) * accumulation)
        assert [n for piece in pieces for rank in ranks for n in rank[piece]] == expected[step]


# What happens to a sample


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers__change_nothing(shards: Shards, num_workers: int) -> None:
    alone = taken(make_loader(shards), 7)
    shared = taken(make_loader(shards, num_workers=num_workers), 7)
    assert numbers(alone) == numbers(shared)
    assert all(same(a, b) for a, b in zip(alone, shared, strict=True))


def test_sample__changes_and_mask_do_not_depend_on_its_neighbours(shards: Shards) -> None:
    by_sample = {}
    for batch, mask in taken(make_loader(shards), 5):
        assert batch.samples is not None
        for row, sample in enumerate(batch.samples.tolist()):
            by_sample[sample] = batch.inputs[row], mask.predict[row]
    for rank in range(2):
        share = Share(accumulation=2, rank=rank, world_size=2)
        for batch, mask in taken(make_loader(shards, share=share), 10):
            assert batch.samples is not None
            for row, sample in enumerate(batch.samples.tolist()):
                assert torch.equal(by_sample[sample][0], batch.inputs[row])
                assert torch.equal(by_sample[sample][1], mask.predict[row])


def test_sample__is_changed_by_the_generator_of_seed_epoch_and_number(shards: Shards) -> None:
    (batch, mask), *_ = taken(make_loader(shards, seed=9), 1, start=5)  # epoch 1
    assert batch.samples is not None
    for row, sample in enumerate(batch.samples.tolist()):
        generator = generator_for("augment", 9, 1, sample)
        expected = modality().decode(shards.read(sample), generator)
        assert torch.equal(batch.inputs[row], expected)
        alone = modality().sample_mask(
            Batch(inputs=expected[None]), [generator_for("mask", 9, 1, sample)]
        )
        assert torch.equal(mask.predict[row], alone.predict[0])


def test_sample__looks_and_is_masked_differently_in_every_epoch(shards: Shards) -> None:
    pictures, masks = set(), set()
    for batch, mask in taken(make_loader(shards, batch_size=42), 6):
        assert batch.samples is not None
        row = batch.samples.tolist().index(0)
        pictures.add(batch.inputs[row].numpy().tobytes())
        masks.add(mask.predict[row].numpy().tobytes())
    assert len(pictures) >= 4
    assert len(masks) == 6


@pytest.mark.parametrize("num_workers", [0, 1])
def test_global_generator__is_not_touched(shards: Shards, num_workers: int) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    taken(make_loader(shards, num_workers=num_workers), 2)
    list(read_split(shards, modality(), batch_size=8, num_workers=num_workers))
    assert torch.equal(before, torch.get_rng_state())


def test_labels__are_those_of_the_samples(shards: Shards) -> None:
    for batch, _ in taken(make_loader(shards), 5):
        assert batch.samples is not None
        assert batch.labels is not None
        assert batch.labels.tolist() == shards.labels[batch.samples.numpy()].tolist()


def test_read_split__is_in_stored_order_and_without_randomness(shards: Shards) -> None:
    batches = list(read_split(shards, modality(), batch_size=16))
    assert [batch.samples.tolist() for batch in batches if batch.samples is not None] == [
        list(range(16)), list(range(16, 32)), list(range(32, 42))
    ]  # fmt: skip
    plain = modality().decode(shards.read(17), None)
    assert torch.equal(batches[1].inputs[1], plain)


@pytest.mark.parametrize("batch_length", [1, 9, 20, 57, 10_000])
@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_read_split__fills_batches_in_order_up_to_a_total_length(
    tmp_path: Path, batch_size: int, batch_length: int
) -> None:
    def length(number: int) -> int:
        return 1 + number * 7 % 19

    ragged = make_shards(tmp_path, 30, length=length)
    twin: list[list[int]] = []
    for number, own in enumerate(ragged.lengths.tolist()):
        together = [*twin[-1], number] if twin else []
        longest = max([int(ragged.lengths[n]) for n in together], default=own)
        if together and len(together) <= batch_size and len(together) * longest <= batch_length:
            twin[-1].append(number)
        else:
            twin.append([number])
    found = read_split(ragged, modality(), batch_size=batch_size, batch_length=batch_length)
    assert [batch.samples.tolist() for batch in found if batch.samples is not None] == twin


# What cannot be used


def test_bad_sample__is_left_out_counted_and_told_once(tmp_path: Path) -> None:
    shards, told = make_shards(tmp_path, 40, bad={3, 17}), list[str]()
    loader = make_loader(shards, max_bad_fraction=0.05, on_problem=told.append)
    sizes = [len(batch) for batch, _ in taken(loader, 15)]  # three epochs
    assert sum(sizes) == 3 * 38
    bad = {n for n in range(40) if shards.source(n) in ("3.png", "17.png")}
    assert loader.bad == bad
    assert len(told) == 2
    assert all("3.png" in text or "17.png" in text for text in told)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_bad_samples__above_the_limit_stop_the_run(tmp_path: Path, num_workers: int) -> None:
    shards = make_shards(tmp_path, 40, bad={3, 17})
    loader = make_loader(shards, max_bad_fraction=0.04, num_workers=num_workers)
    with pytest.raises(D2VError, match=r"2 of 40 samples .* cannot be used.*max_bad_fraction"):
        taken(loader, 5)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_bad_batch__is_told_without_a_traceback(tmp_path: Path, num_workers: int) -> None:
    shards = make_shards(tmp_path, 8, bad=set(range(8)))
    with pytest.raises(D2VError, match="No sample of a batch can be used") as caught:
        taken(make_loader(shards, max_bad_fraction=1, num_workers=num_workers), 1)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_vanished_shard__is_an_error_with_a_remedy(tmp_path: Path, num_workers: int) -> None:
    shards = make_shards(tmp_path, 16)
    for path in shards.folder.glob("*.tar"):
        path.unlink()
    with pytest.raises(D2VError, match="cannot be read: No such file") as caught:
        taken(make_loader(shards, num_workers=num_workers), 1)
    assert "Traceback" not in str(caught.value)


def test_batch__of_more_samples_than_there_are_is_refused(shards: Shards) -> None:
    with pytest.raises(UsageError, match="has 42 samples, and they do not fill one batch"):
        make_loader(shards, batch_size=43)
    make_loader(shards, batch_size=42)
