"""Tables are read as they are written: with and without header, quotes, and a byte-order mark."""

from pathlib import Path

import pytest

from d2v.errors import UsageError
from d2v.modalities import tables
from d2v.modalities.base import SourceSettings
from d2v.modalities.tables import Row, read_rows


def rows(path: Path, **settings: object) -> list[Row]:
    return list(
        read_rows(
            path,
            SourceSettings.model_validate(settings),
            noun="text",
            required=("text_column",),
            optional=("pair_column", "split_column"),
        )
    )


def table(folder: Path, text: str, name: str = "t.tsv") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def values(path: Path, **settings: object) -> list[list[str | None]]:
    return [list(row.values.values()) for row in rows(path, **settings)]


def test_header__may_be_missing(tmp_path: Path) -> None:
    path = table(tmp_path, "gj04\t1\t\tThe sailors.\nbc01\t0\t*\tSailors the.\n")
    found = rows(path, header=False, text_column="3")
    assert [(row.get("3"), row.get("1"), row.get("2"), row.line) for row in found] == [
        ("The sailors.", "1", None, 1),
        ("Sailors the.", "0", "*", 2),
    ]
    with pytest.raises(UsageError, match="no column 'text'; its columns are: 0, 1, 2, 3"):
        rows(path, header=False)


def test_quotes__are_characters_like_any_other_where_quoting_is_off(tmp_path: Path) -> None:
    path = table(tmp_path, 'text\tb\n"What a\t"day"\n said "he\t"\n')
    assert values(path, quoting=False) == [['"What a', '"day"'], [' said "he', '"']]
    quoted = table(tmp_path, 'text,b\n"one, ""two""\nthree",4\n', "q.csv")
    assert values(quoted) == [['one, "two"\nthree', "4"]]
    assert rows(quoted)[0].line == 3


def test_byte_order_mark_and_empty_lines__are_passed_over(tmp_path: Path) -> None:
    path = table(tmp_path, "\ufefftext\tb\r\n\r\nx\ty\r\n")
    assert [dict(row.values) for row in rows(path)] == [{"text": "x", "b": "y"}]


def test_short_rows__lack_fields_and_long_ones_are_refused(tmp_path: Path) -> None:
    assert values(table(tmp_path, "text\tb\nx\n")) == [["x", None]]
    path = table(tmp_path, "label,text\n1,hello\n2,hello, world\n", "t.csv")
    with pytest.raises(UsageError, match="line 3: 3 fields, but there are 2 columns"):
        rows(path)


def test_long_fields__are_read_and_endless_ones_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = table(tmp_path, "text\tb\n" + "x" * 50_000_000 + "\ty\n")
    assert [len(row.get("text") or "") for row in rows(path)] == [50_000_000]
    monkeypatch.setattr(tables, "MAX_FIELD", 1_000)
    endless = table(tmp_path, 'text\tb\n"' + "never closed\n" * 100)
    with pytest.raises(UsageError, match=r"more than 1,000 characters.*data.quoting=false"):
        rows(endless)


def test_optional_columns__must_be_there_only_where_they_were_chosen(tmp_path: Path) -> None:
    path = table(tmp_path, "text\tother\nx\ty\n")
    assert rows(path)[0].get("split") is None
    assert rows(path, pair_column="other")[0].get("other") == "y"
    for chosen in ("pair_column", "split_column"):
        with pytest.raises(UsageError, match=f"data.{chosen}"):
            rows(path, **{chosen: "third"})


def test_other_files__are_no_tables(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is no table.*\.csv or \.tsv"):
        rows(table(tmp_path, "text\nx\n", "t.txt"))


GOOD = "fine\t1\n" * 50
SWALLOWED = [
    ("mark within", f'"a bad start\t0\n{GOOD}he said "no"\t1\n', "line 2: text follows .* line 53"),
    ("mark at an end", f'"a bad start\t0\n{GOOD}he said "\t1\n', "line 2: .* on to line 53"),
    ("none", f'well\t1\n\n"a bad start\t0\n{GOOD}', "line 4: a quoted field never ends"),
]


@pytest.mark.parametrize(("second", "text", "place"), SWALLOWED, ids=[x[0] for x in SWALLOWED])
def test_mark_that_quotes_nothing__does_not_swallow_the_rows_below(
    tmp_path: Path, second: str, text: str, place: str
) -> None:
    path = table(tmp_path, "text\tlabel\n" + text)
    with pytest.raises(UsageError, match=rf"t\.tsv, {place}.*data\.quoting=false"):
        rows(path)
    assert len(rows(path, quoting=False)) == text.replace("\n\n", "\n").count("\n")


@pytest.mark.parametrize("body", ['"one\ntwo" three,4\n', '"one\ntwo,4\n'])
def test_quotes_of_a_csv__may_hold_newlines_but_must_end(tmp_path: Path, body: str) -> None:
    with pytest.raises(UsageError, match=r"t\.csv, line 2: .*data\.quoting=false"):
        rows(table(tmp_path, "text,b\n" + body, "t.csv"))


def test_too_many_fields__name_both_ways_to_hold_a_separator(tmp_path: Path) -> None:
    path = table(tmp_path, 'text\tb\n"one\t"two" three\t4\n')
    with pytest.raises(UsageError, match=r"data\.quoting=false"):
        rows(path)
    extra = table(tmp_path, "text\tb\none\ttwo\tthree\n")
    with pytest.raises(UsageError, match=r"3 fields.*in quotation marks.*data\.quoting=false"):
        rows(extra)
    with pytest.raises(UsageError, match=r"3 fields.*data\.quoting=true"):
        rows(extra, quoting=False)
