"""A recording of any rate, depth and number of channels is stored as 16 kHz, mono, 16 bit."""

import math
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from pydantic import ValidationError

from d2v.errors import BadSampleError
from d2v.modalities.speech.rate import RATE_HZ
from d2v.modalities.speech.store import MAX_RATIO, StoreSettings, encode_audio
from d2v.samples import SourceItem
from tests.recording_case import Values, encoded, facts, item, noise, recorded, tone, wave, write


@pytest.mark.parametrize(
    ("kind", "subtype", "tolerance"),
    [
        ("wav", "PCM_U8", 0),
        ("wav", "PCM_16", 0),
        ("wav", "PCM_24", 0),
        ("wav", "PCM_32", 0),
        ("wav", "FLOAT", 0),
        ("wav", "DOUBLE", 0),
        ("flac", "PCM_16", 0),
        ("flac", "PCM_24", 0),
        ("ogg", "VORBIS", 1500),
        ("mp3", None, 1500),
    ],
)
def test_formats__all_give_the_same_sound(kind: str, subtype: str | None, tolerance: int) -> None:
    values = (np.rint(tone(0.5) * 127) * 256).astype(np.int16)  # fits even 8 bits
    given: Values = values
    if subtype in ("FLOAT", "DOUBLE"):
        given = values.astype(np.float32) / np.float32(32_768)
    sample = encoded(recorded(given, kind=kind, subtype=subtype))
    assert sample.length == len(wave(sample)) == len(values)
    assert np.abs(wave(sample).astype(int) - values)[500:-500].max() <= tolerance


@pytest.mark.parametrize("rate", [4_000, 8_000, 11_025, 22_050, 44_100, 48_000, 192_000, 22_254])
def test_rates__give_the_tone_that_16_khz_would_have_recorded(rate: int) -> None:
    seconds = 0.25
    sample = encoded(recorded(tone(seconds, rate=rate), rate, subtype="FLOAT"))
    assert sample.length == math.ceil(round(seconds * rate) * RATE_HZ / rate)
    # The filter leaves half a percent of ripple, and needs neighbours on both sides.
    inside = slice(400, 3600)
    expected = tone(seconds)[inside]
    assert np.abs(wave(sample)[inside] / 32_768 - expected).max() < 0.01
    assert facts(sample)["rate_hz"] == rate


def test_rates__tones_above_half_of_16_khz_do_not_fold_back() -> None:
    sample = encoded(recorded(tone(0.25, 9_500, 48_000), 48_000))
    assert np.abs(wave(sample)[400:-400]).max() < 0.01 * 32_768


def test_rates__a_clumsy_ratio_is_replaced_by_one_that_is_close() -> None:
    for rate in [*range(1_000, 768_000, 997), 16_008, 767_600]:
        exact = Fraction(RATE_HZ, rate)
        near = exact.limit_denominator(MAX_RATIO)
        assert abs(near / exact - 1) < 2 ** (1 / 1200) - 1, rate  # a hundredth of a semitone
        assert near.numerator <= 16 * MAX_RATIO
    for rate in (8_000, 11_025, 22_050, 32_000, 37_800, 44_100, 48_000, 96_000, 176_400, 192_000):
        assert Fraction(RATE_HZ, rate).limit_denominator(MAX_RATIO) == Fraction(RATE_HZ, rate)


@pytest.mark.parametrize("channels", [2, 3, 8, 16])
def test_channels__are_averaged(channels: int) -> None:
    values = noise(2_003, channels)
    sample = encoded(recorded(values))
    mean = [sum(int(value) for value in frame) / channels for frame in values]
    assert np.abs(wave(sample) - mean).max() <= 0.5
    assert facts(sample)["channels"] == channels


def test_recording_that_is_as_stored_already__keeps_its_bytes(tmp_path: Path) -> None:
    content = recorded(noise(4_001), kind="flac")
    assert encoded(content, name="a.flac").members["flac"] == content
    path = write(tmp_path / "a.flac", content)
    (sample,) = encode_audio(SourceItem(name="a.flac", path=path), StoreSettings())
    assert sample.members["flac"] == content


@pytest.mark.parametrize("kind", ["flac", "wav"])
def test_bytes__repeat_and_lose_nothing_of_16_bits(kind: Literal["flac", "wav"]) -> None:
    settings = StoreSettings(format=kind)
    values = noise(4_001)
    content = recorded(values)
    first, second = encoded(content, settings), encoded(content, settings)
    assert first == second
    assert list(first.members) == [kind, "json"]
    assert (wave(first) == values).all()
    stereo = recorded(noise(8_001, 2), 44_100, "flac")
    assert encoded(stereo, settings) == encoded(stereo, settings)


def test_louder_than_full_scale__is_scaled_not_clipped() -> None:
    values = 3 * tone(0.2)
    sample = encoded(recorded(values, subtype="FLOAT"))
    expected = values / np.abs(values).max() * 32_768
    assert np.abs(wave(sample) - expected).max() <= 1


def test_members__tell_speaker_transcript_and_origin() -> None:
    details = {"speaker": "ann", "transcript": "Hello,  it\u2019s me\u2026"}
    sample = encoded(recorded(tone(0.5, rate=8_000), 8_000), details=details)
    assert list(sample.members) == ["flac", "txt", "json"]
    assert sample.members["txt"].decode() == details["transcript"]
    assert facts(sample) == {
        "channels": 1,
        "rate_hz": 8_000,
        "seconds": 0.5,
        "speaker": "ann",
        "transcript": "HELLO IT'S ME",
    }
    assert sample.totals["seconds"] == 0.5
    assert sample.totals["rate 8000 Hz"] == sample.totals["speaker ann"] == 1
    assert sample.totals["transcribed"] == 1
    assert sample.totals["character L"] == sample.totals["character |"] == 2
    assert sample.warnings == ()


def test_long_recordings__are_cut_into_equal_segments() -> None:
    values = noise(50_003)
    settings = StoreSettings(max_seconds=1.0)
    samples = encode_audio(item(recorded(values, kind="flac")), settings)
    lengths = [sample.length for sample in samples]
    assert len(samples) == 4
    assert max(lengths) - min(lengths) <= 1
    assert (np.concatenate([wave(sample) for sample in samples]) == values).all()
    one_second = encode_audio(item(recorded(values[:16_000])), settings)
    assert [sample.length for sample in one_second] == [16_000]


@pytest.mark.parametrize("rate", [8_000, 44_100])
@pytest.mark.parametrize("seconds", [2.001, 2.5, 3.0])
def test_segments__are_never_longer_than_allowed(rate: int, seconds: float) -> None:
    settings = StoreSettings(max_seconds=1.0, min_seconds=0.5)
    samples = encode_audio(item(recorded(tone(seconds, rate=rate), rate)), settings)
    assert len(samples) == 3
    assert all(0.5 * RATE_HZ <= sample.length <= RATE_HZ for sample in samples)


def test_long_recordings__with_words_or_a_label_are_rejected() -> None:
    content = recorded(tone(1.5))
    for facts_ in ({"label": "cat"}, {"details": {"transcript": "cat"}}):
        with pytest.raises(BadSampleError, match="max_seconds=1, and its label or transcript"):
            encoded(content, StoreSettings(max_seconds=1.0), **facts_)
    with pytest.raises(BadSampleError, match="too long: more than max_seconds=1$"):
        encoded(content, StoreSettings(max_seconds=1.0, too_long="reject"))


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_stretches__are_cut_out_of_their_recording(kind: str) -> None:
    content = recorded(noise(32_000), kind=kind)
    whole = wave(encoded(content))
    part = encoded(content, details={"start": "0.5", "end": "1.25"})
    assert part.length == 12_000
    assert np.abs(wave(part).astype(int) - whole[8_000:20_000]).max() <= 1
    rest = encoded(content, details={"start": "1.5"})
    assert np.abs(wave(rest).astype(int) - whole[24_000:]).max() <= 1


def test_stretches__may_end_a_rounding_error_late_but_not_more() -> None:
    content = recorded(tone(1.0))
    assert encoded(content, details={"start": "0.5", "end": "1.04"}).length == 8_000
    with pytest.raises(BadSampleError, match="^ends after its recording has ended"):
        encoded(content, details={"end": "1.2"})
    with pytest.raises(BadSampleError, match="^begins after its recording has ended"):
        encoded(content, details={"start": "1.0"})


def test_settings__refuse_limits_that_contradict_each_other() -> None:
    for wrong in (
        {"min_seconds": 0.02},  # less than the 400 samples behind one token
        {"min_seconds": 2, "max_seconds": 3},
        {"max_hours": 0.001},
    ):
        with pytest.raises(ValidationError):
            StoreSettings(**wrong)
