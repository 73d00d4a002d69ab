"""Beam search by flashlight-text, through torchaudio; importing this needs the wheel."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flashlight.lib.text.decoder.kenlm import KenLM
from flashlight.lib.text.dictionary import create_word_dict, load_words
from torch import Tensor
from torchaudio.models.decoder import ctc_decoder

from d2v.errors import UsageError
from d2v.tasks.decoding.base import (
    BLANK,
    BOUNDARY,
    BeamSettings,
    Decoded,
    Decoder,
    closed,
    decoded_words,
)
from d2v.tasks.decoding.lexicon import Lexicon
from d2v.tasks.decoding.ngram import UNKNOWN

ORDERS = range(2, 7)
"""Orders that the KenLM inside the wheel reads."""


class FlashlightDecoder(Decoder):
    """torchaudio's `ctc_decoder` with a lexicon and KenLM's reader of ARPA files.

    Args:
        symbols: of the CTC model.
        lexicon: the words that can be found.
        arpa: the language model; None for none; all words are then equally good.
        settings: of the search.
        remarks: see `Decoder`.

    Raises:
        UsageError: KenLM does not read the file.

    Source: Kahn et al. 2022.
    """

    def __init__(
        self,
        symbols: list[str],
        lexicon: Lexicon,
        arpa: Path | None,
        settings: BeamSettings,
        remarks: tuple[str, ...] = (),
    ) -> None:
        self.symbols, self.boundary, self.remarks = symbols, symbols.index(BOUNDARY), remarks
        self.texts = {word.entry: word.text for word in lexicon.words}
        self.spelled = "".join(
            f"{word.entry} {' '.join(word.text)} {BOUNDARY}\n" for word in lexicon.words
        )
        self.model = None
        if arpa is not None:
            with self._lexicon_file() as path:
                self.model = _read_model(arpa, path)
        self._set_up(settings)

    def with_settings(self, settings: BeamSettings) -> FlashlightDecoder:
        """The same words and model."""
        other = copy.copy(self)
        other._set_up(settings)
        return other

    def decode(self, log_probs: Tensor) -> Decoded:
        """The best hypothesis, see `Decoder`."""
        (found,) = self.search(closed(log_probs, self.boundary).unsqueeze(0))
        best = found[0]
        frames = (best.timesteps - 1).tolist()  # its first is the state before the first frame
        return decoded_words(
            list(zip(best.tokens.tolist(), frames, strict=True)),
            [self.texts[word] for word in best.words],
            best.score - self.settings.silence_score,  # of the frame that was added
            len(log_probs),
            self.boundary,
        )

    def _set_up(self, settings: BeamSettings) -> None:
        self.settings = settings
        with self._lexicon_file() as lexicon:
            self.search = ctc_decoder(
                lexicon=lexicon,
                tokens=self.symbols,
                lm=self.model,
                beam_size=settings.beam,
                beam_threshold=settings.beam_threshold,
                lm_weight=settings.lm_weight,
                word_score=settings.word_score,
                sil_score=settings.silence_score,
                blank_token=BLANK,
                sil_token=BOUNDARY,
                unk_word=UNKNOWN,
            )

    @contextmanager
    def _lexicon_file(self) -> Iterator[str]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "lexicon.txt"
            path.write_text(self.spelled, encoding="utf-8")
            yield str(path)


def _read_model(arpa: Path, lexicon: str) -> KenLM:
    words = create_word_dict(load_words(lexicon))  # numbered as ctc_decoder will number them
    try:
        with _silent():
            return KenLM(str(arpa), words)
    except RuntimeError as error:
        raise UsageError(
            f"{arpa} cannot be read by KenLM: {' '.join(str(error).split())}",
            expected="an ARPA file as KenLM and SRILM write it, tabs between its columns",
            remedy="Make the file again with one of these.",
        ) from error


@contextmanager
def _silent() -> Iterator[None]:
    """KenLM draws a progress bar on the process's standard error, past Python."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
