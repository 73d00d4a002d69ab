"""Proves: greedy decoding is what loops find."""

import pytest
import torch
from torch import Tensor

from d2v.tasks.decoding.base import Word, greedy
from tests.decoding_case import (
    SYMBOLS,
    heard,
    noise,
)


def slow_greedy(log_probs: Tensor) -> tuple[list[int], list[int]]:
    tokens, frames, before = [], [], None
    for t in range(len(log_probs)):
        best = max((0, 4, 5, 6), key=lambda v: float(log_probs[t, v]))
        if best not in (before, 0):
            tokens.append(best)
            frames.append(t)
        before = best
    return tokens, frames


@pytest.mark.parametrize("seed", range(6))
def test_greedy__is_what_loops_find(seed: int) -> None:
    log_probs = noise(seed, num_frames=3 * seed)
    tokens, frames = slow_greedy(log_probs)
    found = greedy(log_probs, SYMBOLS)
    assert (list(found.tokens), list(found.frames)) == (tokens, frames)
    written = "".join(SYMBOLS[token] for token in tokens)
    assert found.text.split(" ") == (written.replace("|", " ").split() or [""])


def test_greedy__says_where_words_lie() -> None:
    found = greedy(heard("|_AA_A||B"), SYMBOLS)
    assert found.words == (Word("AA", 2, 5), Word("B", 8, 8))
    assert found.score == pytest.approx(9 * float(heard("A").max()), abs=1e-5)


def test_greedy__never_puts_out_special_symbols() -> None:
    log_probs = torch.tensor([[0.1, 0.9, 0.9, 0.9, 0.0, 0.2, 0.0]]).log()
    assert greedy(log_probs, SYMBOLS).text == "A"


def test_greedy__knows_nothing_of_which_symbol_is_the_blank() -> None:
    symbols = ["A", " ", "-"]
    found = greedy(heard("A-A B", ["A", " ", "-", "B"])[:, :3], symbols, blank="-", boundary=" ")
    assert found.text.startswith("AA")
