"""A recording as somebody has it to recordings as shards hold them: 16 kHz, one channel, 16 bit."""

from __future__ import annotations

import io
import json
import math
from fractions import Fraction
from typing import Literal

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torchaudio.functional import resample

from d2v.errors import BadSampleError
from d2v.modalities.speech.rate import RATE_HZ
from d2v.modalities.speech.recording import Sound, opened, read_mono, stretch
from d2v.modalities.speech.transcripts import normalise, transcript_totals
from d2v.samples import SourceItem, StoredSample
from d2v.settings import Settings

RECEPTIVE_FIELD = 400
"""Samples behind one token of the convolutional frontend (reference section 2.2)."""
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000
LOW_RATE_HZ = 8_000
"""Less than a telephone's: worth a warning."""
MAX_RATIO = 1_000
"""Denominator of the two rates' ratio; the resampler's kernels grow with both parts of it."""
FILTER_WIDTH = 16
"""Zero crossings of the resampler's filter; with torchaudio's 6, 7.5 kHz loses 3.6 dB and 8.5 kHz
comes back with no more than 10 dB less, with 16 these are 1.2 and 22."""
SILENT = 1e-4
"""Root mean square below which a recording counts as silent: -80 dB of full scale."""
CLIPPED = 1e-3
"""Share of values at full scale from which on a recording counts as clipped."""


class StoreSettings(Settings):
    """How recordings are stored."""

    format: Literal["flac", "wav"] = "flac"
    """Of the stored recordings; both lose nothing of the 16 bits, FLAC takes half the room."""
    min_seconds: float = Field(0.1, ge=RECEPTIVE_FIELD / RATE_HZ)
    """Shorter recordings are rejected."""
    max_seconds: float = Field(30.0, gt=0)
    """Longer recordings are cut or rejected."""
    too_long: Literal["cut", "reject"] = "cut"
    """cut: into equal segments; what has a label or a transcript is rejected all the same, for
    neither would fit a segment."""
    max_hours: float = Field(4.0, gt=0)
    """Longer recordings are refused before they are decoded; an hour takes about 60 MB."""
    max_channels: int = Field(16, ge=1)
    """Recordings with more channels are refused."""

    @model_validator(mode="after")
    def _check(self) -> StoreSettings:
        if self.max_seconds < 2 * self.min_seconds:
            raise ValueError(
                f"max_seconds {self.max_seconds:g} must be at least twice min_seconds "
                f"{self.min_seconds:g}: cutting makes segments of half of it"
            )
        if self.max_hours * 3600 < self.max_seconds:
            raise ValueError(
                f"max_hours {self.max_hours:g} is less than max_seconds {self.max_seconds:g}"
            )
        return self


def encode_audio(item: SourceItem, settings: StoreSettings) -> list[StoredSample]:
    """What is stored of one recording, or of one stretch of it.

    Members: `flac` (or `wav`); `txt`, the transcript as given; `json`, with speaker, normalised
    transcript, seconds, and the rate and channels of the original. A recording that already is
    what would be written keeps its bytes. Length: samples at 16 kHz.

    Raises:
        BadSampleError: not a recording, damaged, holding values that are no numbers, too short,
            too long, or of a rate or number of channels beyond all use.
    """
    samples = []
    with opened(item) as recording:
        begin, end = stretch(item, recording)
        _check_figures(recording, (end - begin) / recording.samplerate, settings)
        edges = _edges(item, begin, end, recording.samplerate, settings)
        if begin:
            recording.seek(begin)
        for first, last in zip(edges, edges[1:], strict=False):
            sound = read_mono(recording, last - first)
            wave = _to_16_bits(_resampled(sound.values, recording.samplerate))
            is_whole = last - first == recording.frames
            content = (
                item.read() if is_whole and _is_stored(recording, settings) else None
            ) or _written(wave, settings)
            samples.append(_sample(item, recording, sound, wave, {settings.format: content}))
    return samples


def _check_figures(recording: soundfile.SoundFile, seconds: float, settings: StoreSettings) -> None:
    rate, channels = recording.samplerate, recording.channels
    if not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
        raise BadSampleError(
            f"unusable rate: {rate:,} Hz, not within {MIN_RATE_HZ:,} to {MAX_RATE_HZ:,}"
        )
    if channels > settings.max_channels:
        raise BadSampleError(f"{channels} channels, more than max_channels={settings.max_channels}")
    if seconds < settings.min_seconds:
        raise BadSampleError(
            f"too short: {seconds:.2f} s, less than min_seconds={settings.min_seconds:g}"
        )
    if seconds > settings.max_hours * 3600:
        raise BadSampleError(f"too long: more than max_hours={settings.max_hours:g}")


def _edges(item: SourceItem, begin: int, end: int, rate: int, settings: StoreSettings) -> list[int]:
    """Where the segments begin, in frames, and where the last one ends; they differ by a frame."""
    num_segments = math.ceil((end - begin) / int(settings.max_seconds * rate))
    if num_segments > 1:
        limit = f"too long: more than max_seconds={settings.max_seconds:g}"
        if settings.too_long == "reject":
            raise BadSampleError(limit)
        if item.label is not None or item.details.get("transcript"):
            raise BadSampleError(f"{limit}, and its label or transcript would not fit a segment")
    return [begin + (end - begin) * n // num_segments for n in range(num_segments + 1)]


def _resampled(values: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """(N,) at `rate` -> (ceil(N * 16,000 / rate),) at 16 kHz, both float32.

    The resampler holds as many kernels as the numerator of the two rates' ratio says: gigabytes
    for 44,101 to 16,000. The nearest ratio of small numbers is exact for the rates in use, and
    for any other changes the pitch by less than a hundredth of a semitone.
    """
    if rate == RATE_HZ:
        return values
    ratio = Fraction(RATE_HZ, rate).limit_denominator(MAX_RATIO)
    at_rate: torch.Tensor = resample(
        torch.from_numpy(values),
        ratio.denominator,
        ratio.numerator,
        lowpass_filter_width=FILTER_WIDTH,
    )
    return at_rate.numpy().astype(np.float32, copy=False)


def _to_16_bits(values: NDArray[np.float32]) -> NDArray[np.int16]:
    """Full scale 1 -> 32,768; what is louder is scaled down as a whole rather than clipped.

    What was read from 16 bits comes out unchanged.
    """
    values = values / max(1.0, float(np.abs(values).max(initial=0)))
    return np.clip(np.rint(values * 32_768), -32_768, 32_767).astype(np.int16)


def _is_stored(recording: soundfile.SoundFile, settings: StoreSettings) -> bool:
    """Whether the file is what would be written anyway, other than for its packing."""
    kind = (recording.format, recording.subtype, recording.samplerate, recording.channels)
    return settings.format == "flac" and kind == ("FLAC", "PCM_16", RATE_HZ, 1)


def _written(wave: NDArray[np.int16], settings: StoreSettings) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, wave, RATE_HZ, format=settings.format, subtype="PCM_16")
    return content.getvalue()


def _sample(
    item: SourceItem,
    recording: soundfile.SoundFile,
    sound: Sound,
    wave: NDArray[np.int16],
    members: dict[str, bytes],
) -> StoredSample:
    rate, seconds = recording.samplerate, len(wave) / RATE_HZ
    facts: dict[str, object] = {
        "channels": recording.channels,
        "rate_hz": rate,
        "seconds": round(seconds, 4),
    }
    totals = {"seconds": seconds, f"rate {rate} Hz": 1.0}
    speaker, transcript = item.details.get("speaker"), item.details.get("transcript")
    if speaker:
        facts["speaker"] = speaker
        totals[f"speaker {speaker}"] = 1.0
    if transcript:
        facts["transcript"] = normalise(transcript)
        members = {**members, "txt": transcript.encode()}
        totals |= transcript_totals(transcript)
    members = {**members, "json": json.dumps(facts, ensure_ascii=False, sort_keys=True).encode()}
    return StoredSample(
        members=members,
        length=len(wave),
        totals=totals,
        warnings=tuple(_warnings(item, rate, sound)),
    )


def _warnings(item: SourceItem, rate: int, sound: Sound) -> list[str]:
    transcript = item.details.get("transcript")
    loudness = float(np.sqrt(np.mean(np.square(sound.values, dtype=np.float64))))
    odd = {
        "silent": loudness < SILENT,
        "clipped": sound.clipped >= CLIPPED,
        f"rate below {LOW_RATE_HZ:,} Hz": rate < LOW_RATE_HZ,
        "no transcript, where others have one": transcript == "",
        "a transcript without letters": bool(transcript) and not normalise(transcript or ""),
    }
    return [text for text, holds in odd.items() if holds]
