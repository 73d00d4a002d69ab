"""What is stored of a text: whole, in order, bounded, the same bytes every time."""

from __future__ import annotations

import io
import pickle
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from d2v.errors import BadSampleError
from d2v.modalities.text.items import text_item
from d2v.modalities.text.sentences import sentences
from d2v.modalities.text.store import (
    MEMBER,
    StoreSettings,
    encode_text,
    read_tokens,
    stored_ids,
    summarise_texts,
)
from d2v.modalities.text.tokenizer import TokenizerSettings, load_tokenizer, token_ids
from d2v.samples import SourceItem, StoredSample
from tests.text_corpus import SMALL, corpus, item, learned

CONTIGUOUS = StoreSettings(blocks="contiguous", block_tokens=64)
SENTENCES = StoreSettings(block_tokens=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learned(tmp_path_factory.mktemp("learned"))


def ids(samples: list[StoredSample]) -> list[list[int]]:
    return [read_tokens(sample.members, SMALL).tolist() for sample in samples]


def single(text: str, *pair: str, label: str | None = "1") -> SourceItem:
    return text_item("row", [text, *pair], label=label, split=None)


def test_sentences__fill_blocks_and_decode_to_the_text(folder: Path) -> None:
    text = corpus(200, seed=1)
    blocks = ids(encode_text(item(text), SENTENCES, SMALL, folder))
    tokenizer = load_tokenizer(folder, SMALL)
    made: list[str] = []
    for block in blocks:
        assert block[0] == 0
        assert block[-1] == 2
        assert len(block) <= 64
        ends = [number for number, token in enumerate(block) if token == 2]
        begins = [1, *(end + 1 for end in ends)]
        made += [
            tokenizer.decode(block[begin:end]) for begin, end in zip(begins, ends, strict=False)
        ]
    assert made == list(sentences(text))
    for block, following in zip(blocks, blocks[1:], strict=False):
        assert len(block) + following.index(2) > 64  # the next sentence would not have fitted


def test_contiguous__keeps_the_text_with_its_line_ends(folder: Path) -> None:
    text = corpus(200, seed=2)
    blocks = ids(encode_text(item(text), CONTIGUOUS, SMALL, folder))
    assert {len(block) for block in blocks[:-1]} == {64}
    assert all(block[0] == 0 for block in blocks)
    row = [token for block in blocks for token in block[1:]]
    assert row.count(2) == 1
    assert load_tokenizer(folder, SMALL).decode(row[:-1]) == text.strip()


@pytest.mark.parametrize("store", [SENTENCES, CONTIGUOUS])
def test_totals__add_up(folder: Path, store: StoreSettings) -> None:
    text = corpus(50)
    samples = encode_text(item(text), store, SMALL, folder)
    totals = sum((Counter(sample.totals) for sample in samples), Counter())
    assert len(samples) > 1
    assert totals == {
        "documents": 1,
        "sentences": 50,
        "tokens": sum(sample.length for sample in samples),
    }
    assert [sample.length for sample in samples] == [len(block) for block in ids(samples)]


def test_part_of_a_cut_document__is_no_further_document(folder: Path) -> None:
    part = SourceItem(name="x@9", content=b"stone river.", details={"continued": "yes"})
    assert encode_text(part, SENTENCES, SMALL, folder)[0].totals["documents"] == 0


def test_labelled_text__is_one_sample_without_inner_ends(folder: Path) -> None:
    tokenizer = load_tokenizer(folder, SMALL)
    (sample,) = encode_text(single(" Stone. River\n garden. "), SENTENCES, SMALL, folder)
    assert ids([sample]) == [[0, *token_ids(tokenizer, "Stone. River garden."), 2]]
    assert sample.totals["sentences"] == 2
    assert sample.warnings == ()


def test_pair__stands_in_one_sample(folder: Path) -> None:
    tokenizer = load_tokenizer(folder, SMALL)
    (sample,) = encode_text(single("stone", "river", label=None), SENTENCES, SMALL, folder)
    first, second = (token_ids(tokenizer, text) for text in ("stone", "river"))
    assert ids([sample]) == [[0, *first, 2, 2, *second, 2]]


def test_labelled_text_that_is_too_long__is_cut_with_a_warning(folder: Path) -> None:
    (sample,) = encode_text(single("stone " * 500), SENTENCES, SMALL, folder)
    assert sample.length == 64
    assert sample.warnings == ("cut to block_tokens=64",)
    (sample,) = encode_text(single("stone " * 500, "river"), SENTENCES, SMALL, folder)
    assert sample.length == 64
    tokenizer = load_tokenizer(folder, SMALL)
    assert ids([sample])[0][-2:] == [*token_ids(tokenizer, "river"), 2][-2:]


def test_labelled_text_of_one_token__can_still_be_probed(folder: Path) -> None:
    (sample,) = encode_text(single("a"), SENTENCES, SMALL, folder)
    assert sample.length == 3


@pytest.mark.parametrize("store", [SENTENCES, CONTIGUOUS])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty: no text"),
        (b" \n\t\r\n \xe2\x80\x83", "empty: no text"),
        (b"\xef\xbb\xbf", "empty: no text"),
        (b" a \n", "one token: there is nothing to predict it from"),
        (b"stone \xf0\x28 river", "not UTF-8: 0xf0 at byte 6 of the file"),
        ("stone".encode("utf-16"), "not UTF-8: 0xff at byte 0 of the file"),
    ],
)
def test_bad_document__is_turned_away_with_the_reason(
    folder: Path, store: StoreSettings, content: bytes, reason: str
) -> None:
    with pytest.raises(BadSampleError) as caught:
        encode_text(item(content), store, SMALL, folder)
    assert str(caught.value) == reason


def test_slice_of_a_file__names_the_byte_of_the_file(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"first one\n\nsecond \xff")
    part = SourceItem(name="x", path=path, offset=11, num_bytes=8)
    with pytest.raises(BadSampleError, match="at byte 18 of the file"):
        encode_text(part, SENTENCES, SMALL, folder)


def test_encoding__repeats_its_bytes_and_travels_to_other_processes(folder: Path) -> None:
    encode = partial(encode_text, store=SENTENCES, tokenizer=SMALL, folder=folder)
    document = item(corpus(30))
    again = pickle.loads(pickle.dumps(encode))  # what a process pool does
    assert again(document) == encode(document)


def test_stretch_without_spaces__is_stored_as_well(folder: Path) -> None:
    blocks = ids(encode_text(item("w" * 200_000), SENTENCES, SMALL, folder))
    row = [token for block in blocks for token in block if token not in (0, 2)]
    assert load_tokenizer(folder, SMALL).decode(row) == "w" * 200_000


@pytest.mark.parametrize(("size", "dtype"), [(65_536, "uint16"), (65_537, "int32")])
def test_tokens__take_sixteen_bits_where_they_fit(size: int, dtype: str) -> None:
    member = stored_ids([0, 5, 9], size)
    assert np.load(io.BytesIO(member), allow_pickle=False).dtype == dtype
    tokens = read_tokens({MEMBER: member}, TokenizerSettings(size=size))
    assert tokens.dtype == torch.int64
    assert tokens.tolist() == [0, 5, 9]


def saved(array: np.ndarray, *, allow_pickle: bool = False) -> bytes:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=allow_pickle)
    return content.getvalue()


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"txt": b"x"},
        {MEMBER: b""},
        {MEMBER: b"no array"},
        {MEMBER: saved(np.array([0, 5], np.uint16))[:-1]},
        {MEMBER: saved(np.array([0, 5], np.uint16))[:9]},
        {MEMBER: saved(np.array([0.0, 5.0]))},
        {MEMBER: saved(np.array([0, 5], np.int64))},
        {MEMBER: saved(np.array([[0, 5]], np.uint16))},
        {MEMBER: saved(np.array([], np.uint16))},
        {MEMBER: saved(np.array([0, 400], np.uint16))},
        {MEMBER: saved(np.array([0, -1], np.int32))},
        {MEMBER: saved(np.array([0, print], object), allow_pickle=True)},
    ],
)
def test_damaged_tokens__are_a_bad_sample(parts: dict[str, bytes]) -> None:
    with pytest.raises(BadSampleError):
        read_tokens(parts, SMALL)


def test_summary__counts_by_split_and_carries_the_tokenizer(folder: Path) -> None:
    totals = {"train": {"documents": 9.0, "sentences": 1234.0, "tokens": 5e6}, "val": {}}
    told = summarise_texts(totals, folder)
    assert told.lines == [
        "train: 9 documents, 1,234 sentences, 5,000,000 tokens",
        "val: 0 documents, 0 sentences, 0 tokens",
    ]
    assert told.files == {"tokenizer.json": (folder / "tokenizer.json").read_bytes()}
