"""Transcripts get one spelling; what they are made of becomes words and a vocabulary."""

import json
from collections import Counter

import pytest

from d2v.modalities.speech.transcripts import normalise, summarise, transcript_totals


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("hello world", "HELLO WORLD"),
        ("  It's,\tnot\n\u201cits\u201d \u2014 really!? ", "IT'S NOT ITS REALLY"),
        ("it\u2019s", "IT'S"),
        ("room 101, 3.5 %", "ROOM 101 3 5"),
        ("stra\u00dfe \u00e9te\u0301", "STRASSE \u00c9T\u00c9"),
        ("\ufb01ne \uff21\u2460", "FINE A1"),
        ("\u0149 go", "'N GO"),
        ("snake_case|pipe", "SNAKE CASE PIPE"),
        ("\u4f60\u597d\u3002", "\u4f60\u597d"),
        ("...", ""),
        ("", ""),
    ],
)
def test_normalised_transcript__has_capitals_digits_apostrophes_and_single_spaces(
    given: str, expected: str
) -> None:
    assert normalise(given) == expected
    assert normalise(expected) == expected


def test_totals__count_the_characters_of_the_normalised_form() -> None:
    totals = transcript_totals("No, no \u2013 go")
    assert totals == {
        "transcribed": 1,
        "character N": 2,
        "character O": 3,
        "character |": 2,
        "character G": 1,
    }


def split_totals(seconds: float, rate: int, *transcripts: str, **speakers: int) -> Counter[str]:
    totals = Counter({"seconds": seconds, f"rate {rate} Hz": max(1, len(transcripts))})
    for transcript in filter(None, transcripts):
        totals.update(transcript_totals(transcript))
    totals.update({f"speaker {name}": count for name, count in speakers.items()})
    return totals


def test_summary__tells_hours_speakers_rates_and_transcripts() -> None:
    told = summarise(
        {
            "test": split_totals(900, 44_100, "\u00e9h", ann=1),
            "train": split_totals(5_400, 8_000, "be", "a bee", "", bob=2, cid=1),
        }
    )
    assert told.lines == [
        "hours: train 1.50, test 0.25",
        "speakers: train 2, test 1",
        "original rates: 8,000 Hz 3, 44,100 Hz 1",
        "transcribed: train 2 of 3, test 1 of 1",
        "characters in the training transcripts: 4",
        "characters in test that are not in train: H (1), \u00c9 (1)",
    ]


def test_vocabulary__is_that_of_the_training_transcripts_after_the_special_symbols() -> None:
    told = summarise(
        {"train": split_totals(1, 8_000, "be", "a bee's"), "val": split_totals(1, 8_000, "zoo")}
    )
    assert json.loads(told.files["vocabulary.json"]) == {
        "blank": "<s>",
        "word_boundary": "|",
        "symbols": ["<s>", "<pad>", "</s>", "<unk>", "|", "'", "A", "B", "E", "S"],
        "counts": [0, 0, 0, 0, 1, 1, 1, 2, 3, 1],
    }
    assert "characters in val that are not in train: O (2), Z (1)" in told.lines


def test_summary__of_recordings_without_words_has_no_vocabulary() -> None:
    told = summarise({"train": split_totals(20, 16_000)})
    assert told.lines == ["hours: train 0.0056", "original rates: 16,000 Hz 1"]
    assert told.files == {}
