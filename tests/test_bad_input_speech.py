"""Proves: with recordings, whatever is wrong is counted with its reason, or refused in one message.

From the command line to the exit code; what is wrong with single files is in test_speech_store*.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from tests.hostile_case import SHARDS, d2v, left, refused, worked
from tests.modality_cases import hum
from tests.prepare_case import lines
from tests.ragged_desk_case import SPEECH, at_desk, table, voices
from tests.recording_case import noise, recorded, tone, write


@pytest.fixture(name="desk")
def desk_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own folder: a recipe and no recordings yet."""
    return at_desk(tmp_path, monkeypatch, SPEECH)


@pytest.fixture(scope="module", name="shards")
def shards_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two words; the shortest recording is too short for a token."""
    with pytest.MonkeyPatch.context() as patch:
        desk = at_desk(tmp_path_factory.mktemp("prepared"), patch, SPEECH)
        voices(desk / "voices", "yes", "no")
        write(desk / "voices/yes/blip.wav", recorded(tone(0.03)))
        worked(d2v("prepare", "my.yaml", "modality.store.min_seconds=0.025"), "25 stored")
        return desk / SHARDS


# Recordings


def librispeech(root: Path) -> dict[str, list[str]]:
    """Twelve good utterances of two speakers, and what is said, by speaker."""
    words: dict[str, list[str]] = {"19": [], "26": []}
    for number in range(12):
        speaker = "19" if number % 2 else "26"
        name = f"{speaker}-7-{number:04}"
        write(
            root / speaker / f"{name}.flac", recorded(hum(number, 0.2 + 0.02 * number), kind="flac")
        )
        words[speaker].append(f"{name} SAID IN {number}")
    return words


def not_a_number() -> bytes:
    values = tone(0.5)
    values[100] = np.nan
    return recorded(values, subtype="FLOAT")


def test_bad_recordings__are_listed_with_their_reasons_and_the_rest_is_used(desk: Path) -> None:
    root = Path("libri/train-clean")
    words = librispeech(root)
    rejected = {
        "0100.wav": (b"Dear diary, no sound today", "cannot be decoded: format not recognised"),
        "0101.flac": (b"", "empty file"),
        "0102.wav": (recorded(tone(0.5))[:-4000], "truncated: it ends before its header says"),
        "0103.wav": (not_a_number(), "holds values that are no numbers (NaN or infinite)"),
        "0104.wav": (recorded(tone(0)), "zero length: there is no sound in it"),
        "0105.wav": (recorded(tone(0.02)), "too short: 0.02 s, less than min_seconds=0.1"),
    }
    odd = {
        "0200.wav": (recorded(noise(4000, 8)), None),
        "0201.wav": (recorded(noise(48_000), rate=192_000), None),
        "0202.wav": (recorded(np.zeros(4000, np.float32)), "silent"),
        "0203.wav": (recorded(np.sign(tone(0.3))), "clipped"),
        "0204.wav": (recorded(tone(0.3)), "no transcript, where others have one"),
    }
    for name, (content, _) in (rejected | odd).items():
        write(root / "19" / f"19-7-{name}", content)
        if name != "0204.wav":
            words["19"].append(f"19-7-{name.partition('.')[0]} SAID, TOO")
    words["19"] += ["19-7-0300 BY NOBODY", "19-7-0200 SAID AGAIN"]
    for speaker, said in words.items():
        write(root / speaker / f"{speaker}-7.trans.txt", "\n".join(said))
    write(root / "26" / "19-7-0001.flac", recorded(tone(0.3), kind="flac"))
    write(root / "26" / "readme.md", "x")
    (root / "26" / "26-7-0900.flac").symlink_to("nowhere")
    os.mkfifo(root / "26" / "26-7-0901.wav")

    result = d2v("prepare", "my.yaml", "data.source=libri")
    worked(result, "29 inputs = 17 stored + 12 rejected", "7: for other reasons", "192,000 Hz 1")
    reasons = {entry["source"]: entry["reason"] for entry in lines(SHARDS / "rejected.jsonl")}
    folder = "train-clean/19/19-7"
    assert reasons == {
        **{f"{folder}-{name}": reason for name, (_, reason) in rejected.items()},
        f"{folder}.trans.txt, line 17": "a transcript without its recording",
        f"{folder}.trans.txt, line 18": "a second transcript of the same utterance",
        "train-clean/26/19-7-0001.flac": "its utterance id is another recording's already",
        "train-clean/26/readme.md": "not a supported kind of recording: .md",
        "train-clean/26/26-7-0900.flac": "cannot be read: No such file or directory",
        "train-clean/26/26-7-0901.wav": "not a regular file",
    }
    found = {entry["source"]: entry["warning"] for entry in lines(SHARDS / "warnings.jsonl")}
    assert found == {f"{folder}-{name}": text for name, (_, text) in odd.items() if text}
    worked(d2v("pretrain", "my.yaml", "data.source=libri"), "Pre-trained runs/my/pretrain")


def test_too_few_speakers__for_val_are_told_before_pretraining(desk: Path) -> None:
    voices(desk / "voices", "yes", "no")
    rows = [[f"voices/{w}/{n}.wav", w, "me"] for w in ("yes", "no") for n in range(12)]
    table(desk / "one.tsv", ["path", "label", "speaker"], *rows)
    arguments = ["run", "my.yaml", "data.source=one.tsv", "prepare.test_fraction=0"]
    result = d2v(*arguments)
    refused(result, "no val split", "prepare.split_by=sample", "--fresh")
    assert "Pre-trained" not in result.output
    worked(d2v(*arguments, "prepare.split_by=sample", "--fresh"), "Frozen-feature scores")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([["file"], ["a.wav"]], ["no column 'path'", "data.path_column"]),
        ([["path"], [""]], ["bad.tsv, line 2", "the path of a recording in every row"]),
        ([["path"], ["gone.wav"]], ["None of the 1 inputs", "No such file"]),
        ([["path", "start", "end"], ["a.wav", "0.4", "0.2"]], ["None of the 1", "no stretch of"]),
        ([["path", "start", "end"], ["a.wav", "7", "8"]], ["begins after its recording has ended"]),
        ([["path", "split"], ["a.wav", "later"]], ["bad.tsv, line 2", "'later'"]),
    ],
)
def test_table__that_cannot_be_used_is_refused_and_leaves_nothing(
    desk: Path, rows: list[list[str]], words: list[str]
) -> None:
    write(desk / "a.wav", recorded(tone(0.5)))
    table(desk / "bad.tsv", *rows)
    refused(d2v("prepare", "my.yaml", "data.source=bad.tsv"), *words)
    assert left(Path("runs")) == []


# Recipes


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("modality.frontend.kind=logml", ["frontend.kind = logml", "Did you mean logmel?"]),
        ("modality.frontend.num_band=9", ["frontend.num_bands?"]),
        ("modality.store.min_seconds=0.01", ["min_seconds = 0.01", "0.025"]),
        ("modality.store.max_seconds=0.15", ["max_seconds 0.15", "twice min_seconds 0.1"]),
        ("modality.mask.length=0", ["modality.mask.length = 0"]),
        ("pretrain.batch_size=4", ["batch_size and batch_length", "both of them are given"]),
        ("pretrain.batch_length=null", ["batch_size and batch_length", "neither of them"]),
        ("pretrain.max_batch_per_device=2", ["max_batch_per_device goes with batch_size"]),
        ("probe.pool=cls", ["probe.pool cls", "CLS token"]),
    ],
)
def test_setting__that_is_wrong_is_named(desk: Path, override: str, words: list[str]) -> None:
    changes = ["pretrain.batch_size=null"] * override.endswith("batch_length=null")
    refused(d2v("run", "my.yaml", override, *changes), *words)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["modality.frontend.positions.groups=3"], ["positions.groups 3", "encoder.dim 16"]),
        (["pretrain.max_length=0.01"], ["max_length is 0.01 seconds", "0 tokens", "at least two"]),
        (["pretrain.max_length=0.04"], ["max_length is 0.04 seconds", "1 token.", "at least two"]),
        (["pretrain.batch_length=0.4"], ["longest training sample", "seconds", "batch_length"]),
        (["pretrain.batch_length=100"], ["seconds of training data", "one batch takes 100"]),
        (["pretrain.max_length_per_device=0.4"], ["longest training sample", "_per_device"]),
    ],
)
def test_setting__that_does_not_suit_the_data_is_refused_by_plan_and_run(
    desk: Path, shards: Path, overrides: list[str], words: list[str]
) -> None:
    arguments = ["pretrain", "my.yaml", f"data.shards={shards}", *overrides]
    refused(d2v(*arguments, "--dry-run"), *words)
    assert not Path("runs").exists()
    refused(d2v(*arguments), *words)
    assert left(Path("runs")) == []


def test_crop__to_two_tokens_can_be_masked_and_trained(desk: Path, shards: Path) -> None:
    changes = ["pretrain.max_length=0.06", "pretrain.batch_length=0.3", "data.max_bad_fraction=0.1"]
    worked(d2v("pretrain", "my.yaml", f"data.shards={shards}", *changes), "Pre-trained")


def test_clip__shorter_than_the_receptive_field_is_counted(desk: Path, shards: Path) -> None:
    arguments = ["my.yaml", f"data.shards={shards}"]
    words = ("480 samples, but one token takes 560", "data.max_bad_fraction")
    refused(d2v("pretrain", *arguments), *words, "yes/blip.wav", code=1)
    allowed = "data.max_bad_fraction=0.1"
    worked(d2v("pretrain", *arguments, allowed), "unusable sample was skipped")
    refused(d2v("probe", *arguments, allowed, "probe.pool=tokens"), "tokens", "probe.pool=mean")
    worked(d2v("probe", *arguments, allowed), "1 of 15 samples", "Frozen-feature scores")


def test_test_speakers__that_train_lacks_are_no_classes_to_probe(desk: Path) -> None:
    for split, speakers in (("train", ("19", "26")), ("test", ("30", "41"))):
        for number in range(12):
            name = f"{speakers[number % 2]}-7-{number:04}"
            folder = Path("libri") / split / speakers[number % 2]
            write(folder / f"{name}.flac", recorded(hum(number, 0.4), kind="flac"))
            write(folder / "a.trans.txt", "")
    changes = ["data.source=libri", "data.label_from=speaker"]
    worked(d2v("prepare", "my.yaml", *changes), "24 stored")
    refused(d2v("probe", "my.yaml", *changes), "occurs in train", "use one split as the source")


def test_sources__of_several_sets_are_asked_for_by_their_own_names(desk: Path) -> None:
    voices(desk / "voices", "yes", "no")
    changes = ["data.source=null", "+data.pretrain.source=voices", "+data.probe.source=null"]
    refused(d2v("prepare", "my.yaml", *changes), "data.probe.source is not set",
            "Set data.probe.source=PATH")  # fmt: skip
    worked(d2v("prepare", "my.yaml", *changes, "--dry-run"), "data.probe.source=PATH")
