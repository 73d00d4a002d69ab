"""A small case of every modality, for the contract that all of them keep and for tiny trainings."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from d2v.samples import SourceItem
from tests.recording_case import recorded
from tests.training_case import VISION, picture

POSITIONS = {"num_layers": 2, "kernel": 5, "groups": 4}
SPANS = {"ratio": 0.6, "length": 3}
CONVOLUTION: dict[str, Any] = {
    "name": "speech",
    "frontend": {"kind": "convolution", "layers": [[6, 10, 5], [8, 8, 8], [8, 4, 4]],
                 "gradient_scale": 0.5, "positions": POSITIONS},
    "mask": {**SPANS, "same_count": True},
}  # fmt: skip
"""A token each 160 samples, 10 ms."""
LOGMEL: dict[str, Any] = {
    "name": "speech",
    "frontend": {"kind": "logmel", "num_bands": 8, "positions": POSITIONS},
    "mask": {**SPANS, "same_count": False},
}
PAPER_MASK = {"ratio": 0.15, "span": 1, "random_rate": 0.1, "keep_rate": 0.1}
TEXT: dict[str, Any] = {
    "name": "text",
    "tokenizer": {"size": 275},
    "frontend": {"max_tokens": 64},
    "store": {"block_tokens": 64},
    "mask": PAPER_MASK,
}
WORDS = (
    *("teacher", "student", "sees", "reads", "masked", "hidden", "whole", "word", "token", "near"),
    *("sample", "target", "average", "layer", "block", "head", "loss", "step", "slow", "fast"),
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way to set a modality up.

    Args:
        name: of the test.
        settings: the `modality` section.
        items: a few raw samples, made anew at each call.
        ragged: whether they differ in length.
        teacher_averages: as its recipes have it.
    """

    name: str
    settings: dict[str, Any]
    items: Callable[[], list[SourceItem]]
    ragged: bool
    teacher_averages: Literal["all", "encoder"]


def hum(number: int, seconds: float, rate: int = 16_000) -> NDArray[np.float32]:
    """(N,): a tone of its own height in noise of its own."""
    noise = np.random.default_rng(number).normal(0, 0.05, round(rate * seconds))
    times = np.arange(len(noise)) / rate
    wave = 0.3 * np.sin(2 * np.pi * (200 + 70 * number) * times) + noise
    return np.asarray(wave, np.float32)


def sentence(number: int, num_words: int) -> str:
    """Words drawn by the number."""
    drawn = " ".join(random.Random(number).choices(WORDS, k=num_words))
    return drawn.capitalize() + "."


def _pictures() -> list[SourceItem]:
    return [SourceItem(name=f"{number}.png", content=picture(number)) for number in range(4)]


def _recordings() -> list[SourceItem]:
    """0.1 to 0.3 seconds."""
    seconds = (0.22, 0.3, 0.1, 0.17)
    return [
        SourceItem(name=f"{number}.wav", content=recorded(hum(number, length)))
        for number, length in enumerate(seconds)
    ]


def _texts() -> list[SourceItem]:
    """Documents of one sample; they support the vocabulary."""
    words = (6, 2, 7, 4, 1, 5)
    texts = [f"{sentence(number, count)} Seen." for number, count in enumerate(words)]
    return [SourceItem(name=f"{n}.txt", content=text.encode()) for n, text in enumerate(texts)]


CASES = [
    Case(name="vision", settings=VISION.model_dump(mode="json"), items=_pictures, ragged=False,
         teacher_averages="all"),
    Case(name="speech-convolution", settings=CONVOLUTION, items=_recordings, ragged=True,
         teacher_averages="encoder"),
    Case(name="speech-logmel", settings=LOGMEL, items=_recordings, ragged=True,
         teacher_averages="encoder"),
    Case(name="text", settings=TEXT, items=_texts, ragged=True, teacher_averages="encoder"),
]  # fmt: skip
_BY_DISTANCE = {**CONVOLUTION["frontend"], "positions": {**POSITIONS, "alibi": True}}
EXACT = [
    Case(name="vision-exact", items=_pictures, ragged=False, teacher_averages="all",
         settings={**VISION.model_dump(mode="json"),
                   "mask": {"kind": "inverse_block", "ratio": 0.7, "size": 2, "adjust": 0.1}}),
    Case(name="speech-exact", items=_recordings, ragged=True, teacher_averages="encoder",
         settings={**CONVOLUTION, "frontend": _BY_DISTANCE,
                   "mask": {"kind": "blocks", "ratio": 0.5, "length": 3}}),
    Case(name="text-exact", items=_texts, ragged=True, teacher_averages="encoder",
         settings={**TEXT, "mask": {"kind": "random", "ratio": 0.48}}),
]  # fmt: skip
"""The same with masks of exact counts, and attention by distance: those of data2vec 2.0."""
