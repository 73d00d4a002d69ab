"""Short recordings in every format, for the tests of speech."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from d2v.modalities.speech.rate import RATE_HZ
from d2v.modalities.speech.store import StoreSettings, encode_audio
from d2v.samples import SourceItem, StoredSample

Values = NDArray[np.float32] | NDArray[np.int16]


def tone(seconds: float, hertz: float = 440.0, rate: int = RATE_HZ) -> NDArray[np.float32]:
    """A sine of half the full scale."""
    times = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


def noise(num_frames: int, channels: int = 1) -> NDArray[np.int16]:
    """(N,), or (N, channels) for more than one."""
    shape = num_frames if channels == 1 else (num_frames, channels)
    return np.random.default_rng(0).integers(-9000, 9000, shape).astype(np.int16)


def recorded(
    values: Values, rate: int = RATE_HZ, kind: str = "wav", subtype: str | None = None
) -> bytes:
    """A file of these values, (N,) or (N, channels)."""
    content = io.BytesIO()
    soundfile.write(content, values, rate, format=kind, subtype=subtype)
    return content.getvalue()


def item(content: bytes, name: str = "a.wav", **facts: Any) -> SourceItem:
    return SourceItem(name=name, content=content, **facts)


def encoded(content: bytes, settings: StoreSettings | None = None, **facts: Any) -> StoredSample:
    """The only sample stored of a file."""
    (sample,) = encode_audio(item(content, **facts), settings or StoreSettings())
    return sample


def wave(sample: StoredSample) -> NDArray[np.int16]:
    """(N,) what is stored, which must be 16 kHz, one channel, 16 bit."""
    (content,) = (sample.members[name] for name in ("flac", "wav") if name in sample.members)
    with soundfile.SoundFile(io.BytesIO(content)) as file:
        assert (file.samplerate, file.channels, file.subtype) == (RATE_HZ, 1, "PCM_16")
        values: NDArray[np.int16] = file.read(dtype="int16")
    return values


def facts(sample: StoredSample) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(sample.members["json"])
    return told


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
