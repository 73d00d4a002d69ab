"""Every file of a source is listed once, in one order, with the label and split it has."""

import itertools
from pathlib import Path

import pytest

from d2v.errors import UsageError
from d2v.modalities import listing as module
from d2v.modalities.base import SourceSettings
from d2v.modalities.vision.source import read_source


def files(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def listed(source: Path, **columns: str) -> list[tuple[str, str | None, str | None]]:
    settings = SourceSettings(source=str(source), **columns)
    return [(item.name, item.label, item.split) for item in read_source(settings)]


def error(source: object, **columns: str) -> str:
    settings = SourceSettings(source=None if source is None else str(source), **columns)
    with pytest.raises(UsageError) as caught:
        list(read_source(settings))
    return str(caught.value)


def test_flat_folder__has_no_labels(tmp_path: Path) -> None:
    files(tmp_path, "b.png", "a.JPG", "notes.txt")
    assert listed(tmp_path) == [
        ("a.JPG", None, None),
        ("b.png", None, None),
        ("notes.txt", None, None),
    ]


def test_class_folders__give_labels_and_keep_what_is_nested_below(tmp_path: Path) -> None:
    files(tmp_path, "dog/b.png", "dog/2020/may/a.png", "cat/a.png", "cat/notes.txt")
    assert listed(tmp_path) == [
        ("cat/a.png", "cat", None),
        ("cat/notes.txt", "cat", None),
        ("dog/2020/may/a.png", "dog", None),
        ("dog/b.png", "dog", None),
    ]


def test_folders_without_pictures__are_listed_but_are_no_classes(tmp_path: Path) -> None:
    files(tmp_path, "README.md", "cat/a.png", "labels/a.xml")
    assert listed(tmp_path) == [
        ("README.md", None, None),
        ("cat/a.png", "cat", None),
        ("labels/a.xml", None, None),
    ]


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_split_folders__give_splits_and_labels(tmp_path: Path, val: str) -> None:
    files(tmp_path, "train/cat/a.png", "train/dog/a.png", f"{val}/cat/b.png", "test/c.png")
    assert listed(tmp_path) == [
        ("test/c.png", None, "test"),
        ("train/cat/a.png", "cat", "train"),
        ("train/dog/a.png", "dog", "train"),
        (f"{val}/cat/b.png", "cat", "val"),
    ]


def test_train_among_other_classes__is_a_class(tmp_path: Path) -> None:
    files(tmp_path, "bus/a.png", "train/a.png")
    assert listed(tmp_path) == [("bus/a.png", "bus", None), ("train/a.png", "train", None)]


def test_splits_beside_classes__are_refused(tmp_path: Path) -> None:
    files(tmp_path, "train/a.png", "test/a.png", "cat/a.png")
    assert "splits (test, train) and other folders with pictures (cat)" in error(tmp_path)


def test_hidden_files__are_ignored(tmp_path: Path) -> None:
    files(tmp_path, "cat/a.png", "cat/.b.png", ".cache/c.png", ".DS_Store")
    assert listed(tmp_path) == [("cat/a.png", "cat", None)]


def test_links_in_a_circle__do_not_hang(tmp_path: Path) -> None:
    files(tmp_path, "cat/a.png")
    (tmp_path / "cat" / "up").symlink_to(tmp_path)
    (tmp_path / "cat" / "self").symlink_to("self")
    (tmp_path / "cat" / "gone.png").symlink_to("nowhere.png")
    assert [name for name, _, _ in listed(tmp_path)] == ["cat/a.png", "cat/gone.png", "cat/self"]


def test_linked_folders__are_followed(tmp_path: Path) -> None:
    files(tmp_path / "elsewhere", "a.png")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "cat").symlink_to(tmp_path / "elsewhere")
    assert listed(tmp_path / "source") == [("cat/a.png", "cat", None)]


def test_order__is_the_same_when_a_folder_is_sorted_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{a}{b}{c}.png" for a, b, c in itertools.product("xyz", "cab", "\n\\é")]
    files(tmp_path, *names, "sub/a.png")
    in_memory = listed(tmp_path)
    monkeypatch.setattr(module, "ENTRIES_IN_MEMORY", 4)
    assert listed(tmp_path) == in_memory
    assert len(in_memory) == 28


def test_table__gives_paths_relative_to_itself(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "path,label,split\nb.png,7,train\nsub/a.png,,valid\n/abs/c.png,8,\n", encoding="utf-8-sig"
    )
    items = list(read_source(SourceSettings(source=str(tmp_path / "t.csv"))))
    assert [(i.path, i.label, i.split) for i in items] == [
        (tmp_path / "b.png", "7", "train"),
        (tmp_path / "sub/a.png", None, "val"),
        (Path("/abs/c.png"), "8", None),
    ]
    assert [item.name for item in items] == ["b.png", "sub/a.png", "/abs/c.png"]


def test_table__may_have_other_columns_and_tabs(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("file\tkind\na.png\tcat, small\n")
    table = tmp_path / "t.tsv"
    named = {"path_column": "file", "label_column": "kind"}
    assert listed(table, **named) == [("a.png", "cat, small", None)]
    assert listed(table, path_column="file") == [("a.png", None, None)]


def test_table__without_a_wanted_column_says_which_it_has(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,kind\na.png,cat\n")
    table = tmp_path / "t.csv"
    assert "no column 'path'; its columns are: file, kind" in error(table)
    assert "data.path_column" in error(table)
    assert "'animal'" in error(table, path_column="file", label_column="animal")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("path,label\n", "no rows"),
        ("path,label\n,cat\n", "line 2: the column 'path' is empty"),
        ("path,split\na.png,later\n", "line 2: the split is 'later'"),
        ("", "no column 'path'"),
        ("path\n\udcff", "cannot be read"),
    ],
)
def test_table__faults_are_named(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "t.csv").write_text(text, errors="surrogateescape")
    assert complaint in error(tmp_path / "t.csv")


def test_digits__are_1797_labelled_scans() -> None:
    items = list(read_source(SourceSettings(source="builtin:digits")))
    assert len(items) == 1797
    assert (items[0].name, items[0].label) == ("digits/0000.png", "0")
    assert sorted({item.label for item in items if item.label}) == list("0123456789")
    assert items[0].content is not None
    assert items[0].content.startswith(b"\x89PNG")
    assert [item.content for item in read_source(SourceSettings(source="builtin:digits"))] == [
        item.content for item in items
    ]


def test_wrong_sources__are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "No source is set" in error(None)
    assert "does not exist" in error(tmp_path / "gone")
    assert "builtin:digits" in error("builtin:letters")
    assert "is empty" in error(tmp_path)
    assert "single file" in error(files(tmp_path / "x", "a.png") / "a.png")
    files(tmp_path / "y", "a.txt", "sub/b.txt", "c")
    assert "3 files and no picture among them (2 .txt, 1 (none))" in error(tmp_path / "y")

    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("os.scandir", refuse)
    assert "cannot be read: Permission denied" in error(tmp_path / "x")
