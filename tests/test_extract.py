"""Proves: features are those of the labelled samples, in stored order, whatever the batches."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from d2v.core.features import mean_over_tokens
from d2v.core.probing import ProbeSettings
from d2v.data.prepare import PrepareSettings, prepare
from d2v.data.shards import Shards
from d2v.errors import BadSampleError, D2VError, UsageError
from d2v.extract import extract, length_at_once
from d2v.modalities import LengthUnit
from d2v.samples import SourceItem, StoredSample
from d2v.types import Batch, Mask

COUNT = 50
UNLABELLED = {3, 4, 11, 30, 49}


def strip(number: int) -> bytes:
    """1 to 23 bytes that name the sample; lengths in no order."""
    return bytes([1 + number]) * (1 + (number * 17) % 23)


class Strips:
    """Strips of bytes; notes what it read."""

    def __init__(self, bad: Sequence[int] = ()) -> None:
        self.bad, self.read = bad, list[int]()

    def decode(
        self, parts: dict[str, bytes], generator: Generator | None, limit: int | None = None
    ) -> Tensor:
        assert generator is None, "nothing random"
        whole = torch.tensor(list(parts["strip"]), dtype=torch.float32)
        self.read.append(int(whole[0]) - 1)
        if self.read[-1] in self.bad:
            raise BadSampleError("bad")
        return whole

    def collate(self, examples: Sequence[Tensor]) -> Batch:
        inputs = torch.nn.utils.rnn.pad_sequence(list(examples), batch_first=True)
        lengths = torch.tensor([len(example) for example in examples])
        return Batch(inputs=inputs, padding=torch.arange(inputs.shape[1]) >= lengths[:, None])

    def sample_mask(self, batch: Batch, generators: Sequence[Generator]) -> Mask:
        raise AssertionError("frozen features are never masked")


def made(folder: Path, unlabelled: set[int] = UNLABELLED, count: int = COUNT) -> Shards:
    def encode(item: SourceItem) -> list[StoredSample]:
        return [StoredSample(members={"strip": item.read()}, length=len(item.read()))]

    items = [
        SourceItem(
            name=f"{number}", content=strip(number),
            label=None if number in unlabelled else "abc"[number % 3],
        )
        for number in range(count)
    ]  # fmt: skip
    prepare(lambda: items, encode, folder, PrepareSettings(val_fraction=0), seed=0)
    return Shards.open(folder / "train")


@pytest.fixture(scope="module", name="shards")
def shards_fixture(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return made(tmp_path_factory.mktemp("strips"))


def labelled(shards: Shards) -> list[int]:
    """What the samples with a label are called, in stored order."""
    names = [int(shards.source(i)) for i in range(len(shards))]
    return [name for name in names if name not in UNLABELLED]


def name_and_length(batch: Batch) -> Tensor:
    """(B, 2), from data alone."""
    values = batch.inputs.unsqueeze(-1)
    assert batch.padding is not None
    lengths = (~batch.padding).sum(1, keepdim=True)
    return torch.cat([mean_over_tokens(values, batch.padding) - 1, lengths.float()], 1)


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_extract__gives_labelled_samples_in_stored_order(shards: Shards, batch_size: int) -> None:
    reader = Strips()
    found = extract(shards, reader, name_and_length, batch_size=batch_size)
    names = labelled(shards)
    assert found.features.tolist() == [[name, len(strip(name))] for name in names]
    assert [shards.classes[label] for label in found.labels] == ["abc"[n % 3] for n in names]
    assert sorted(reader.read) == sorted(names), "each once, and none without a label"


def test_extract__puts_similar_lengths_together_the_longest_first(shards: Shards) -> None:
    stretches: list[tuple[int, int]] = []

    def note(batch: Batch) -> Tensor:
        lengths = name_and_length(batch)[:, 1]
        stretches.append((int(lengths.max()), int(lengths.min())))
        return lengths.unsqueeze(1)

    extract(shards, Strips(), note, batch_size=6)
    assert len(stretches) == 8
    edges = [length for stretch in stretches for length in stretch]
    assert edges == sorted(edges, reverse=True)


@pytest.mark.parametrize(("batch_length", "most"), [(1, 1), (23, 5), (60, 8), (500, 9)])
def test_extract__keeps_to_a_total_length_and_the_stored_order(
    shards: Shards, batch_length: int, most: int
) -> None:
    sizes: list[tuple[int, int]] = []

    def note(batch: Batch) -> Tensor:
        sizes.append((len(batch), batch.inputs.shape[1]))
        return name_and_length(batch)

    found = extract(shards, Strips(), note, batch_size=9, batch_length=batch_length)
    assert found.features[:, 0].tolist() == labelled(shards)
    assert all(count * longest <= batch_length or count == 1 for count, longest in sizes)
    assert max(count for count, _ in sizes) == most


@pytest.mark.parametrize(
    ("asked", "unit", "stored"),
    [
        (None, LengthUnit(name="pictures", size=1), None),
        (None, LengthUnit(name="seconds", size=100, at_once=64), 6400),
        (2.5, LengthUnit(name="seconds", size=100, at_once=64), 250),
        (30, LengthUnit(name="pictures", size=1), 30),
    ],
)
def test_length_at_once__is_what_is_asked_or_suits_the_modality(
    asked: float | None, unit: LengthUnit, stored: int | None
) -> None:
    assert length_at_once(ProbeSettings(batch_length=asked), unit) == stored


def test_extract__of_samples_of_one_length_reads_in_stored_order(tmp_path: Path) -> None:
    def encode(item: SourceItem) -> list[StoredSample]:
        return [StoredSample(members={"strip": item.read()})]

    items = [SourceItem(name=str(n), content=bytes([1 + n] * 4), label="ab"[n % 2])
             for n in range(30)]  # fmt: skip
    prepare(lambda: items, encode, tmp_path, PrepareSettings(val_fraction=0), seed=0)
    shards, reader = Shards.open(tmp_path / "train"), Strips()
    extract(shards, reader, name_and_length, batch_size=8)
    assert reader.read == [int(shards.source(i)) for i in range(30)]


@pytest.mark.parametrize("limit", [1, 2, 9, 45, 1000])
def test_extract__of_a_limit_is_evenly_spaced_among_the_labelled(
    shards: Shards, limit: int
) -> None:
    reader, names = Strips(), labelled(shards)
    found = extract(shards, reader, name_and_length, batch_size=4, limit=limit)
    places = [names.index(int(name)) for name in found.features[:, 0]]
    count = min(limit, 45)
    assert len(places) == len(reader.read) == count
    assert places == sorted(places)
    if count > 1:
        assert (places[0], places[-1]) == (0, 44)
        gaps = {after - before for before, after in zip(places, places[1:], strict=False)}
        assert max(gaps) - min(gaps) <= 1


def test_extract__keeps_sparse_features_sparse(shards: Shards) -> None:
    found = extract(shards, Strips(), lambda b: name_and_length(b).to_sparse(), batch_size=7)
    dense = extract(shards, Strips(), name_and_length, batch_size=7)
    assert found.features.is_sparse
    assert torch.equal(found.features.to_dense(), dense.features)
    assert torch.equal(found.labels, dense.labels)


def test_extract__counts_unusable_samples_among_the_labelled(shards: Shards) -> None:
    told: list[str] = []
    options = {"batch_size": 7, "max_bad_fraction": 2 / 45}
    found = extract(
        shards, Strips(bad=[3, 8, 21]), name_and_length, batch_size=7, max_bad_fraction=2 / 45,
        on_problem=told.append,
    )  # fmt: skip
    assert [int(name) for name in found.features[:, 0]] == [
        name for name in labelled(shards) if name not in (8, 21)
    ]
    assert "2 of 45 samples" in told[0]
    with pytest.raises(D2VError, match=r"3 of 45 samples .* cannot be used.*max_bad_fraction"):
        extract(shards, Strips(bad=[8, 21, 22]), name_and_length, **options)  # type: ignore[arg-type]  # mixed values
    with pytest.raises(D2VError, match="45 of 45 samples"):
        extract(shards, Strips(bad=range(COUNT)), name_and_length, batch_size=7, max_bad_fraction=1)


def test_extract__of_all_tokens_refuses_samples_that_differ_in_length(shards: Shards) -> None:
    """Batch by batch they are equally long here, so that no batch by itself shows it."""
    reader = Strips()
    with pytest.raises(UsageError, match=r"differ in length.*23 and 22 numbers.*pool=mean"):
        extract(shards, reader, lambda batch: batch.inputs, batch_size=1)
    assert len(reader.read) <= 4, "told at once"


def test_extract__without_labels_is_refused(tmp_path: Path) -> None:
    shards = made(tmp_path, unlabelled={0, 1, 2}, count=3)
    with pytest.raises(UsageError, match="has no labels"):
        extract(shards, Strips(), name_and_length, batch_size=2)
