"""Proves: what a model is applied to is read in order, by files or lines, without labels."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from d2v.errors import UsageError
from d2v.modalities import Modality, ModalitySettings, SourceSettings, build_modality
from d2v.modalities.text.items import is_document, read_texts
from d2v.samples import SourceItem
from tests.modality_cases import CASES, Case

PLAIN = SourceSettings()
PAIR = SourceSettings(text_column="one", pair_column="two", label_column="gold")
BY_NAME = {case.name: case for case in CASES}
FILES = [case for case in CASES if case.name != "text"]


def modality_of(case: Case) -> Modality:
    return build_modality(TypeAdapter[ModalitySettings](ModalitySettings).validate_python(
        case.settings))  # fmt: skip


def listed(case: Case, *inputs: Path | bytes, source: SourceSettings = PLAIN) -> list[SourceItem]:
    return list(modality_of(case).read_inputs(inputs, source))


def texts(*inputs: Path | bytes, source: SourceSettings = PLAIN) -> list[SourceItem]:
    return listed(BY_NAME["text"], *inputs, source=source)


# Files, for every modality


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.name))
def test_seconds__stand_between_tokens_of_speech_alone(case: Case) -> None:
    seconds = modality_of(case).seconds_per_token
    if case.settings["name"] == "speech":
        geometry = modality_of(case).settings.frontend.geometry  # type: ignore[attr-defined]  # speech
        assert seconds == geometry.stride / 16_000
    else:
        assert seconds is None


def laid_out(case: Case, folder: Path, names: list[str]) -> list[Path]:
    """The case's samples in files of these names."""
    for name, item in zip(names, case.items(), strict=False):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(item.read())
    return [folder / name for name in names]


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.name))
def test_folder__gives_what_the_modality_reads_in_the_order_of_names(
    case: Case, tmp_path: Path
) -> None:
    end = Path(case.items()[0].name).suffix
    laid_out(case, tmp_path, [f"b/2{end}", f"a{end}", f"c{end}", f"b/1{end}"])
    for name in ("b/notes.md", "b/.hidden" + end, "d.pdf"):
        (tmp_path / name).write_text("no sample")
    items = listed(case, tmp_path)
    expected = ["a", "b/1", "b/2", "c"]
    names = [item.name.removesuffix(":1").removesuffix(end) for item in items]
    assert names == [f"{tmp_path}/{name}" for name in expected]
    assert all(item.label is None and item.split is None for item in items)


@pytest.mark.parametrize("case", FILES, ids=lambda case: str(case.name))
def test_inputs__keep_their_order_and_their_bytes(case: Case, tmp_path: Path) -> None:
    end = Path(case.items()[0].name).suffix
    one, two = laid_out(case, tmp_path, [f"one{end}", f"two{end}"])
    third = case.items()[2].read()
    items = listed(case, two, third, one)
    assert [item.name for item in items] == [str(two), "-", str(one)]
    assert [item.read() for item in items] == [two.read_bytes(), third, one.read_bytes()]
    assert all(modality_of(case).encode(item) for item in items)


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.name))
def test_input__that_is_not_there_is_refused_before_any_is_read(case: Case, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for missing in (tmp_path / "nowhere", tmp_path / "empty"):
        with pytest.raises(UsageError, match=str(missing)):
            modality_of(case).read_inputs([b"first", missing], PLAIN)


# Texts


def test_lines__are_texts_and_blank_ones_are_passed_over(tmp_path: Path) -> None:
    content = "\ufeffOne film.\r\n\n  \nTwo\tfilms. And more.\nno end".encode()
    (tmp_path / "a.txt").write_bytes(content)
    with gzip.open(tmp_path / "b.txt.gz", "wb") as file:
        file.write(content)
    (tmp_path / "notes").write_bytes(content)
    expected = {1: ["One film."], 4: ["Two\tfilms. And more."], 5: ["no end"]}
    for name in ("a.txt", "b.txt.gz", "notes"):
        items = texts(tmp_path / name)
        assert [item.name for item in items] == [f"{tmp_path / name}:{n}" for n in expected]
        assert [read_texts(item) for item in items] == list(expected.values())
    items = texts(content)
    assert [item.name for item in items] == ["-:1", "-:4", "-:5"]
    assert not any(is_document(item) for item in items)


def test_pairs__have_a_tab_between(tmp_path: Path) -> None:
    items = texts(b"A man.\tA woman.\nNo pair.\na\tb\tc\n\tb\n", source=PAIR)
    assert read_texts(items[0]) == ["A man.", "A woman."]
    assert [item.problem for item in items] == [
        None,
        "0 tabs: the model was trained on pairs, two texts with a tab between",
        "2 tabs: the model was trained on pairs, two texts with a tab between",
        "empty: a text of the pair",
    ]


def test_line__that_is_no_text_is_one_problem() -> None:
    items = texts(b"good\n\xff bad\ngood\n")
    assert [item.problem for item in items] == [
        None, "not UTF-8: 0xff at byte 5 of the file", None]  # fmt: skip


def as_table(path: Path) -> None:
    path.write_text("id\tone\ttwo\tgold\n1\tA.\tB.\tyes\n\n2\tC.\tD.\tno\n")


def as_json_lines(path: Path) -> None:
    rows = [{"one": "A.", "two": "B.", "gold": "yes"}, {"one": "C.", "two": "D."}]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")


@pytest.mark.parametrize(("name", "write"), [("x.tsv", as_table), ("x.jsonl", as_json_lines)])
def test_table__is_read_with_the_columns_of_training_and_no_label(
    tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    write(tmp_path / name)
    items = texts(tmp_path / name, source=PAIR)
    assert [read_texts(item) for item in items] == [["A.", "B."], ["C.", "D."]]
    assert all(item.label is None and not is_document(item) for item in items)


def test_table__that_makes_no_sense_is_one_problem_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "bad.tsv").write_text("x\ty\n1\t2\n")
    (tmp_path / "good.txt").write_text("fine\n")
    items = texts(tmp_path / "bad.tsv", tmp_path / "good.txt")
    assert [item.name for item in items] == [f"{tmp_path}/bad.tsv", f"{tmp_path}/good.txt:1"]
    assert "has no column 'text'; its columns are: x, y" in (items[0].problem or "")
