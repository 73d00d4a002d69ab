"""Proves: word and character errors are jiwer's and the fewest there can be."""

import math
import random
from collections import Counter

import jiwer
import pytest

from d2v.core.alignment import Errors, alignment, character_errors, error_rate, word_errors

WORDS = ("the", "a", "cat", "sat", "mat", "on", "i", "don't", "naïve", "x")


def pairs(seed: int, count: int) -> list[tuple[str, str]]:
    """References of 1 to 12 words, and hypotheses that lack, change or add some."""
    source = random.Random(seed)
    found = []
    for _ in range(count):
        reference = source.choices(WORDS, k=source.randint(1, 12))
        hypothesis: list[str] = []
        for word in reference:
            kind = source.random()
            hypothesis += [word] if kind < 0.6 else []
            hypothesis += source.choices(WORDS, k=source.randint(1, 2)) if kind > 0.8 else []
        found.append((" ".join(reference), " ".join(hypothesis)))
    return found


def fewest_edits(reference: list[str], hypothesis: list[str]) -> int:
    """Wagner and Fischer's table in plain loops."""
    table = {(0, j): j for j in range(len(hypothesis) + 1)}
    for i in range(1, len(reference) + 1):
        table[i, 0] = i
        for j in range(1, len(hypothesis) + 1):
            other = reference[i - 1] != hypothesis[j - 1]
            table[i, j] = min(table[i - 1, j - 1] + other, table[i - 1, j] + 1, table[i, j - 1] + 1)
    return table[len(reference), len(hypothesis)]


def as_jiwer(output: jiwer.WordOutput | jiwer.CharacterOutput) -> tuple[int, int, int, int]:
    length = output.hits + output.substitutions + output.deletions
    return output.substitutions, output.deletions, output.insertions, length


def parts(errors: Errors) -> tuple[int, int, int, int]:
    return errors.substitutions, errors.deletions, errors.insertions, errors.length


@pytest.mark.parametrize("seed", range(3))
def test_errors__equal_jiwer(seed: int) -> None:
    for reference, hypothesis in pairs(seed, 150):
        words = jiwer.process_words(reference, hypothesis)
        assert parts(word_errors(reference, hypothesis)) == as_jiwer(words)
        characters = jiwer.process_characters(reference, hypothesis)
        assert parts(character_errors(reference, hypothesis)) == as_jiwer(characters)


def test_error_rate__over_many_pairs_equals_jiwer() -> None:
    texts = pairs(7, 300)
    references, hypotheses = [true for true, _ in texts], [said for _, said in texts]
    wer = error_rate([word_errors(true, said) for true, said in texts])
    cer = error_rate([character_errors(true, said) for true, said in texts])
    assert wer == pytest.approx(jiwer.wer(references, hypotheses), abs=1e-9)
    assert cer == pytest.approx(jiwer.cer(references, hypotheses), abs=1e-9)


def test_errors__are_the_fewest_and_account_for_both_lengths() -> None:
    for reference, hypothesis in [*pairs(11, 60), ("", "a b"), ("a b", ""), ("", "")]:
        for errors, true, said in (
            (word_errors(reference, hypothesis), reference.split(), hypothesis.split()),
            (character_errors(reference, hypothesis), list(reference), list(hypothesis)),
        ):
            assert errors.total == fewest_edits(true, said)
            assert errors.length == len(true)
            assert len(said) == len(true) - errors.deletions + errors.insertions


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("the cat sat", "the bat sat", (1, 0, 0, 3)),
        ("the cat sat", "the sat", (0, 1, 0, 3)),
        ("the cat sat", "the cat sat down", (0, 0, 1, 3)),
        ("  the\tcat ", "the  cat", (0, 0, 0, 2)),
        ("one", "", (0, 1, 0, 1)),
        ("", "one two", (0, 0, 2, 0)),
        ("The cat", "the cat", (1, 0, 0, 2)),
    ],
)
def test_word_errors__of_hand_worked_cases(
    reference: str, hypothesis: str, expected: tuple[int, int, int, int]
) -> None:
    assert parts(word_errors(reference, hypothesis)) == expected


def test_character_errors__count_spaces_inside_and_not_at_the_ends() -> None:
    assert parts(character_errors("ab cd", "abcd")) == (0, 1, 0, 5)
    assert parts(character_errors(" ab ", "ab")) == (0, 0, 0, 2)


def test_errors__add_up() -> None:
    total = Errors(1, 2, 3, 4) + Errors(10, 20, 30, 40)
    assert total == Errors(11, 22, 33, 44)
    assert total.total == 66
    assert total.rate == 1.5
    assert sum([total, total], Errors()) == Errors(22, 44, 66, 88)


def test_error_rate__weighs_by_length_and_not_by_pair() -> None:
    assert error_rate([Errors(1, 0, 0, 1), Errors(0, 0, 0, 9)]) == 0.1


def test_error_rate__with_empty_references() -> None:
    assert error_rate([Errors(), Errors()]) == 0.0
    assert error_rate([Errors(0, 0, 2, 0)]) == math.inf
    assert error_rate([Errors(0, 0, 2, 0), Errors(0, 0, 0, 4)]) == 0.5
    assert math.isnan(error_rate([]))


def test_alignment__puts_words_in_columns_and_marks_errors() -> None:
    assert alignment("she had your dark suit", "she your bark suit in") == (
        "REF  she  had  your  dark  suit  **\n"
        "HYP  she  ***  your  bark  suit  in\n"
        "          D          S           I"
    )


def test_alignment__of_equal_texts_has_no_third_line() -> None:
    assert alignment("a cat", "a cat") == "REF  a  cat\nHYP  a  cat"
    assert alignment("", "") == "REF\nHYP"


def test_alignment__gives_wide_letters_and_accents_the_room_they_take() -> None:
    lines = alignment("日本 a b", "日 a c").split("\n")
    assert lines == ["REF  日本  a  b", "HYP  日    a  c", "     S        S"]
    assert alignment("cafe\u0301 b", "cafe b").split("\n")[1] == "HYP  cafe  b"


def test_alignment__shows_the_errors_that_are_counted() -> None:
    for reference, hypothesis in pairs(13, 100):
        lines = [line[3:] for line in alignment(reference, hypothesis).split("\n")]
        assert [word for word in lines[0].split() if set(word) != {"*"}] == reference.split()
        assert [word for word in lines[1].split() if set(word) != {"*"}] == hypothesis.split()
        marks = Counter(lines[2].split() if len(lines) > 2 else [])
        errors = word_errors(reference, hypothesis)
        assert (marks["S"], marks["D"], marks["I"]) == parts(errors)[:3]
