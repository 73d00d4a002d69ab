"""Proves: transcripts become label lines and come back as they were; bad ones say why."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from d2v.errors import BadSampleError, UsageError
from d2v.modalities.speech.transcripts import summarise, transcript_totals
from d2v.recipe import FinetuneSettings
from d2v.tasks import build_task
from d2v.tasks.ctc import Ctc
from d2v.tasks.ctc_model import CtcSettings
from d2v.tasks.transcripts import as_ids, as_text, frames_needed, vocabulary_of
from d2v.types import Batch
from tests.ctc_case import SYMBOLS, task
from tests.speech_case import CONVOLUTION, batch_of, build, modality, waves

GOOD: dict[str, Any] = {"blank": "<s>", "word_boundary": "|", "symbols": list(SYMBOLS)}


def details(**changes: Any) -> dict[str, bytes]:
    return {"json": json.dumps(changes).encode()}


# Vocabulary


def test_vocabulary__is_what_preparing_wrote(tmp_path: Path) -> None:
    totals = {"train": transcript_totals("It's a b\u00e9b\u00e9, 42") | {"seconds": 1.0}}
    (content,) = summarise(totals).files.values()
    (tmp_path / "vocabulary.json").write_bytes(content)
    special = ("<s>", "<pad>", "</s>", "<unk>", "|")
    assert vocabulary_of(tmp_path) == (*special, *sorted(set("IT'SABÉBÉ42")))
    settings = CtcSettings(name="ctc")
    built = Ctc.of_data(settings, tmp_path)
    assert build_task(settings, json.loads(json.dumps(built.about()))) == built


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"symbols": ["<pad>", *SYMBOLS[1:]]}, "'<pad>' stands in it twice"),
        ({"symbols": list(SYMBOLS[1:])}, "first symbol is not the blank"),
        ({"symbols": [one for one in SYMBOLS if one != "|"]}, "lacks |"),
        ({"symbols": list(SYMBOLS[:5])}, "no letters"),
        ({"symbols": [*SYMBOLS, "AB"]}, "'AB' is not one character"),
        ({"symbols": [*SYMBOLS, 3]}, "not a list of texts"),
        ({"blank": "<pad>"}, "blank and word boundary are"),
    ],
)
def test_vocabulary__that_makes_no_sense_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    (tmp_path / "vocabulary.json").write_text(json.dumps(GOOD | changes))
    with pytest.raises(UsageError, match="no usable vocabulary") as caught:
        vocabulary_of(tmp_path)
    assert message in str(caught.value)
    assert "--fresh" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[1]", b"{}", b"\xff", b'"x"'])
def test_vocabulary__that_is_damaged_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "vocabulary.json").write_bytes(content)
    with pytest.raises(UsageError, match="cannot be read"):
        vocabulary_of(tmp_path)


def test_data_without_transcripts__are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="have no transcripts.*transcript_column"):
        Ctc.of_data(CtcSettings(name="ctc"), tmp_path)


# Label lines


def test_label_line__has_boundaries_for_spaces_and_at_its_end() -> None:
    line = [SYMBOLS[one] for one in as_ids("AB CA", SYMBOLS)]
    assert line == ["A", "B", "|", "C", "A", "|"], "reference 3.2"


@pytest.mark.parametrize("text", ["A", "AB CA", "A B C", "AXB \u00e9", "Z", "\U0001d538 A"])
def test_label_line__can_be_read_back_even_with_strange_characters(text: str) -> None:
    assert as_text(as_ids(text, SYMBOLS), SYMBOLS) == text


def test_collate__is_read_back_by_truths() -> None:
    spoken = ["AB", None, "C XA B", "B"]
    targets = task().collate(spoken)
    assert targets.dtype == torch.int64
    assert targets[0].tolist() == [5, 6, 4, -1, -1, -1, -1]
    batch = Batch(inputs=torch.zeros(4, 3), targets=targets)
    assert task().truths(batch) == spoken
    unlabelled = Batch(inputs=torch.zeros(2, 3), targets=task().collate([None, None]))
    assert task().truths(unlabelled) == [None, None]
    assert task().truths(Batch(inputs=torch.zeros(2, 3))) == [None, None]


@pytest.mark.parametrize(("text", "frames"), [("A", 2), ("AA", 4), ("ABBA CC", 10), ("ABC", 4)])
def test_frames_needed__count_a_blank_between_equal_characters(text: str, frames: int) -> None:
    assert frames_needed(as_ids(text, SYMBOLS)) == frames


# Samples


def test_target__is_the_normalised_transcript() -> None:
    assert task().target(details(transcript="AB C", speaker="x")) == "AB C"
    assert task().target(details(speaker="x")) is None
    assert task().target({"flac": b""}) is None


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (details(transcript=""), "nothing is left"),
        (details(transcript="  "), "nothing is left"),
        ({"json": b"{"}, "no JSON object"),
        ({"json": b"[]"}, "no JSON object"),
        ({"json": b"\xff\xfe"}, "no JSON object"),
    ],
)
def test_target__that_is_nothing_is_a_bad_sample(parts: dict[str, bytes], message: str) -> None:
    with pytest.raises(BadSampleError, match=message):
        task().target(parts)


@pytest.mark.parametrize(
    ("text", "num_tokens", "message"),
    [("AXB", 9, "'X', which is not in the vocabulary"),
     ("AXB", None, "'X', which is not in the vocabulary"),
     ("ABC", 3, "takes 4 frames at least, and it has 3"), ("ABC", 4, None), ("ABC", None, None),
     ("AA", 3, "takes 4 frames")],
)  # fmt: skip
def test_problem__is_what_cannot_be_learned(
    text: str, num_tokens: int | None, message: str | None
) -> None:
    problem = task().problem(text, num_tokens)
    assert problem is None if message is None else message in str(problem)


def test_tokens_of_a_length__are_those_of_the_frontend() -> None:
    speech = modality("convolution")
    for wave in waves(60, 99, 100, 311):
        features = build(CONVOLUTION).features(batch_of("convolution", [wave]))
        assert speech.num_tokens(len(wave)) == features.shape[1]


@pytest.mark.parametrize("crop", [{"max_length": 3.0}, {"length_mode": "crop"}])
def test_settings__refuse_to_crop_what_is_transcribed(crop: dict[str, Any]) -> None:
    batches = {"batch_length": 60.0, "task": {"name": "ctc"}}
    FinetuneSettings.model_validate(batches)
    with pytest.raises(ValueError, match="learns from whole ones"):
        FinetuneSettings.model_validate(batches | crop)
