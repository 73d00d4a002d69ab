"""Small CTC outputs and language models for the tests of decoding, and the search by all paths."""

import math
import random
from collections.abc import Callable, Sequence
from itertools import groupby, product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from d2v.tasks.decoding import build
from d2v.tasks.decoding.arpa import write_arpa
from d2v.tasks.decoding.base import BeamSettings, Decoder
from d2v.tasks.decoding.ngram import NGram, estimate

SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>", "|", "A", "B"]
LEXICON = ["A", "B", "AB", "BA", "BB"]
WIDE = {"beam": 5000, "beam_threshold": 1e6}

needs_flashlight = pytest.mark.skipif(
    not build.FLASHLIGHT, reason="flashlight-text has no wheel for this platform"
)
BOTH = pytest.mark.parametrize(
    "search", [pytest.param("flashlight", marks=needs_flashlight), "own"]
)


def noise(seed: int, num_frames: int, symbols: Sequence[str] = SYMBOLS) -> Tensor:
    """Log-probabilities (T, V) that hear nothing in particular."""
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(2 * torch.randn(num_frames, len(symbols), generator=generator), -1)


def heard(text: str, symbols: Sequence[str] = SYMBOLS) -> Tensor:
    """Log-probabilities (T, V) of a model that is sure: a character a frame, `_` for the blank."""
    spelled = [symbols.index("<s>" if character == "_" else character) for character in text]
    scores = torch.zeros(len(spelled), len(symbols))
    scores[torch.arange(len(spelled)), spelled] = 9.0
    return torch.log_softmax(scores, -1)


def a_model(seed: int, order: int = 3) -> NGram:
    """Of sentences that leave one word of the lexicon unknown."""
    rng = random.Random(seed)
    known = LEXICON[:-1]
    return estimate([rng.choices(known, k=rng.randint(1, 4)) for _ in range(12)], order)


def arpa(folder: Path, model: NGram) -> Path:
    write_arpa(model, folder / "lm.arpa")
    return folder / "lm.arpa"


def best_of_all(
    log_probs: Tensor, model: NGram | None, settings: BeamSettings
) -> tuple[str, float]:
    """Every path scored by itself; slow twin of the searches."""
    best, boundary = ("", -math.inf), SYMBOLS.index("|")
    for path in product((0, 4, 5, 6), repeat=len(log_probs)):
        symbols = [SYMBOLS[token] for token, _ in groupby(path) if token != 0]
        words = [word for word in "".join(symbols).split("|") if word]
        if not set(words) <= set(LEXICON):
            continue
        score = sum(float(log_probs[t, token]) for t, token in enumerate(path))
        score += settings.word_score * len(words) + settings.silence_score * path.count(boundary)
        if model is not None:
            score += settings.lm_weight * model.score_sentence(words)
        if score > best[1]:
            best = (" ".join(words), score)
    return best


def builder(search: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Decoder]:
    """`build_decoder` of one of the two searches, see `BOTH`."""
    if search == "own":
        monkeypatch.setattr(build, "FLASHLIGHT", False)
    return build.build_decoder
