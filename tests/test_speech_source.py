"""Recordings are listed once, in one order, with split, speaker, label and transcript."""

from pathlib import Path

import pytest

from d2v.errors import UsageError
from d2v.modalities.base import SourceSettings
from d2v.modalities.speech.source import read_source
from d2v.samples import SourceItem
from tests.recording_case import write


def listed(source: Path, **columns: object) -> list[SourceItem]:
    return list(read_source(SourceSettings.model_validate({"source": str(source), **columns})))


def error(source: object, **columns: str) -> str:
    settings = SourceSettings(source=None if source is None else str(source), **columns)
    with pytest.raises(UsageError) as caught:
        list(read_source(settings))
    return str(caught.value)


def speech(root: Path, *names: str) -> Path:
    for name in names:
        write(root / name, b"x")
    return root


def test_librispeech__tells_split_speaker_and_transcript(tmp_path: Path) -> None:
    for folder in ("train-clean-100/19/198", "dev-other/7/1", "test/8/2"):
        _, speaker, chapter = folder.split("/")
        write(tmp_path / folder / f"{speaker}-{chapter}-0000.flac", b"x")
        write(
            tmp_path / folder / f"{speaker}-{chapter}.trans.txt",
            f"{speaker}-{chapter}-0000 A  WORD, {speaker}\r\n\n",
        )
    assert [(i.name, i.split, i.group, i.details) for i in listed(tmp_path)] == [
        (f"{folder}/{name}.flac", split, who, {"transcript": f"A  WORD, {who}", "speaker": who})
        for folder, name, split, who in (
            ("dev-other/7/1", "7-1-0000", "val", "7"),
            ("test/8/2", "8-2-0000", "test", "8"),
            ("train-clean-100/19/198", "19-198-0000", "train", "19"),
        )
    ]
    one_split = listed(tmp_path / "train-clean-100")
    assert [(item.split, item.group) for item in one_split] == [(None, "19")]


def test_label__is_the_speaker_where_that_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "train/19/198/19-198-0000.flac", b"x")
    write(tmp_path / "train/19/198/19-198.trans.txt", "19-198-0000 A\n")
    write(tmp_path / "some.csv", "path,label,speaker\na.wav,yes,me\n")
    for source, speaker, label in ((tmp_path / "train", "19", None),
                                   (tmp_path / "some.csv", "me", "yes")):  # fmt: skip
        (usual,), (asked,) = listed(source), listed(source, label_from="speaker")
        assert (usual.label, usual.group) == (label, speaker)
        assert (asked.label, asked.group) == (speaker, None)


def test_label_from_speakers__needs_one_speaker_at_least(tmp_path: Path) -> None:
    some = write(tmp_path / "some.csv", "path,label,speaker\na.wav,yes,\nb.wav,no,ann\n")
    assert [item.label for item in listed(some, label_from="speaker")] == [None, "ann"]
    speech(tmp_path / "classes", "yes/a.wav", "no/b.wav")
    nobody = write(tmp_path / "nobody.csv", "path,label,speaker\na.wav,yes,\n")
    for source in (tmp_path / "classes", nobody):
        settings = SourceSettings(source=str(source), label_from="speaker")
        with pytest.raises(UsageError, match=r"names none.*column 'speaker'.*data\.label_from"):
            read_source(settings)  # refused at the call: nothing is listed, nothing stored


def test_librispeech__splits_may_lie_deeper(tmp_path: Path) -> None:
    for folder in ("LibriSpeech/train-clean-100/19/198", "LibriSpeech/test-clean/8/2"):
        write(tmp_path / folder / "a.trans.txt", "")
        write(tmp_path / folder / "0000.flac", b"x")
    assert [(item.split, item.group) for item in listed(tmp_path) if item.path] == [
        ("test", "8"),
        ("train", "19"),
    ]


def test_librispeech__other_ids_take_the_speaker_from_the_folder(tmp_path: Path) -> None:
    speech(tmp_path, "train/ann/hello.wav", "train/bye.wav")
    write(tmp_path / "train/ann/all.trans.txt", "hello HELLO\n")
    assert [(item.group, item.details) for item in listed(tmp_path)] == [
        ("ann", {"transcript": "HELLO", "speaker": "ann"}),
        (None, {"transcript": ""}),
    ]


def test_librispeech__what_lacks_its_other_half_is_told(tmp_path: Path) -> None:
    speech(tmp_path, "1/1/1-1-0000.flac", "1/1/1-1-0002.flac", "1/1/notes.txt")
    write(tmp_path / "1/1/1-1.trans.txt", "1-1-0000 YES\n1-1-0001 NO\n1-1-0000 OH\n1-1-0002\n")
    lost, second = "a transcript without its recording", "a second transcript of the same utterance"
    items = listed(tmp_path)
    assert [(item.name, item.details.get("transcript"), item.problem) for item in items] == [
        ("1/1/1-1-0000.flac", "YES", None),
        ("1/1/1-1-0002.flac", "", None),
        ("1/1/1-1.trans.txt, line 2", None, lost),
        ("1/1/1-1.trans.txt, line 3", None, second),
        ("1/1/notes.txt", None, None),
    ]


def test_librispeech__later_recordings_of_the_same_id_are_ruled_out(tmp_path: Path) -> None:
    speech(tmp_path, "a/1-1-0000.flac", "a/1-1-0000.wav", "b/1-1-0000.flac", "b/1-1-0001.flac")
    write(tmp_path / "a/1-1.trans.txt", "1-1-0000 YES\n")
    reason = "its utterance id is another recording's already"
    assert [(item.name, item.problem) for item in listed(tmp_path)] == [
        ("a/1-1-0000.flac", None),
        ("a/1-1-0000.wav", reason),
        ("b/1-1-0000.flac", reason),
        ("b/1-1-0001.flac", None),
    ]


def test_librispeech__transcripts_are_utf_8_line_by_line(tmp_path: Path) -> None:
    speech(tmp_path, "a.wav", "b.wav", "c.wav")
    write(tmp_path / "x.trans.txt", b"\xef\xbb\xbfa caf\xc3\xa9\nb caf\xe9\nc tea\n")
    assert [(item.details["transcript"], item.problem) for item in listed(tmp_path)] == [
        ("caf\u00e9", None),
        ("", "its transcript is not UTF-8: byte 3 of the words"),
        ("tea", None),
    ]


def test_librispeech__folders_may_lie_between_recordings_and_transcripts(tmp_path: Path) -> None:
    speech(tmp_path, "a.wav", "m/b.wav", "z.wav")
    write(tmp_path / "y.trans.txt", "a FIRST\nz LAST\nnone LOST\n")
    assert [(i.name, i.details.get("transcript")) for i in listed(tmp_path)] == [
        ("a.wav", "FIRST"),
        ("m/b.wav", ""),
        ("y.trans.txt, line 3", None),
        ("z.wav", "LAST"),
    ]


def test_table__tells_all_it_knows(tmp_path: Path) -> None:
    table = write(
        tmp_path / "t.tsv",
        "path\tlabel\tspeaker\ttranscript\tsplit\tstart\tend\n"
        "wav/a.wav\tyes\tann\tYes, sir\tdev\t\t\n"
        "wav/a.wav\t\t\t\t\t1.5\t2\n"
        "/abs/b.wav\t\tbob\tno\t\t\t0.5\n",
    )
    first, second, third = listed(table)
    assert first == SourceItem(
        name="wav/a.wav",
        path=tmp_path / "wav/a.wav",
        label="yes",
        split="val",
        group="ann",
        details={"speaker": "ann", "transcript": "Yes, sir"},
    )
    assert (second.name, second.part) == ("wav/a.wav 1.5-2 s", "1.5-2")
    assert second.details == {"transcript": "", "start": "1.5", "end": "2"}
    assert (third.path, third.part, third.group) == (Path("/abs/b.wav"), "0-0.5", "bob")


def test_table__without_transcripts_promises_none(tmp_path: Path) -> None:
    (item,) = listed(write(tmp_path / "t.csv", "path\na.wav\n"))
    assert (item.details, item.group, item.part) == ({}, None, "")


@pytest.mark.parametrize(
    ("start", "end", "problem"),
    [
        ("0", "1", None),
        ("1", "", None),
        ("", "0.5", None),
        ("one", "2", "not a number"),
        ("1", "1", "no stretch"),
        ("2", "1", "no stretch"),
        ("-1", "1", "no stretch"),
        ("nan", "1", "no stretch"),
        ("0", "nan", "no stretch"),
        ("0", "inf", "no stretch"),
    ],
)
def test_table__times_that_make_no_sense_rule_a_row_out(
    tmp_path: Path, start: str, end: str, problem: str | None
) -> None:
    (item,) = listed(write(tmp_path / "t.csv", f"path,start,end\na.wav,{start},{end}\n"))
    assert item.problem is None if problem is None else problem in (item.problem or "")


def test_table__columns_that_somebody_chose_must_be_there(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "path,who\na.wav,ann\n")
    assert [item.group for item in listed(table, speaker_column="who")] == ["ann"]
    assert "no column 'text'" in error(table, transcript_column="text")


def test_files__name_one_table_a_split(tmp_path: Path) -> None:
    write(tmp_path / "lists/a.tsv", "path\na.wav\n")
    write(tmp_path / "lists/b.tsv", "path\nb.wav\n")
    files = {"train": "lists/a.tsv", "test": "lists/b.tsv"}
    assert [(item.path, item.split) for item in listed(tmp_path, files=files)] == [
        (tmp_path / "lists/a.wav", "train"),
        (tmp_path / "lists/b.wav", "test"),
    ]
    with pytest.raises(UsageError, match="data.files.val names"):
        listed(tmp_path, files={"val": "lists/c.tsv"})


def test_folders__give_classes_and_splits(tmp_path: Path) -> None:
    speech(tmp_path / "classes", "yes/a.wav", "no/b.mp3", "no/notes.txt")
    assert [(item.name, item.label) for item in listed(tmp_path / "classes")] == [
        ("no/b.mp3", "no"),
        ("no/notes.txt", "no"),
        ("yes/a.wav", "yes"),
    ]
    speech(tmp_path / "splits", "train/yes/a.wav", "test/yes/b.wav")
    assert [(item.split, item.label) for item in listed(tmp_path / "splits")] == [
        ("test", "yes"),
        ("train", "yes"),
    ]
    speech(tmp_path / "flat", "b.flac", "a.OGG")
    assert [item.name for item in listed(tmp_path / "flat")] == ["a.OGG", "b.flac"]


def test_wrong_sources__are_explained(tmp_path: Path) -> None:
    assert "No source is set" in error(None)
    assert "builtin:spoken" in error("builtin:letters")
    assert "single file" in error(write(tmp_path / "x/a.wav", b"x"))
    speech(tmp_path / "y", "a.txt", "b.png")
    assert "2 files and no recording among them" in error(tmp_path / "y")
    write(tmp_path / "z/a.trans.txt", "a WORDS")
    assert "no recording among them" in error(tmp_path / "z")
