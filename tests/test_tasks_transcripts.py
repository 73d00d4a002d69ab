"""Proves: transcripts become label lines and come back as they were; bad ones say why."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from d2v.errors import BadSampleError, UsageError
from d2v.modalities.speech.transcripts import summarise, transcript_totals
from d2v.recipe import FinetuneSettings
from d2v.tasks import TaskReader, build_task
from d2v.tasks.ctc import Ctc
from d2v.tasks.ctc_model import CtcSettings
from d2v.tasks.transcripts import as_ids, as_text, frames_needed, vocabulary_of
from d2v.types import Batch, Mask
from tests.ctc_case import SYMBOLS, task

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


class Three:
    """Every example is three tokens."""

    def decode(
        self, parts: dict[str, bytes], generator: Generator | None, limit: int | None = None
    ) -> Tensor:
        return torch.zeros(3)

    def collate(self, examples: Any) -> Batch:
        return Batch(inputs=torch.stack(list(examples)))

    def num_tokens(self, example: Tensor) -> int | None:
        return len(example)

    def sample_mask(self, batch: Batch, generators: Any) -> Mask:
        return Mask.of(torch.ones(len(batch), 3, dtype=torch.bool))


@pytest.mark.parametrize(
    ("text", "message"),
    [("AXB", "'X', which is not in the vocabulary"),
     ("ABC", "takes 4 frames at least, and it has 3"),
     ("A", None), ("AB", None), (None, None)],
)  # fmt: skip
def test_reader__refuses_what_cannot_be_learned_in_training_alone(
    text: str | None, message: str | None
) -> None:
    parts = details(transcript=text) if text else details()
    reading = TaskReader(Three(), task())
    assert reading.decode(parts, None).target == text, "it is scored all the same"
    learning = TaskReader(Three(), task(), for_training=True)
    if message is None:
        example = learning.decode(parts, None)
        assert learning.sample_mask(learning.collate([example]), []) is not None
        return
    with pytest.raises(BadSampleError, match=message):
        learning.decode(parts, None)


@pytest.mark.parametrize("crop", [{"max_length": 3.0}, {"length_mode": "crop"}])
def test_settings__refuse_to_crop_what_is_transcribed(crop: dict[str, Any]) -> None:
    batches = {"batch_length": 60.0, "task": {"name": "ctc"}}
    FinetuneSettings.model_validate(batches)
    with pytest.raises(ValueError, match="learns from whole ones"):
        FinetuneSettings.model_validate(batches | crop)
