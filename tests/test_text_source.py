"""Every text of a source is listed once, in one order, with the label and split it has."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from d2v.errors import UsageError
from d2v.modalities.base import SourceSettings
from d2v.modalities.text.items import is_document, read_texts
from d2v.modalities.text.source import read_source
from d2v.samples import SourceItem

SST2 = "sentence\tlabel\nit 's charming . \t1\n\" bleak and\t0\n"
COLA = 'gj04\t1\t\tThey "drank the pub dry.\ngj04\t0\t*\tThey drank the pub.\n'
MRPC = '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tHe "left .\tHe went .\n'


def files(root: Path, **contents: str | bytes) -> Path:
    """Files; in their names two underscores stand for a dot, three for a slash."""
    for name, content in contents.items():
        path = root / name.replace("___", "/").replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def items(source: Path, **settings: Any) -> list[SourceItem]:
    return list(read_source(SourceSettings(source=str(source), **settings)))


def listed(source: Path, **settings: Any) -> list[tuple[str, str | None]]:
    found = items(source, **settings)
    assert all(item.problem is None for item in found)
    return [(item.name, item.split) for item in found]


def error(source: Path, **settings: Any) -> str:
    with pytest.raises(UsageError) as caught:
        items(source, **settings)
    return str(caught.value)


def test_folder__gives_one_document_a_file_in_the_order_of_names(tmp_path: Path) -> None:
    files(tmp_path, b__txt="b", a___z__txt="z", a___B__TXT="B", x__txt__gz=gzip.compress(b"x y"))
    found = items(tmp_path)
    assert [(i.name, i.label, i.split) for i in found] == [
        ("a/B.TXT", None, None),
        ("a/z.txt", None, None),
        ("b.txt", None, None),
        ("x.txt.gz", None, None),
    ]
    assert [read_texts(item)[0] for item in found] == ["B", "z", "b", "x y"]


@pytest.mark.parametrize("val", ["val", "valid", "dev"])
def test_folders_and_files_named_as_splits__tell_the_split(tmp_path: Path, val: str) -> None:
    folders = files(tmp_path / "a", **{"train___x__txt": "x", f"{val}___y__txt": "y"})
    assert set(listed(folders)) == {("train/x.txt", "train"), (f"{val}/y.txt", "val")}
    names = files(tmp_path / "b", **{"train__txt": "x", f"{val}__txt": "y"})
    assert set(listed(names)) == {("train.txt", "train"), (f"{val}.txt", "val")}


def test_what_lies_beside_splits__is_turned_away(tmp_path: Path) -> None:
    files(tmp_path / "a", train___x__txt="x", test___y__txt="y", README__txt="read me")
    files(tmp_path / "b", train__tsv=SST2, dev__tsv=SST2, LICENSE__txt="none")
    for source, beside in ((tmp_path / "a", "README.txt"), (tmp_path / "b", "LICENSE.txt")):
        bad = [item for item in items(source, text_column="text" if beside[0] == "R" else
                                      "sentence", quoting=False) if item.problem]  # fmt: skip
        assert [item.name for item in bad] == [beside]
        assert str(bad[0].problem).startswith("beside the splits (")


def test_one_file_named_train__is_no_split(tmp_path: Path) -> None:
    assert listed(files(tmp_path, train__txt="x", more__txt="y")) == [
        ("more.txt", None),
        ("train.txt", None),
    ]


def test_splits_in_two_formats__are_refused(tmp_path: Path) -> None:
    files(tmp_path, train__txt="x", dev__txt="y", train__tsv=SST2, dev__tsv=SST2)
    assert "expected: the splits in files of one format" in error(tmp_path).lower()


def test_other_files__are_listed_and_turned_away(tmp_path: Path) -> None:
    files(tmp_path, a__txt="a", b__pdf=b"%PDF", c__tar__gz=b"x")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "gone.txt").symlink_to("nowhere.txt")
    assert [(i.name, i.problem) for i in items(tmp_path)] == [
        ("a.txt", None),
        ("b.pdf", "not a supported kind of text"),
        ("c.tar.gz", "not a supported kind of text"),
        ("gone.txt", "not a regular file"),
        ("pipe.txt", "not a regular file"),
    ]


def test_single_file__is_read_whatever_it_is_called(tmp_path: Path) -> None:
    files(tmp_path, wiki__valid__tokens="one\n\ntwo\n")
    path = tmp_path / "wiki.valid.tokens"
    assert listed(path) == [("wiki.valid.tokens", None)]
    assert listed(path, documents="blank_line") == [
        ("wiki.valid.tokens@0", None),
        ("wiki.valid.tokens@5", None),
    ]


def test_files_setting__says_which_file_is_which_split(tmp_path: Path) -> None:
    files(tmp_path, train__tsv=SST2, dev__tsv=SST2, test__tsv="index\tsentence\n0\tx y\n")
    named = {"train": "train.tsv", "test": "dev.tsv"}
    found = items(tmp_path, files=named, text_column="sentence", quoting=False)
    assert [(item.name, item.split, item.label) for item in found] == [
        ("train.tsv:2", "train", "1"),
        ("train.tsv:3", "train", "0"),
        ("dev.tsv:2", "test", "1"),
        ("dev.tsv:3", "test", "0"),
    ]
    assert read_texts(found[1]) == ['" bleak and']
    assert not any(is_document(item) for item in found)
    assert "gone.tsv, which is not there" in error(tmp_path, files={"train": "gone.tsv"})
    assert "names files below a folder" in error(tmp_path / "dev.tsv", files=named)


def test_table_without_header__has_numbers_for_columns(tmp_path: Path) -> None:
    files(tmp_path, train__tsv=COLA)
    columns = {"text_column": "3", "label_column": "1", "header": False, "quoting": False}
    found = items(tmp_path / "train.tsv", **columns)
    assert [(read_texts(item), item.label) for item in found] == [
        (['They "drank the pub dry.'], "1"),
        (["They drank the pub."], "0"),
    ]


def test_table_of_pairs__may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    files(tmp_path, train__tsv=MRPC)
    columns = {"text_column": "#1 String", "pair_column": "#2 String", "label_column": "Quality"}
    (found,) = items(tmp_path / "train.tsv", quoting=False, **columns)
    assert (read_texts(found), found.label) == (['He "left .', "He went ."], "1")
    assert not is_document(found)


def test_table__may_say_splits_and_have_no_labels(tmp_path: Path) -> None:
    files(tmp_path, t__csv='text,split\n"a, b",dev\n" ",test\n"two\nlines",\n')
    found = items(tmp_path / "t.csv")
    assert [(item.split, item.problem) for item in found] == [
        ("val", None),
        (None, "empty: no text"),
        (None, None),
    ]
    assert is_document(found[2])


def test_table_that_is_not_utf8__is_refused_with_file_and_byte(tmp_path: Path) -> None:
    good = "text\n" + "good line\n" * 5000
    files(tmp_path, t__csv=good.encode() + b"caf\xe9\n")
    assert f"t.csv is not UTF-8: 0xe9 at byte {len(good) + 3:,}" in error(tmp_path / "t.csv")


def test_table_without_the_text_column__says_which_it_has(tmp_path: Path) -> None:
    files(tmp_path, t__tsv=SST2)
    message = error(tmp_path / "t.tsv", quoting=False)
    assert "no column 'text'; its columns are: sentence, label" in message
    assert "data.text_column" in message


def test_json_lines__have_fields_for_columns(tmp_path: Path) -> None:
    rows = [
        {"text": "a b", "label": 1, "split": "valid"},
        {"text": "c", "label": True},
        {"text": "d", "label": None},
        {"text": "e", "label": ""},
        {"text": "f", "label": "x", "split": "train"},
    ]
    content = "\n".join(map(json.dumps, rows))
    files(tmp_path, x__jsonl=content, y__jsonl__gz=gzip.compress(content.encode()))
    for name in ("x.jsonl", "y.jsonl.gz"):
        found = items(tmp_path / name)
        assert [(item.label, item.split, is_document(item)) for item in found] == [
            ("1", "val", False),
            ("true", None, False),
            (None, None, True),
            (None, None, True),
            ("x", "train", False),
        ]
        assert [item.name for item in found] == [f"{name}:{line}" for line in range(1, 6)]


def test_json_pairs__are_one_sample(tmp_path: Path) -> None:
    files(tmp_path, x__jsonl='{"a": "one", "b": "two"}\n{"a": "one"}\n{"a": "one", "b": ""}')
    found = items(tmp_path / "x.jsonl", text_column="a", pair_column="b")
    assert read_texts(found[0]) == ["one", "two"]
    assert [item.problem for item in found[1:]] == [
        "the field 'b' is missing or no text",
        "empty: a text of the pair",
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('["a"]', "not a JSON object"),
        ('{"body": "a"}', "the field 'text' is missing or no text"),
        ('{"text": 7}', "the field 'text' is missing or no text"),
        ('{"text": "a", "label": [1]}', "the field 'label' is no text, number or truth value"),
        ('{"text": "a", "split": "later"}', "the split is none of train"),
    ],
)
def test_bad_json_object__is_turned_away_alone(tmp_path: Path, line: str, problem: str) -> None:
    files(tmp_path, x__jsonl=f'{{"text": "good"}}\n{line}\n')
    good, bad = items(tmp_path / "x.jsonl")
    assert good.problem is None
    assert str(bad.problem).startswith(problem)


def test_wrong_field_names__are_refused_at_the_first_line(tmp_path: Path) -> None:
    files(tmp_path, x__jsonl='{"body": "a", "id": 1}\n')
    path = tmp_path / "x.jsonl"
    assert "has no field 'text'; its fields are: body, id" in error(path)
    assert "data.label_column" in error(path, text_column="body", label_column="kind")
    assert listed(path, text_column="body") == [("x.jsonl:1", None)]


def test_wrong_sources__are_explained(tmp_path: Path) -> None:
    files(tmp_path / "x", a__png=b"x")
    (tmp_path / "empty").mkdir()
    assert "no text among them (1 .png)" in error(tmp_path / "x")
    assert "is empty" in error(tmp_path / "empty")
    assert "does not exist" in error(tmp_path / "gone")
    with pytest.raises(UsageError, match="There is no builtin:bible.*builtin:pydoc"):
        list(read_source(SourceSettings(source="builtin:bible")))
    with pytest.raises(UsageError, match="No source is set"):
        list(read_source(SourceSettings()))
