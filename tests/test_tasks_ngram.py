"""Proves: the n-gram model is the one of Chen and Goodman, by hand and in loops."""

import math
import random
from collections.abc import Sequence
from itertools import pairwise

import pytest

from d2v.errors import UsageError
from d2v.tasks.decoding.ngram import BEGIN, END, UNKNOWN, Entry, NGram, Table, discounts, estimate

SMALL = [["a", "b"], ["a", "b"], ["a", "c"]]
"""Too small for worked-out discounts: 0.5, 1 and 1.5 are taken off."""

BY_HAND = {
    # After how many different words: a 1, b 1, c 1, </s> 2; of 5, (3 * 0.5 + 1) / 5 = 0.5 is freed,
    # and each of the five words is given a fifth of that.
    ("a",): 0.5 / 5 + 0.1,
    ("b",): 0.5 / 5 + 0.1,
    ("c",): 0.5 / 5 + 0.1,
    (END,): 1 / 5 + 0.1,
    (UNKNOWN,): 0.1,
    # <s> a 3 times: 1.5 / 3 is freed.
    (BEGIN, "a"): 1.5 / 3 + 0.5 * 0.2,
    (BEGIN, "b"): 0.5 * 0.2,
    # a b twice, a c once: (1 + 0.5) / 3 is freed.
    ("a", "b"): 1 / 3 + 0.5 * 0.2,
    ("a", "c"): 0.5 / 3 + 0.5 * 0.2,
    ("a", "a"): 0.5 * 0.2,
    ("a", "never seen"): 0.5 * 0.1,
    # b </s> twice: 1 / 2 is freed; c </s> once: 0.5.
    ("b", END): 1 / 2 + 0.5 * 0.3,
    ("c", END): 0.5 + 0.5 * 0.3,
    ("never seen", END): 0.3,
}


def babble(seed: int, num_sentences: int = 60, num_words: int = 12) -> list[list[str]]:
    """Sentences of 1 to 8 words, some words far likelier than others."""
    rng = random.Random(seed)
    words = [f"w{number}" for number in range(num_words)]
    weights = [1 / (number + 1) for number in range(num_words)]
    return [rng.choices(words, weights, k=rng.randint(1, 8)) for _ in range(num_sentences)]


# The estimate


@pytest.mark.parametrize("ngram", BY_HAND, ids=" ".join)
def test_bigram__is_as_worked_by_hand(ngram: tuple[str, ...]) -> None:
    actual = estimate(SMALL, 2).log10_probability(ngram[-1], ngram[:-1])
    assert 10**actual == pytest.approx(BY_HAND[ngram], rel=1e-12)


def test_perplexity__is_as_worked_by_hand() -> None:
    model = estimate(SMALL, 2)
    p = (1.5 / 3 + 0.1) * (1 / 3 + 0.1) * (1 / 2 + 0.15)
    assert 10 ** model.score_sentence(["a", "b"]) == pytest.approx(p, rel=1e-12)
    assert model.perplexity([["a", "b"]]) == pytest.approx(p ** (-1 / 3), rel=1e-12)
    assert model.perplexity([["a", "b"], ["a", "b"]]) == pytest.approx(p ** (-1 / 3), rel=1e-12)
    assert math.isnan(model.perplexity([]))


def test_discounts__are_as_worked_by_hand() -> None:
    # n1 = 4, n2 = 2, n3 = n4 = 1: Y = 4 / 8; 1 - 2 Y 2/4, 2 - 3 Y 1/2, 3 - 4 Y 1/1.
    assert discounts([1, 1, 1, 1, 2, 2, 3, 4, 9, 0]) == pytest.approx((0.0, 0.5, 1.25, 1.0))


@pytest.mark.parametrize(
    "counts",
    [[1, 2, 3], [1, 1, 2, 3, 3, 3, 3, 4], [1, 2, 3, 4, 4, 4, 4, 4, 4, 4]],
    ids=["no count of 4", "second below 0", "third below 0"],
)
def test_discounts__fall_back_where_they_cannot_be_worked_out(counts: list[int]) -> None:
    assert discounts(counts) == (0.0, 0.5, 1.0, 1.5)


def slow_probability(
    word: str, history: tuple[str, ...], sentences: list[list[str]], order: int
) -> float:
    """Chen and Goodman, section 4.1.6 and equation 26: everything counted anew in loops."""
    events = [
        tuple(padded[max(0, end - len(history) - 2) : end])
        for padded in ([BEGIN, *words, END] for words in sentences)
        for end in range(2, len(padded) + 1)
    ]
    n = len(history) + 1

    def count(ngram: tuple[str, ...]) -> int:
        if n == order or ngram[0] == BEGIN:
            return sum(event[-n:] == ngram for event in events)
        return len({event[-n - 1] for event in events if len(event) > n and event[-n:] == ngram})

    vocabulary = sorted({event[-1] for event in events} | {UNKNOWN})
    of_order = {event[-n:] for event in events if len(event) >= n}
    followers = [count((*history, other)) for other in vocabulary]
    lower = (
        slow_probability(word, history[1:], sentences, order) if history else 1 / len(vocabulary)
    )
    if sum(followers) == 0:
        return lower
    taken = discounts([count(ngram) for ngram in of_order])
    discounted = max(0.0, count((*history, word)) - taken[min(3, count((*history, word)))])
    freed = sum(taken[min(3, c)] for c in followers)
    return (discounted + freed * lower) / sum(followers)


@pytest.mark.parametrize(("seed", "order"), [(0, 1), (1, 2), (2, 3)])
def test_estimate__is_modified_kneser_ney(seed: int, order: int) -> None:
    sentences = babble(seed, num_sentences=40, num_words=9)
    model, rng = estimate(sentences, order), random.Random(seed)
    for words in rng.sample(sentences, 4):
        padded = [BEGIN, *words, END]
        for before, word in pairwise(range(len(padded))):
            history = tuple(padded[max(0, word - order + 1) : before + 1])
            expected = slow_probability(padded[word], history, sentences, order)
            actual = model.log10_probability(padded[word], padded[:word])
            assert actual == pytest.approx(math.log10(expected), abs=1e-12)


def test_estimate__the_babble_above_has_discounts_of_its_own() -> None:
    """So that the twin compares more than the fallback."""
    counts: dict[tuple[str, ...], int] = {}
    for words in babble(1, num_sentences=40, num_words=9):
        for pair in pairwise([BEGIN, *words, END]):
            counts[pair] = counts.get(pair, 0) + 1
    assert discounts(counts.values())[1:] != (0.5, 1.0, 1.5)


# What holds for every model


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("sentences", [SMALL, [["a"]], babble(3)], ids=["small", "one", "babble"])
def test_probabilities__add_up_to_1_after_any_history(
    order: int, sentences: list[list[str]]
) -> None:
    model, rng = estimate(sentences, order), random.Random(order)
    words = [*model.vocabulary - {END}, "never seen"]
    histories: list[Sequence[str]] = [(), (BEGIN,)]
    histories += [rng.choices(words, k=rng.randint(1, 6)) for _ in range(20)]
    histories += [(BEGIN, *sentences[0][:k]) for k in range(1, len(sentences[0]) + 1)]
    for history in histories:
        total = sum(10 ** model.log10_probability(word, history) for word in model.vocabulary)
        assert total == pytest.approx(1, abs=1e-9), history


def test_vocabulary__holds_the_end_and_the_unknown_word_but_not_the_beginning() -> None:
    assert estimate(SMALL, 2).vocabulary == {"a", "b", "c", END, UNKNOWN}


def test_unknown_words__are_all_alike() -> None:
    model = estimate(SMALL, 3)
    assert model.score_sentence(["x", "b"]) == model.score_sentence(["y", "b"])
    assert model.score_sentence(["x", "b"]) < model.score_sentence(["a", "b"])


def test_history__reaches_back_as_far_as_the_order() -> None:
    model = estimate(babble(4), 3)
    assert model.state(("w1", "w2", "what", "w3")) == (UNKNOWN, "w3")
    assert model.log10_probability("w0", ("w5", "w2", "w1")) == model.log10_probability(
        "w0", ("w2", "w1")
    )


def test_backoff__multiplies_from_history_to_history() -> None:
    words: Table = {(BEGIN,): Entry(-99.0), (END,): Entry(-0.5), (UNKNOWN,): Entry(-2.0)}
    words |= {("a",): Entry(-0.7, -0.25), ("b",): Entry(-0.9, -0.125)}
    pairs: Table = {("a", "b"): Entry(-0.3, -0.0625), ("b", "b"): Entry(-0.4)}
    model = NGram([words, pairs, {("a", "b", "b"): Entry(-0.1)}])
    assert model.log10_probability("b", ("a", "b")) == -0.1
    assert model.log10_probability("b", ("b", "b")) == -0.4  # no weight of its own: 0
    assert model.log10_probability("a", ("a", "b")) == pytest.approx(-0.0625 - 0.125 - 0.7)
    assert model.log10_probability("x", ("a",)) == pytest.approx(-0.25 - 2.0)


def test_higher_orders__read_their_own_text_better() -> None:
    sentences = babble(5)
    perplexities = [estimate(sentences, order).perplexity(sentences) for order in (1, 2, 3)]
    assert perplexities == sorted(perplexities, reverse=True)


def test_sentences_without_words__are_passed_over() -> None:
    assert estimate([[], *SMALL], 2).tables == estimate(SMALL, 2).tables


def test_order__is_no_higher_than_the_longest_sentence_allows() -> None:
    assert estimate(SMALL, 9).order == 4  # <s> a b </s>
    assert estimate(SMALL, 9).tables == estimate(SMALL, 4).tables


def test_no_sentence__is_said() -> None:
    with pytest.raises(UsageError, match="No sentence to estimate"):
        estimate([[]], 3)
