"""A small recogniser, and CTC written out in loops over paths and frames."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from d2v.core.encoder import Encoder
from d2v.tasks.ctc import Ctc
from d2v.tasks.ctc_model import CtcModel, CtcSettings
from d2v.types import Batch, Frontend, Mask, Tokens
from tests.maths_case import seeded, tiny_settings

SYMBOLS = ("<s>", "<pad>", "</s>", "<unk>", "|", "A", "B", "C")


def task(symbols: Sequence[str] = SYMBOLS, **changes: Any) -> Ctc:
    return Ctc(CtcSettings.model_validate({"name": "ctc", **changes}), tuple(symbols))


class Frames(Frontend):
    """Frames are the inputs (B, T, D) themselves."""

    def features(self, batch: Batch) -> Tensor:
        return batch.inputs

    def forward(self, features: Tensor, mask: Mask | None, padding: Tensor | None) -> Tokens:
        return Tokens(values=features, padding=padding)

    def calibrate(self, batches: Iterable[Batch]) -> None:
        """Nothing."""

    def initialise(self, generator: torch.Generator) -> None:
        """Nothing."""


def model(**changes: Any) -> CtcModel:
    """Width 12, float64, weights drawn as published."""
    dim = changes.pop("dim", 12)
    built = task(**changes).build(Frames(), Encoder(tiny_settings(dim=dim)))
    built.initialise(seeded(0))
    return built.double()


def slow_ctc(log_probs: Tensor, labels: Sequence[int]) -> float:
    """-log p(labels) by the forward algorithm (Graves et al. 2006), probabilities as they are.

    Args:
        log_probs: (T, V) without padding.
        labels: ids without blanks; 0 is the blank.
    """
    states = [0]
    for label in labels:
        states += [label, 0]
    p = log_probs.exp().tolist()
    alpha = [0.0] * len(states)
    alpha[0] = p[0][0]
    if len(states) > 1:
        alpha[1] = p[0][states[1]]
    for row in p[1:]:
        following = []
        for s, symbol in enumerate(states):
            total = alpha[s]
            if s >= 1:
                total += alpha[s - 1]
            if s >= 2 and symbol != 0 and symbol != states[s - 2]:
                total += alpha[s - 2]
            following.append(total * row[symbol])
        alpha = following
    total = sum(alpha[-2:])
    return -math.log(total) if total > 0 else math.inf


def all_paths_ctc(log_probs: Tensor, labels: Sequence[int]) -> float:
    """The same from the definition: every path, collapsed."""
    total = 0.0
    num_frames, num_symbols = log_probs.shape
    for path in itertools.product(range(num_symbols), repeat=num_frames):
        if collapsed(path) == list(labels):
            total += math.exp(sum(float(log_probs[t, s]) for t, s in enumerate(path)))
    return -math.log(total) if total > 0 else math.inf


def collapsed(path: Sequence[int]) -> list[int]:
    """Repeats merged, then blanks dropped."""
    merged: list[int] = []
    for place, symbol in enumerate(path):
        if place == 0 or symbol != path[place - 1]:
            merged.append(symbol)
    return [symbol for symbol in merged if symbol != 0]
