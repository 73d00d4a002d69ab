"""Files are cut into documents, and documents into parts, without losing or doubling a byte."""

import gzip
import io
import json
import random
from pathlib import Path

import pytest

from d2v.errors import BadSampleError
from d2v.modalities.text.cutting import bounded_lines, parts
from d2v.modalities.text.documents import TextFile, json_documents, plain_documents
from d2v.modalities.text.items import read_texts, text_item
from d2v.samples import SourceItem


def text_file(path: Path, data: bytes) -> TextFile:
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return TextFile(path=path, name=path.name, split="val")


def slow_documents(data: bytes) -> list[bytes]:
    """Runs of lines that hold more than white space."""
    documents: list[bytes] = [b""]
    for line in data.splitlines(keepends=True):
        if line.strip():
            documents[-1] += line
        else:
            documents.append(b"")
    return [document for document in documents if document]


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz"])
def test_blank_lines__part_documents(tmp_path: Path, suffix: str) -> None:
    generator = random.Random(0)
    for _ in range(100):
        data = b"".join(generator.choices([b"a", b"b c", b"\n", b"\n", b" \n", b"\r\n"], k=40))
        file = text_file(tmp_path / f"x{suffix}", data)
        items = list(plain_documents(file, blank_lines=True))
        assert [item.read() for item in items] == slow_documents(data)
        assert all(item.group is None and item.split == "val" for item in items)
        assert len({item.name for item in items}) == len(items)


def test_plain_items__are_slices_of_their_file_rather_than_copies(tmp_path: Path) -> None:
    file = text_file(tmp_path / "x.txt", b"one\n\ntwo\nlines\n")
    whole = list(plain_documents(file, blank_lines=False))
    assert [(i.path, i.content, i.name) for i in whole] == [(file.path, None, "x.txt")]
    second = list(plain_documents(file, blank_lines=True))[1]
    assert (second.path, second.content) == (file.path, None)
    assert (second.offset, second.num_bytes, second.name) == (5, 10, "x.txt@5")


@pytest.mark.parametrize("blank_lines", [True, False])
def test_parts__cover_all_and_stay_within_the_limit(blank_lines: bool) -> None:
    generator = random.Random(1)
    for _ in range(300):
        data = b"".join(generator.choices([b"word ", b"x\n", b"\n", b"longer word\n"], k=60))
        found = list(parts(io.BytesIO(data), blank_lines=blank_lines, max_bytes=20))
        made = [part.content for part in found if part.content is not None]
        assert all(len(content) <= 20 for content in made)
        for part in found:
            assert data[part.offset : part.offset + part.num_bytes] == part.content
        expected = b"".join(slow_documents(data)) if blank_lines else data
        assert b"".join(made) == expected
        for part, following in zip(found, found[1:], strict=False):
            assert part.is_cut or part.document != following.document


def test_long_document__is_cut_at_line_ends_and_stays_one_group(tmp_path: Path) -> None:
    file = text_file(tmp_path / "x.txt", b"first line\nsecond line\nthird\n")
    items = list(plain_documents(file, blank_lines=False, max_bytes=24))
    assert [item.read() for item in items] == [b"first line\nsecond line\n", b"third\n"]
    assert [item.name for item in items] == ["x.txt", "x.txt@23"]
    assert [item.group for item in items] == ["x.txt@0", "x.txt@0"]
    assert [dict(item.details) for item in items] == [{}, {"continued": "yes"}]


def test_long_line__is_cut_at_spaces(tmp_path: Path) -> None:
    file = text_file(tmp_path / "x.txt", b"aaaa bbbb cccc dddd\nnext\n")
    items = list(plain_documents(file, blank_lines=False, max_bytes=12))
    assert [item.read() for item in items] == [b"aaaa bbbb ", b"cccc dddd\n", b"next\n"]


@pytest.mark.parametrize("size", [19, 20, 21, 22])
def test_bounded_lines__make_the_stream_again_line_for_line(size: int) -> None:
    data = b"a" * (size - 8) + b" bb ccc\n" + b"next line\n" + b"w" * 40 + b"\nlast"
    made = list(bounded_lines(io.BytesIO(data), 20))
    assert sum(num_bytes for _, num_bytes in made) == len(data)
    assert [line for line, _ in made if line is not None][-2:] == [b"next line\n", b"last"]
    assert [num_bytes for line, num_bytes in made if line is None] == [41]
    assert b"".join(line or b"w" * 40 + b"\n" for line, _ in made) == data


def test_fifty_megabytes_without_a_place_to_cut__are_turned_away(tmp_path: Path) -> None:
    data = b"before\n" + b"w" * 50_000_000 + b"\nafter it\n"
    first, bad, last = plain_documents(text_file(tmp_path / "x.txt", data), blank_lines=False)
    assert (first.read(), last.read()) == (b"before\n", b"after it\n")
    assert bad.problem is not None
    assert "without a line end or space" in bad.problem
    assert (bad.offset, bad.num_bytes) == (7, 50_000_001)


@pytest.mark.parametrize("cut", [1, 12, 40])
def test_damaged_gzip__gives_what_is_whole_and_a_reason(tmp_path: Path, cut: int) -> None:
    file = text_file(tmp_path / "x.jsonl.gz", b'{"text": "a b"}\n' * 1000)
    file.path.write_bytes(file.path.read_bytes()[:-cut])
    *_, last = json_documents(file, as_text)
    assert last.problem == "damaged gzip: the rest of the file is lost"


def as_text(value: object, number: int) -> SourceItem:
    assert isinstance(value, dict)
    return text_item(f"x:{number}", [value["text"]], label=None, split=None)


def test_json_lines__give_texts_with_their_line_numbers(tmp_path: Path) -> None:
    data = "\ufeff" + '{"text": "a\\nb é"}\n\n  \n{"text": "c"}'
    items = list(json_documents(text_file(tmp_path / "x.jsonl", data.encode()), as_text))
    assert [(item.name, read_texts(item)) for item in items] == [
        ("x:1", ["a\nb é"]),
        ("x:4", ["c"]),
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{", "not JSON: "),
        (b"[" * 100_000, "not JSON: "),
        (b'{"text": "\xff"}', "not UTF-8: 0xff at byte 27 of the file"),
        (b'{"text": "\\ud800"}', "half a surrogate pair"),
        (b'{"text": " "}', "empty: no text"),
        (b'{"text": "' + b"w" * 90_000 + b'"}', "a line of more than 80,000 bytes"),
    ],
)
def test_bad_json_line__is_turned_away_alone(tmp_path: Path, line: bytes, problem: str) -> None:
    good = json.dumps({"text": "good"}).encode()
    file = text_file(tmp_path / "x.jsonl", good + b"\n" + line + b"\n" + good)
    limit = 200_000 if line.startswith(b"[") else 80_000
    first, bad, last = json_documents(file, as_text, max_bytes=limit)
    assert first.problem is None
    assert last.problem is None
    assert bad.problem is not None
    assert bad.problem.startswith(problem)
    assert bad.name == "x.jsonl:2"


def test_invalid_utf8__names_the_byte_and_its_place_in_the_file(tmp_path: Path) -> None:
    file = text_file(tmp_path / "x.txt", b"one two\n\nthree \xe9t\xe9\n")
    first, second = plain_documents(file, blank_lines=True)
    assert read_texts(first) == ["one two\n"]
    with pytest.raises(BadSampleError, match="not UTF-8: 0xe9 at byte 15 of the file"):
        read_texts(second)
    packed = list(plain_documents(text_file(tmp_path / "x.txt.gz", b"a\n\n\xff"), blank_lines=True))
    with pytest.raises(BadSampleError, match="0xff at byte 3"):
        read_texts(packed[1])


def test_pair__keeps_both_texts_whatever_stands_in_them() -> None:
    texts = ['a "b"\t\n\x00', "é\u2028"]
    assert read_texts(text_item("x", texts, label="1", split=None)) == texts
