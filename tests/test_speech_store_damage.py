"""Damaged, hostile and odd recordings are refused with a reason, or stored with a warning."""

import os
import stat
import struct
import wave as wave_module
from pathlib import Path

import numpy as np
import pytest

from d2v.errors import BadSampleError
from d2v.modalities.speech.store import StoreSettings, encode_audio
from d2v.samples import SourceItem
from tests.recording_case import Values, encoded, item, noise, recorded, tone


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("wav", "PCM_16"), ("wav", "FLOAT"), ("flac", None), ("ogg", "VORBIS"), ("ogg", "OPUS")]
    + [("mp3", None)],
)
def test_truncated_recordings__are_refused(kind: str, subtype: str | None) -> None:
    content = recorded(noise(48_000), kind=kind, subtype=subtype)
    assert encoded(content).length == 48_000
    for part in (0.02, 0.3, 0.5, 0.9):
        with pytest.raises(BadSampleError):
            encoded(content[: int(len(content) * part)])


def test_header_longer_than_the_data__is_called_truncated() -> None:
    content = recorded(noise(16_000))
    reason = "^truncated: it ends before its header says$"
    with pytest.raises(BadSampleError, match=reason):
        encoded(content[:-2])
    with pytest.raises(BadSampleError, match=reason):
        encoded(recorded(noise(16_000), kind="mp3")[:2_000])


def test_header_longer_than_the_data__is_seen_behind_other_chunks() -> None:
    content = recorded(noise(16_000))
    at = content.index(b"data")
    note = b"note" + struct.pack("<I", 3) + b"odd\0"  # chunks begin at even places
    longer = content[:4] + struct.pack("<I", len(content) + 4) + content[8:at] + note + content[at:]
    assert encoded(longer).length == 16_000
    with pytest.raises(BadSampleError, match="^truncated"):
        encoded(longer[:-2])


def test_wav_written_into_a_pipe__has_no_length_in_its_header_and_is_read() -> None:
    content = recorded(noise(16_000))
    at = content.index(b"data") + 4
    streamed = content[:at] + struct.pack("<I", 0xFFFFFFFF) + content[at + 4 :]
    assert encoded(streamed).length == 16_000


def test_flac_without_a_length__is_refused() -> None:
    content = bytearray(recorded(noise(16_000), kind="flac"))
    content[21] &= 0xF0  # the number of samples: the last 36 of these bits
    content[22:26] = bytes(4)
    with pytest.raises(BadSampleError, match="does not say how long it is"):
        encoded(bytes(content))


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_damaged_bytes__never_raise_anything_but_bad_sample(kind: str) -> None:
    content = recorded(noise(4_000), kind=kind)
    rng = np.random.default_rng(1)
    for number in range(60):
        damaged = bytearray(content)
        for position in rng.integers(0, len(content) if number % 2 else 150, 4):
            damaged[position] = rng.integers(0, 256)
        try:
            samples = encode_audio(item(bytes(damaged)), StoreSettings(max_hours=0.01))
        except BadSampleError:
            continue
        assert samples


@pytest.mark.parametrize(
    ("content", "name", "reason"),
    [
        (b"", "a.wav", "empty file"),
        (b"Dear diary, " * 50, "a.wav", "cannot be decoded: "),
        (b"PK\3\4", "a.zip", "not a supported kind of recording: .zip"),
        (recorded(noise(0)), "a.wav", "zero length: there is no sound in it"),
        (recorded(noise(16_000), kind="aiff"), "a.wav", "unsupported format: AIFF"),
        (recorded(noise(900), 900), "a.wav", "unusable rate: 900 Hz"),
        (recorded(noise(999), 800_000), "a.wav", "unusable rate: 800,000 Hz"),
        (recorded(noise(2_000, 17)), "a.wav", "17 channels, more than max_channels=16"),
        (recorded(noise(480)), "a.wav", "too short: 0.03 s, less than min_seconds=0.1"),
    ],
)
def test_useless_recordings__are_refused_with_a_reason(
    content: bytes, name: str, reason: str
) -> None:
    with pytest.raises(BadSampleError, match=f"^{reason}"):
        encoded(content, name=name)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers__are_refused_wherever_they_stand(odd: float) -> None:
    for place in (0, 70_000, 99_999):
        values = np.zeros(100_000, np.float32)
        values[place] = odd
        with pytest.raises(BadSampleError, match="no numbers"):
            encode_audio(item(recorded(values, subtype="FLOAT")), StoreSettings(max_seconds=1))


def test_declared_length__is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with wave_module.open(str(path), "wb") as file:
        file.setparams((1, 2, 8_000, 0, "NONE", ""))
        file.writeframes(b"\0\0")
    head = bytearray(path.read_bytes())
    size = 5 * 3600 * 8_000 * 2
    head[40:44] = struct.pack("<I", size)
    path.write_bytes(head)
    os.truncate(path, 44 + size)  # holes: five hours that take no room
    with pytest.raises(BadSampleError, match="^too long: more than max_hours=4$"):
        encode_audio(SourceItem(name="a.wav", path=path), StoreSettings())


def test_suffix__does_not_decide_what_a_recording_is() -> None:
    values = noise(4_000)
    for name in ("a.mp3", "a.FLAC", "a"):
        assert encoded(recorded(values), name=name).length == 4_000


def test_files_that_cannot_be_read__are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.wav", stat.S_IRUSR)
    for name, reason in {"a.wav": "not a regular file", "b.wav": "No such file"}.items():
        with pytest.raises(BadSampleError, match=reason):
            encode_audio(SourceItem(name=name, path=tmp_path / name), StoreSettings())


def _clipped(share: float) -> Values:
    values = (tone(1.0) * 32_768).astype(np.int16)
    values[: round(share * len(values))] = 32_767
    return values


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (tone(1.0), ()),
        (np.zeros(16_000, np.int16), ("silent",)),
        (noise(16_000) // 4_500, ("silent",)),
        (noise(16_000) // 300, ()),
        (_clipped(0.002), ("clipped",)),
        (_clipped(0.0005), ()),
        (2 * tone(1.0), ("clipped",)),
    ],
)
def test_warnings__tell_silence_and_clipping(values: Values, expected: tuple[str, ...]) -> None:
    assert encoded(recorded(values)).warnings == expected


def test_warnings__clipping_of_8_bits_counts_too() -> None:
    loud = np.where(tone(1.0) > 0, 1.0, -1.0).astype(np.float32)
    assert encoded(recorded(loud, subtype="PCM_U8")).warnings == ("clipped",)
    assert encoded(recorded(tone(1.0), subtype="PCM_U8")).warnings == ()


def test_warnings__tell_low_rates_and_missing_transcripts() -> None:
    assert encoded(recorded(tone(1, rate=6_000), 6_000)).warnings == ("rate below 8,000 Hz",)
    content = recorded(tone(1.0))
    missing = encoded(content, details={"transcript": ""})
    assert missing.warnings == ("no transcript, where others have one",)
    assert "txt" not in missing.members
    assert "transcribed" not in missing.totals
    assert encoded(content, details={"transcript": "?!"}).warnings == (
        "a transcript without letters",
    )
