"""Proves: batches by length read the same, whoever reads them and from whatever update on."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from d2v.core.seeding import generator_for
from d2v.data.lengths import LengthPlan
from d2v.data.loader import TrainLoader
from d2v.data.order import BatchPlan, CountPlan, LengthLimit, Share
from d2v.data.prepare import PrepareSettings, prepare
from d2v.data.shards import Shards
from d2v.errors import BadSampleError
from d2v.samples import SourceItem, StoredSample
from d2v.types import Batch, Mask

COUNT = 90
BATCH_LENGTH = 120


class Strips:
    """Reads strips of bytes, cropped where the generator says; an empty strip cannot be used."""

    def decode(
        self, parts: dict[str, bytes], generator: Generator | None, limit: int | None = None
    ) -> Tensor:
        whole = torch.tensor(list(parts["strip"]), dtype=torch.float32)
        if not whole[0]:
            raise BadSampleError("the strip begins with 0")
        room = 0 if limit is None else max(0, len(whole) - limit)
        assert generator is not None
        first = int(torch.randint(room + 1, (), generator=generator))
        return whole[first : first + (limit or len(whole))]

    def collate(self, examples: Sequence[Tensor]) -> Batch:
        inputs = torch.nn.utils.rnn.pad_sequence(list(examples), batch_first=True)
        lengths = torch.tensor([len(example) for example in examples])
        return Batch(inputs=inputs, padding=torch.arange(inputs.shape[1]) >= lengths[:, None])

    def sample_mask(self, batch: Batch, generators: Sequence[Generator]) -> Mask:
        rows = [torch.rand(4, generator=generator) < 0.5 for generator in generators]
        return Mask.of(torch.stack(rows))


def strip(number: int) -> bytes:
    """1 to 40 bytes that name the sample."""
    length = 1 + (number * 17) % 40
    return bytes([1 + number, *([1 + number] * (length - 1))])


def encode(item: SourceItem) -> list[StoredSample]:
    return [StoredSample(members={"strip": item.read()}, length=len(item.read()))]


def made(folder: Path, bad: Sequence[int] = ()) -> Shards:
    items = [
        SourceItem(
            name=f"s{number:03}",
            content=b"\0" + strip(number)[1:] if number in bad else strip(number),
        )
        for number in range(COUNT)
    ]
    prepare(lambda: items, encode, folder, PrepareSettings(val_fraction=0), seed=0)
    return Shards.open(folder / "train")


@pytest.fixture(scope="module", name="shards")
def shards_fixture(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return made(tmp_path_factory.mktemp("strips"))


MODES = {
    "pad": LengthLimit(),
    "pad, at most 25": LengthLimit(max_length=25),
    "crop": LengthLimit(to_shortest=True),
    "crop, at most 25": LengthLimit(max_length=25, to_shortest=True),
}
modes = pytest.mark.parametrize("mode", MODES)


def plan_of(shards: Shards, mode: str) -> LengthPlan:
    return LengthPlan(shards.lengths, BATCH_LENGTH, seed=6, limit=MODES[mode])


def make(shards: Shards, plan: BatchPlan, share: Share | None = None, **given: Any) -> TrainLoader:
    options: dict[str, Any] = {"num_workers": 0, "max_bad_fraction": 0.0, **given}
    return TrainLoader(shards, Strips(), plan, share or Share(), seed=6, **options)


def rows_of(batch: Batch, mask: Mask | None) -> dict[int, tuple[list[float], list[bool]]]:
    """Sample -> what is there of it, and its mask."""
    assert batch.samples is not None
    assert batch.padding is not None
    assert mask is not None
    return {
        sample: (row[~padding].tolist(), hidden.tolist())
        for sample, row, padding, hidden in zip(
            batch.samples.tolist(), batch.inputs, batch.padding, mask.predict, strict=True
        )
    }


def updates(
    shards: Shards, mode: str, count: int, *, world: int = 1, accumulation: int = 1, start: int = 0,
    num_workers: int = 0,
) -> list[list[tuple[int, tuple[list[float], list[bool]]]]]:  # fmt: skip
    """What each update read over all ranks, sample by sample in order."""
    ranks = [
        list(
            islice(
                make(
                    shards,
                    plan_of(shards, mode),
                    Share(accumulation=accumulation, rank=rank, world_size=world),
                    num_workers=num_workers,
                ).iterate(start),
                count * accumulation,
            )
        )
        for rank in range(world)
    ]
    return [
        [
            entry
            for micro in range(accumulation)
            for rank in ranks
            for entry in rows_of(*rank[step * accumulation + micro]).items()
        ]
        for step in range(count)
    ]


# Cutting over processes


@pytest.mark.parametrize("count", [8, 11, 30])
@pytest.mark.parametrize(("world", "accumulation"), [(1, 1), (1, 3), (2, 2), (8, 1), (4, 2)])
def test_share__pieces_follow_each_other_and_are_equal_or_one_off(
    count: int, world: int, accumulation: int
) -> None:
    numbers = list(range(count))
    pieces = [
        Share(accumulation=accumulation, rank=rank, world_size=world).piece(numbers, micro)
        for micro in range(accumulation)
        for rank in range(world)
    ]
    assert sum(pieces, []) == numbers
    sizes = {len(piece) for piece in pieces}
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) > 0


@modes
def test_update__is_the_same_for_any_number_of_ranks_and_micro_batches(
    shards: Shards, mode: str
) -> None:
    count = plan_of(shards, mode).steps_per_epoch + 3
    whole = updates(shards, mode, count)
    for world, accumulation in ((1, 3), (2, 1), (3, 1)):
        assert updates(shards, mode, count, world=world, accumulation=accumulation) == whole


@pytest.mark.parametrize("num_workers", [1, 2])
def test_update__is_the_same_for_any_number_of_workers(shards: Shards, num_workers: int) -> None:
    mode = "crop, at most 25"
    assert updates(shards, mode, 20, num_workers=num_workers) == updates(shards, mode, 20)


@modes
def test_start__at_an_update_is_the_same_as_skipping_to_it(shards: Shards, mode: str) -> None:
    steps = plan_of(shards, mode).steps_per_epoch
    whole = updates(shards, mode, 3 * steps + 2, accumulation=2)
    for start in (1, steps - 1, steps, steps + 1, 2 * steps + 3):
        assert (
            updates(shards, mode, 3 * steps + 2 - start, start=start, accumulation=2)
            == (whole[start:])
        )


@modes
def test_samples__are_cropped_as_their_batch_asks_and_no_further(shards: Shards, mode: str) -> None:
    plan = plan_of(shards, mode)
    for step, update in enumerate(updates(shards, mode, plan.steps_per_epoch, world=2)):
        lengths = {sample: len(row) for sample, (row, _) in update}
        limit = MODES[mode].max_length or 40
        if MODES[mode].to_shortest:
            limit = min(limit, *(int(shards.lengths[sample]) for sample in lengths))
            assert set(lengths.values()) == {limit}
        for sample, length in lengths.items():
            assert length == min(limit, int(shards.lengths[sample])), step
        longest = max(lengths.values())
        assert len(lengths) * longest <= BATCH_LENGTH


def test_crop__is_at_the_place_that_the_samples_own_generator_draws(tmp_path: Path) -> None:
    content = bytes(range(1, 41))
    items = [SourceItem(name=f"s{n}", content=content + bytes([n])) for n in range(12)]
    prepare(lambda: items, encode, tmp_path, PrepareSettings(val_fraction=0), seed=0)
    shards = Shards.open(tmp_path / "train")
    loader = make(shards, CountPlan(shards.lengths, 6, seed=6, limit=LengthLimit(max_length=10)))
    places = set()
    for batch, mask in islice(loader.iterate(2), 2):  # epoch 1
        for sample, (row, _) in rows_of(batch, mask).items():
            drawn = torch.randint(32, (), generator=generator_for("augment", 6, 1, sample))
            assert row[0] == int(drawn) + 1
            places.add(row[0])
    assert len(places) > 4


def test_missing__is_counted_in_micro_batches_of_any_size(tmp_path: Path) -> None:
    shards = made(tmp_path, bad=[2, 3, 50])
    plan = plan_of(shards, "pad")
    loader = make(shards, plan, Share(accumulation=2), max_bad_fraction=0.1)
    batches = plan.epoch(0)
    found = islice(loader.iterate(0), 2 * plan.steps_per_epoch)
    missing = 0
    for place, (batch, _) in enumerate(found):
        wanted, _ = batches.batch(place // 2)
        asked = Share(accumulation=2).piece(wanted, place % 2)
        assert len(batch) + batch.missing == len(asked)
        missing += batch.missing
    assert missing == len(loader.bad) == len({2, 3, 50} & set(batches.order.tolist())) > 1
