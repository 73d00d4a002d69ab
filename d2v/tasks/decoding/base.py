"""What a decoder is told and what it answers; and the one that needs no language model.

Letters: T frames, V symbols.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from d2v.settings import Settings

BLANK = "<s>"
BOUNDARY = "|"
SPECIAL = ("<pad>", "</s>", "<unk>")
"""Never spoken: symbols that no decoder puts out (reference section 3.2)."""


class BeamSettings(Settings):
    """Beam search: score = log p(path) + lm_weight * log10 p(words) + word_score * words.

    Defaults: reference section 3.2. As in flashlight, the acoustic part is in natural and the
    language model's in decimal logarithms: published weights mean that mixture.
    """

    beam: int = Field(50, ge=1)
    """Hypotheses kept after each frame."""
    beam_threshold: float = Field(50.0, gt=0)
    """Hypotheses that fall so far behind the best of their frame are dropped (nats)."""
    lm_weight: float = Field(2.0, ge=0)
    """Weight of the language model."""
    word_score: float = -1.0
    """Added for each word: above 0 favours many short words, below 0 few long ones."""
    silence_score: float = 0.0
    """Added for each frame of word boundary."""


class Word(NamedTuple):
    """A word and the frames in which its first and its last character were put out."""

    text: str
    first_frame: int
    last_frame: int


class Decoded(NamedTuple):
    """What was heard.

    Args:
        tokens: symbol ids without repeats and blanks, word boundaries included; with a lexicon one
            boundary between words, none before the first.
        frames: the frame in which each token was put out.
        words: in order; with a lexicon its words alone, a word that was cut short is left out.
        score: of the path, see `BeamSettings`; for a greedy one log p(path).
    """

    tokens: tuple[int, ...]
    frames: tuple[int, ...]
    words: tuple[Word, ...]
    score: float

    @property
    def text(self) -> str:
        """The words with one space between them."""
        return " ".join(word.text for word in self.words)


class Decoder(ABC):
    """Finds the best words for what a CTC model says of each frame.

    Holds foreign objects: build it where it is used, it does not travel between processes.
    """

    settings: BeamSettings
    remarks: tuple[str, ...]
    """What a person should know: words left out, which search is used."""

    @abstractmethod
    def decode(self, log_probs: Tensor) -> Decoded:
        """The best hypothesis.

        Args:
            log_probs: (T, V) float32 on the CPU, T >= 0, without padding.
        """

    @abstractmethod
    def with_settings(self, settings: BeamSettings) -> Decoder:
        """The same lexicon and language model, searched otherwise; they are shared, not copied."""


def greedy(
    log_probs: Tensor, symbols: Sequence[str], blank: str = BLANK, boundary: str = BOUNDARY
) -> Decoded:
    """The likeliest symbol of each frame, repeats merged, blanks dropped.

    Args:
        log_probs: (T, V), without padding.
        symbols: the V symbols; those in SPECIAL are passed over.
        blank: CTC's empty symbol.
        boundary: the symbol between words.

    Source: Graves et al. 2006, best path decoding.
    """
    spoken = [number for number, symbol in enumerate(symbols) if symbol not in SPECIAL]
    best = log_probs[:, spoken].max(dim=1)
    path = [spoken[place] for place in best.indices.tolist()]
    dropped = symbols.index(blank)
    tokens, frames = [], []
    for frame, token in enumerate(path):
        if token != dropped and (frame == 0 or token != path[frame - 1]):
            tokens.append(token)
            frames.append(frame)
    spans = word_spans(tokens, symbols.index(boundary))
    words = tuple(
        Word("".join(symbols[token] for token in tokens[span]), *_ends(frames[span]))
        for span in spans
    )
    return Decoded(tuple(tokens), tuple(frames), words, float(best.values.sum()))


_UNCLOSED = -1000.0
"""Log-probability of all but the word boundary in the frame that `closed` adds."""


def closed(log_probs: Tensor, boundary: int) -> Tensor:
    """One more frame, a word boundary, so that the last word ends at no cost.

    With it, models that put a boundary after the last word and models that do not are read alike.

    Args:
        log_probs: (T, V).
        boundary: id of the word boundary.

    Returns:
        (T + 1, V) float32.
    """
    assert not log_probs.isnan().any()
    last = torch.full((1, log_probs.shape[1]), _UNCLOSED)
    last[0, boundary] = 0.0
    return torch.cat([log_probs.float(), last]).contiguous()


def decoded_words(
    path: Sequence[tuple[int, int]],
    texts: Sequence[str],
    score: float,
    num_frames: int,
    boundary: int,
) -> Decoded:
    """The answer of a search with a lexicon: its words beside the tokens that spell them.

    Args:
        path: token and frame, without repeats and blanks, of T + 1 frames (see `closed`).
        texts: the words, in order; the last may lack where it was cut short.
        score: as in `Decoded`.
        num_frames: T.
        boundary: id of the word boundary.
    """
    kept = [
        (token, frame)
        for place, (token, frame) in enumerate(path)
        if frame < num_frames and (token != boundary or (place and path[place - 1][0] != boundary))
    ]
    tokens, frames = [token for token, _ in kept], [frame for _, frame in kept]
    spans = list(word_spans(tokens, boundary))[: len(texts)]
    words = tuple(Word(text, *_ends(frames[span])) for text, span in zip(texts, spans, strict=True))
    return Decoded(tuple(tokens), tuple(frames), words, score)


def word_spans(tokens: Sequence[int], boundary: int) -> Iterator[slice]:
    """Where words lie between boundaries; several boundaries in a row are one."""
    start = 0
    for place in range(len(tokens) + 1):
        if place == len(tokens) or tokens[place] == boundary:
            if place > start:
                yield slice(start, place)
            start = place + 1


def _ends(frames: Sequence[int]) -> tuple[int, int]:
    return frames[0], frames[-1]
