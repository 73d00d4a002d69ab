"""The spoken words that come with d2v are the same bytes at every call."""

import hashlib
import io
import sys
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import soundfile

from d2v.errors import UsageError
from d2v.modalities.base import SourceSettings
from d2v.modalities.speech.source import read_source
from d2v.modalities.speech.store import StoreSettings, encode_audio
from d2v.samples import SourceItem

SPOKEN = SourceSettings(source="builtin:spoken")


@pytest.fixture(scope="module")
def items() -> list[SourceItem]:
    return list(read_source(SPOKEN))


def test_spoken__are_600_words_of_15_voices(items: list[SourceItem]) -> None:
    assert len(items) == len({item.name for item in items}) == 600
    assert set(Counter(item.label for item in items).values()) == {30}
    assert set(Counter(item.group for item in items).values()) == {40}
    assert len({item.content for item in items}) == 600
    assert all(item.details == {"speaker": item.group, "transcript": item.label} for item in items)


def test_spoken__repeats_to_the_byte_even_when_two_are_read_at_once(
    items: list[SourceItem],
) -> None:
    first, second = read_source(SPOKEN), read_source(SPOKEN)
    expected = [hashlib.sha256(item.content or b"").digest() for item in items[:70]]
    together = [
        [hashlib.sha256(item.content or b"").digest() for item in pair]
        for pair in islice(zip(first, second, strict=True), 70)
    ]
    assert together == [[digest, digest] for digest in expected]


def test_spoken__are_words_long_and_loud(items: list[SourceItem]) -> None:
    for item in items:
        values, rate = soundfile.read(io.BytesIO(item.content or b""))
        assert rate == 22_050
        assert 0.2 < len(values) / rate < 1.5
        assert np.abs(values).max() > 0.1


def test_spoken__the_fast_manner_is_faster(items: list[SourceItem]) -> None:
    sizes = {item.name: len(item.content or b"") for item in items}
    faster = [sizes[name.replace("-150", "-195")] < sizes[name] for name in sizes if "-150" in name]
    assert sum(faster) > 0.95 * len(faster)


def test_spoken__are_stored_without_complaint(items: list[SourceItem]) -> None:
    for item in items[::37]:
        (sample,) = encode_audio(item, StoreSettings())
        assert sample.warnings == ()
        assert sample.members["txt"].decode() == item.label


def test_spoken__without_the_voices_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UsageError, match=r"pip install 'd2v\[speech\]'"):
        list(read_source(SPOKEN))
