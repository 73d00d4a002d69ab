"""Which weights of the language model make the fewest errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

from torch import Tensor

from d2v.core.alignment import error_rate, word_errors
from d2v.tasks.decoding.base import BeamSettings, Decoder

LM_WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
WORD_SCORES = (-2.0, -1.0, 0.0, 1.0, 2.0, 4.0)
"""Around the weights published for 10 minutes to 960 hours of labels (reference section 3.2)."""


class Tried(NamedTuple):
    """One point of the grid and its word error rate."""

    settings: BeamSettings
    word_error_rate: float


def grid_around(settings: BeamSettings) -> list[BeamSettings]:
    """The settings with each pair of `LM_WEIGHTS` and `WORD_SCORES`."""
    return [
        settings.model_copy(update={"lm_weight": weight, "word_score": score})
        for weight, score in product(LM_WEIGHTS, WORD_SCORES)
    ]


def tune(
    answers: Sequence[tuple[Tensor, str]],
    make_decoder: Callable[[BeamSettings], Decoder],
    grid: Sequence[BeamSettings],
    most: int = 200,
) -> tuple[BeamSettings, list[Tried]]:
    """The settings with the lowest word error rate; of equals those with the smallest weights.

    Args:
        answers: log-probabilities (T, V) and the normalised reference; of the split that weights
            may be chosen on, never of the test split.
        make_decoder: `Decoder.with_settings` of some decoder.
        grid: what to try.
        most: of more answers so many are used, evenly spaced.

    Returns:
        The best; and all that was tried, in the grid's order.
    """
    assert answers
    num_used = min(most, len(answers))
    used = [answers[number * len(answers) // num_used] for number in range(num_used)]
    tried = []
    for settings in grid:
        decoder = make_decoder(settings)
        errors = [word_errors(text, decoder.decode(log_probs).text) for log_probs, text in used]
        tried.append(Tried(settings, error_rate(errors)))
    best = min(tried, key=_rank)
    return best.settings, tried


def _rank(tried: Tried) -> tuple[float, float, float, float]:
    settings, rate = tried
    return rate, settings.lm_weight, abs(settings.word_score), settings.word_score
