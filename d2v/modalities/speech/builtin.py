"""Recordings that need no download: single words, spoken by espeak-ng's voices.

pip's `espeakng-loader` carries the library and its data; it is an extra of d2v.
"""

from __future__ import annotations

import ctypes
import io
import shutil
import tempfile
import wave
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

from d2v.errors import UsageError
from d2v.samples import SourceItem

WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("yes", "no", "up", "down", "left", "right", "stop", "go", "on", "off"),
)
VOICES = (
    *("en-us", "en-us+f2", "en-us+f5", "en-us+m3", "en-us+croak"),
    *("en", "en+f4", "en+m7", "en+linda"),
    *("en-gb-scotland+f3", "en-gb-scotland+m4", "en-gb-x-rp+f1", "en-gb-x-rp+m5"),
    *("en-029+m1", "en-us-nyc+m2"),
)
"""Accent and, after the plus, the variant of the voice."""
MANNERS = ((150, 42), (195, 58))
"""Words a minute and pitch (0..100) of each utterance."""
SYNCHRONOUS, RETURN_ERRORS = 2, 0x8000
RATE, PITCH = 1, 3
CHARACTERS, UTF8 = 1, 1
"""Constants of espeak-ng's speak_lib.h."""


def _spoken() -> Iterator[SourceItem]:
    """600 utterances: 20 words, 15 voices, slow and low or fast and high; 22,050 Hz, 16 bit."""
    voices = _Voices()
    for voice, (rate, pitch), word in product(VOICES, MANNERS, WORDS):
        yield SourceItem(
            name=f"spoken/{voice}/{word}-{rate}.wav",
            content=voices.say(word, voice, rate, pitch),
            label=word,
            group=voice,
            details={"speaker": voice, "transcript": word},
        )


class _Voices:
    """A synthesiser of its own, in the state in which every one begins.

    espeak-ng keeps state from one utterance to the next, terminated or not. So that the same call
    gives the same bytes, each of these loads a private copy of the library, and says its words in
    one fixed order. The copy stays in memory, about 1 MB, until the process ends.
    """

    def __init__(self) -> None:
        library, data = _installed()
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            copy = Path(folder) / Path(library).name
            shutil.copy(library, copy)
            self._library = _loaded(str(copy))
        self._rate = self._library.espeak_Initialize(SYNCHRONOUS, 0, data.encode(), RETURN_ERRORS)
        if self._rate <= 0:
            raise UsageError(
                f"espeak-ng does not start with its data in {data}",
                expected="the data that espeakng-loader carries, under a path of 150 characters "
                "at most",
                remedy="pip install --force-reinstall espeakng-loader",
            )
        self._heard: list[bytes] = []
        kind = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
        )
        self._callback = kind(self._hear)  # kept, for C holds no reference
        self._library.espeak_SetSynthCallback(self._callback)

    def say(self, word: str, voice: str, rate: int, pitch: int) -> bytes:
        """A word as a WAV file."""
        self._heard.clear()
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # noise of the breath
        text = word.encode() + b"\0"
        for result in (
            self._library.espeak_SetVoiceByName(voice.encode()),
            self._library.espeak_SetParameter(RATE, rate, 0),
            self._library.espeak_SetParameter(PITCH, pitch, 0),
            self._library.espeak_Synth(
                text, ctypes.c_size_t(len(text)), 0, CHARACTERS, 0, UTF8, None, None
            ),
        ):
            if result != 0:
                raise UsageError(
                    f"espeak-ng cannot say {word!r} as {voice}: error {result}",
                    expected="a release of espeakng-loader that has this voice, 0.2.4 say",
                    remedy="pip install 'd2v[speech]'",
                )
        content = io.BytesIO()
        with wave.open(content, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(self._rate)
            file.writeframes(b"".join(self._heard))
        return content.getvalue()

    def _hear(self, values: object, num_values: int, _events: object) -> int:
        if values and num_values > 0:
            self._heard.append(ctypes.string_at(values, 2 * num_values))  # type: ignore[arg-type] # a pointer to short
        return 0


def _installed() -> tuple[str, str]:
    """Paths of the library and of its data."""
    try:
        import espeakng_loader  # an extra: everything else works without it
    except ImportError as error:
        raise UsageError(
            "builtin:spoken needs the package espeakng-loader, which is not installed",
            expected="the voices that it carries",
            remedy="pip install 'd2v[speech]'",
        ) from error
    return espeakng_loader.get_library_path(), espeakng_loader.get_data_path()


def _loaded(library: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(library)
    except OSError as error:
        raise UsageError(
            f"The library of espeakng-loader cannot be loaded: {error}",
            expected="a release of it for this machine",
            remedy="pip install --force-reinstall espeakng-loader",
        ) from error


BUILTINS: dict[str, Callable[[], Iterator[SourceItem]]] = {"builtin:spoken": _spoken}
