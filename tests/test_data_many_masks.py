"""Proves: a reader that masks often gives each sample masks of its own, and says what they show."""

import pickle
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from d2v.data.reading import ManyMasks
from d2v.types import Batch, Mask
from tests.maths_case import seeded, tail_padding

LENGTHS = [9, 4, 7, 2, 9]


class Ragged:
    """Masks of one to all but one of each sample's tokens; each draws two numbers."""

    def decode(self, parts: dict[str, bytes], generator: Generator | None,
               limit: int | None = None) -> Any:  # fmt: skip
        return (parts, generator, limit)

    def collate(self, examples: Sequence[Any]) -> Batch:
        return batch_of([len(example) for example in examples])

    def sample_mask(self, batch: Batch, generators: Sequence[Generator]) -> Mask:
        predict = torch.zeros(batch.inputs.shape, dtype=torch.bool)
        for row, generator in enumerate(generators):
            length = length_of(batch, row)
            count = int(torch.randint(1, length, (), generator=generator))
            predict[row, torch.randperm(length, generator=generator)[:count]] = True
        return Mask.of(predict)


def length_of(batch: Batch, row: int) -> int:
    total = batch.inputs.shape[1]
    return total if batch.padding is None else total - int(batch.padding[row].sum())


def batch_of(lengths: list[int]) -> Batch:
    width = max(lengths)
    padding = tail_padding(lengths, width)
    inputs = torch.zeros(len(lengths), width)
    return Batch(inputs=inputs, padding=padding if bool(padding.any()) else None)


def drawn(lengths: list[int], seeds: Sequence[int], views: int = 4) -> Mask:
    reader = ManyMasks(Ragged(), views)
    return reader.sample_mask(batch_of(lengths), [seeded(seed) for seed in seeds])


def test_views__of_a_sample_stand_side_by_side_and_come_from_its_generator_in_turn() -> None:
    mask, batch = drawn(LENGTHS, range(5)), batch_of(LENGTHS)
    assert mask.predict.shape == (5 * 4, 9)
    assert torch.equal(mask.positions, mask.predict.flatten().nonzero().squeeze(1))
    for sample, length in enumerate(LENGTHS):
        generator, alone = seeded(sample), batch_of([length])
        for view in range(4):
            expected = Ragged().sample_mask(alone, [generator]).predict[0]
            row = mask.predict[4 * sample + view]
            assert torch.equal(row[:length], expected)
            assert not row[length:].any()
    assert batch.padding is not None


def test_views__differ_from_each_other() -> None:
    rows = drawn([60] * 3, range(3)).predict.tolist()
    assert len({tuple(row) for row in rows}) == 12


def test_views__do_not_depend_on_the_batch_around_the_sample() -> None:
    together = drawn(LENGTHS, range(5)).predict.view(5, 4, 9)
    for sample, length in enumerate(LENGTHS):
        alone = drawn([length], [sample]).predict
        assert torch.equal(together[sample, :, :length], alone)
    backwards = drawn(LENGTHS[::-1], range(4, -1, -1)).predict.view(5, 4, 9)
    assert torch.equal(backwards.flip(0), together)


def test_views__depend_on_the_generators_alone() -> None:
    state = torch.get_rng_state()
    one = drawn(LENGTHS, range(5))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(drawn(LENGTHS, range(5)).predict, one.predict)
    assert not torch.equal(drawn(LENGTHS, range(1, 6)).predict, one.predict)


def test_one_view__is_the_readers_own_mask() -> None:
    plain = Ragged().sample_mask(batch_of(LENGTHS), [seeded(seed) for seed in range(5)])
    assert torch.equal(drawn(LENGTHS, range(5), views=1).predict, plain.predict)


def test_reader__hands_on_everything_else_and_travels_to_other_processes() -> None:
    reader: ManyMasks = pickle.loads(pickle.dumps(ManyMasks(Ragged(), 3)))
    generator = seeded(0)
    assert reader.decode({"a": b"b"}, generator, 7) == ({"a": b"b"}, generator, 7)
    assert reader.collate(["abc", "a"]).inputs.shape == (2, 3)
    assert reader.masks_per_sample == 3


# What is visible


def slow_visible(predict: Tensor, padding: Tensor | None) -> list[list[int]]:
    views = 1 if padding is None else len(predict) // len(padding)
    return [
        [
            place
            for place in range(predict.shape[1])
            if not row[place] and not (padding is not None and padding[number // views, place])
        ]
        for number, row in enumerate(predict)
    ]


@pytest.mark.parametrize("lengths", [LENGTHS, [9] * 3, [2, 3]])
@pytest.mark.parametrize("seed", range(10))
def test_visible__is_what_is_neither_masked_nor_padding(lengths: list[int], seed: int) -> None:
    padding = batch_of(lengths).padding
    mask = drawn(lengths, range(seed, seed + len(lengths)))
    slow = slow_visible(mask.predict, padding)
    assert mask.visible is not None
    assert mask.visible.dtype == torch.int64
    assert mask.visible.shape == (len(slow), max(map(len, slow)))
    for row, places in enumerate(slow):
        assert mask.visible[row, : len(places)].tolist() == places, "in order"
        if mask.visible_padding is not None:
            expected = [slot >= len(places) for slot in range(mask.visible.shape[1])]
            assert mask.visible_padding[row].tolist() == expected
    assert (mask.visible_padding is None) == (len(set(map(len, slow))) == 1)


def test_visible__needs_no_padding_where_all_rows_show_as_many() -> None:
    predict = torch.tensor([[True, False, True, False], [False, True, False, True]])
    mask = Mask.of(predict).with_visible(None)
    assert mask.visible is not None
    assert mask.visible.tolist() == [[1, 3], [0, 2]]
    assert mask.visible_padding is None


def test_visible__of_a_row_that_hides_everything_is_its_first_place() -> None:
    predict = torch.tensor([[True, False, False], [False, True, True]])
    padding = torch.tensor([[False, True, True], [False, False, False]])
    mask = Mask.of(predict).with_visible(padding)
    assert mask.visible is not None
    assert (mask.visible[:, 0].tolist(), mask.visible_padding) == ([0, 0], None)


def test_mask__moves_to_a_device_with_what_is_visible() -> None:
    mask = drawn(LENGTHS, range(5)).to(torch.device("meta"))
    assert mask.visible is not None
    assert mask.visible_padding is not None
    assert {mask.visible.device.type, mask.visible_padding.device.type} == {"meta"}
