"""Recordings as somebody has them: opened, measured and read as one channel, piece by piece.

Everything here is in frames (one value a channel) of the recording's own rate. Reasons name no
file, so that equal reasons can be counted.
"""

from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from d2v.errors import BadSampleError
from d2v.modalities.listing import suffix_of
from d2v.samples import SourceItem

SUFFIXES = frozenset((".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3"))
FORMATS = frozenset(("WAV", "WAVEX", "FLAC", "OGG", "MP3"))
"""As libsndfile calls them; a hostile file cannot reach its other readers' samples."""
FRAMES_AT_ONCE = 1 << 16
UNKNOWN_LENGTH = 1 << 62
"""libsndfile says about twice as many frames where a FLAC header gives no length."""
STREAMED = 0x7FFF0000
"""Programs that write WAV into a pipe put this or more as the length, not knowing it."""
MAX_PAGE = 65_307
"""Bytes of the longest Ogg page."""
MP3_SLACK = 2 * 1152
"""Frames by which an MP3's header may be wrong: encoders count their own padding differently."""
NO_SUCH_FILE = 7
"""libsndfile's number for it."""
END_SLACK = 0.05
"""Seconds by which a stretch may end after its recording: tables round."""
FULL_SCALE = {"PCM_U8": 127 / 128}
"""Largest value; 0.9999 where nothing is said, below the 32,767 / 32,768 of 16 bits."""


@dataclass(frozen=True, kw_only=True)
class Sound:
    """A piece of a recording, its channels averaged.

    Args:
        values: (N,) float32, full scale 1.
        clipped: share of values at full scale, over all channels, 0..1.
    """

    values: NDArray[np.float32]
    clipped: float


class _Steady:
    """A file that soundfile reads through callbacks, in which nothing may raise.

    libsndfile seeks before the beginning of some broken files.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError):
            return self._file.tell()

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        try:
            return self._file.read(size)
        except OSError:  # libsndfile takes it for the end, and the recording for truncated
            return b""


@contextmanager
def opened(item: SourceItem) -> Iterator[soundfile.SoundFile]:
    """An item's recording, at its first frame, its header believed only as far as it goes.

    Raises:
        BadSampleError: unreadable, no recording of a supported format, empty, or truncated.
    """
    suffix = suffix_of(item.name if item.path is None else item.path.name)
    if suffix and suffix not in SUFFIXES:
        raise BadSampleError(f"not a supported kind of recording: {suffix}")
    try:
        with _raw(item) as raw:
            size = raw.seek(0, os.SEEK_END)
            if size == 0:
                raise BadSampleError("empty file")
            raw.seek(0)
            with soundfile.SoundFile(_Steady(raw)) as recording:
                _check_header(recording, raw, size)
                yield recording
    except OSError as error:
        raise BadSampleError(f"cannot be read: {error.strerror}") from error
    except soundfile.LibsndfileError as error:
        raise BadSampleError(f"cannot be decoded: {_words(error)}") from error


def stretch(item: SourceItem, recording: soundfile.SoundFile) -> tuple[int, int]:
    """First frame and the one after the last of what the item takes of its recording.

    Raises:
        BadSampleError: that lies outside the recording.
    """
    rate, last = recording.samplerate, recording.frames
    begin = round(float(item.details.get("start") or 0) * rate)
    end = round(float(item.details["end"]) * rate) if item.details.get("end") else last
    if begin >= last:
        raise BadSampleError("begins after its recording has ended")
    if end > last + END_SLACK * rate:
        raise BadSampleError("ends after its recording has ended")
    return begin, min(end, last)


def read_mono(recording: soundfile.SoundFile, num_frames: int) -> Sound:
    """The next frames, channels averaged; the mean of N channels needs no N channels in memory.

    Raises:
        BadSampleError: fewer frames than the header promised, or values that are no numbers.
    """
    values = np.empty(num_frames, np.float32)
    full_scale = FULL_SCALE.get(recording.subtype, 0.9999)
    done = clipped = 0
    while done < num_frames:
        wanted = min(FRAMES_AT_ONCE, num_frames - done)
        block = recording.read(wanted, dtype="float32", always_2d=True)  # (frames, channels)
        if not np.isfinite(block).all():
            raise BadSampleError("holds values that are no numbers (NaN or infinite)")
        values[done : done + len(block)] = block.mean(axis=1)
        clipped += int(np.count_nonzero(np.abs(block) >= full_scale))
        done += len(block)
        if len(block) < wanted:
            if recording.format != "MP3" or done < max(num_frames - MP3_SLACK, num_frames / 2):
                raise BadSampleError("truncated: it ends before its header says")
            break
    return Sound(values=values[:done], clipped=clipped / max(1, done * recording.channels))


@contextmanager
def _raw(item: SourceItem) -> Iterator[BinaryIO]:
    if item.path is None or item.content is not None or item.num_bytes is not None or item.offset:
        yield io.BytesIO(item.read())
        return
    if not stat.S_ISREG(item.path.stat().st_mode):  # reading a pipe would wait for ever
        raise BadSampleError("not a regular file")
    with item.path.open("rb") as file:  # not read at once: one long file may hold many stretches
        yield file


def _check_header(recording: soundfile.SoundFile, raw: BinaryIO, size: int) -> None:
    if recording.format not in FORMATS:
        raise BadSampleError(f"unsupported format: {recording.format}")
    position = raw.tell()
    if recording.format in ("WAV", "WAVEX"):
        is_torn = _wav_is_torn(raw, size)
    else:
        is_torn = recording.format == "OGG" and _ogg_is_torn(raw, size)
    raw.seek(position)
    if is_torn:
        raise BadSampleError("truncated: it ends before its header says")
    if recording.frames == 0:
        raise BadSampleError("zero length: there is no sound in it")
    if recording.frames >= UNKNOWN_LENGTH:
        raise BadSampleError("its header does not say how long it is")


def _wav_is_torn(raw: BinaryIO, size: int) -> bool:
    """Whether the chunk with the sound is longer than the file; libsndfile would not complain."""
    raw.seek(0)
    head = raw.read(12)
    order = ">" if head[:4] == b"RIFX" else "<"
    for _ in range(10_000):  # a hostile file could hold millions of empty chunks
        chunk = raw.read(8)
        if len(chunk) < 8:
            break
        name, length = struct.unpack(f"{order}4sI", chunk)
        if name == b"data":
            return bool(length < STREAMED and raw.tell() + length > size)
        raw.seek(length + length % 2, os.SEEK_CUR)
    return False


def _ogg_is_torn(raw: BinaryIO, size: int) -> bool:
    """Whether the file ends within a page; libsndfile would drop the page and say nothing."""
    raw.seek(max(0, size - MAX_PAGE))
    tail = raw.read(MAX_PAGE)
    page = tail[max(0, tail.rfind(b"OggS")) :]
    if len(page) < 27 or len(page) < 27 + page[26]:  # byte 26: how many lengths follow
        return True
    return len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])


def _words(error: soundfile.LibsndfileError) -> str:
    if error.code == NO_SUCH_FILE:  # of a file that was opened: what a broken MP3 is answered
        return "damaged"
    text = str(error.error_string).removeprefix("Error : ").rstrip(". ")
    return text[:1].lower() + text[1:]
