"""Word and character errors: the fewest edits that turn what was said into what was heard."""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf, nan

from rapidfuzz.distance import Levenshtein

_GAP = "*"
_MARKS = {"equal": "", "replace": "S", "delete": "D", "insert": "I"}


@dataclass(frozen=True)
class Errors:
    """Edits between a reference and a hypothesis, and the length of the reference.

    Errors of several pairs add up; `Errors()` is nothing.
    """

    substitutions: int = 0
    """Units of the reference that the hypothesis has otherwise."""
    deletions: int = 0
    """Units of the reference that the hypothesis lacks."""
    insertions: int = 0
    """Units of the hypothesis that the reference lacks."""
    length: int = 0
    """Units (words or characters) of the reference."""

    @property
    def total(self) -> int:
        """All edits."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Edits over the reference's length: 0 or more, above 1 where much is inserted.

        Where the reference is empty: 0 if the hypothesis is too, else infinite.
        """
        if self.length:
            return self.total / self.length
        return inf if self.total else 0.0

    def __add__(self, other: "Errors") -> "Errors":
        return Errors(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.length + other.length,
        )


def word_errors(reference: str, hypothesis: str) -> Errors:
    """Errors in words, which are what white space separates.

    Both texts count as they are: bring them to the same case and punctuation first.

    Args:
        reference: what is true.
        hypothesis: what a model said.

    Source: Levenshtein 1966; the word error rate as NIST's sclite and jiwer count it.
    """
    return _errors(reference.split(), hypothesis.split())


def character_errors(reference: str, hypothesis: str) -> Errors:
    """Errors in characters (Unicode code points), spaces included save those at either end.

    Args:
        reference: what is true.
        hypothesis: what a model said.

    Source: as `word_errors`; the character error rate as jiwer counts it.
    """
    return _errors(list(reference.strip()), list(hypothesis.strip()))


def error_rate(errors: Sequence[Errors]) -> float:
    """All edits over the length of all references: long references weigh more.

    Args:
        errors: one a pair of texts.

    Returns:
        0 or more; where all references are empty 0 without edits, else infinite; NaN without
        pairs.
    """
    return sum(errors, Errors()).rate if errors else nan


def alignment(reference: str, hypothesis: str) -> str:
    """The words of two texts in columns, one text a line, the errors marked below.

    Returns:
        Two lines, REF and HYP, where they agree; else three, the last with S (substituted),
        D (deleted) or I (inserted) under each word that is wrong. A gap is filled with `*`.

        >>> print(alignment("she had your dark suit", "she your dark suit in"))
        REF  she  had  your  dark  suit  **
        HYP  she  ***  your  dark  suit  in
                  D                      I
    """
    lines = ["REF", "HYP", "   "]
    for mark, true, said in _columns(reference.split(), hypothesis.split()):
        width = max(_width(true), _width(said))
        words = (true or _GAP * width, said or _GAP * width, mark)
        lines = [
            f"{line}  {word}{' ' * (width - _width(word))}"
            for line, word in zip(lines, words, strict=True)
        ]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _columns(reference: list[str], hypothesis: list[str]) -> Iterator[tuple[str, str, str]]:
    """Mark, word of the reference and of the hypothesis, "" for none; left to right."""
    for run in Levenshtein.opcodes(*_as_ids(reference, hypothesis)):
        length = max(run.src_end - run.src_start, run.dest_end - run.dest_start)
        for place in range(length):
            true = reference[run.src_start + place] if run.tag != "insert" else ""
            said = hypothesis[run.dest_start + place] if run.tag != "delete" else ""
            yield _MARKS[run.tag], true, said


def _errors(reference: list[str], hypothesis: list[str]) -> Errors:
    edits = Levenshtein.editops(*_as_ids(reference, hypothesis))
    counts = Counter(edit.tag for edit in edits)
    return Errors(counts["replace"], counts["delete"], counts["insert"], len(reference))


def _as_ids(reference: list[str], hypothesis: list[str]) -> tuple[list[int], list[int]]:
    """A number for each different unit: rapidfuzz compares words by their hash, numbers exactly."""
    ids: dict[str, int] = {}
    first, second = (
        [ids.setdefault(unit, len(ids)) for unit in units] for units in (reference, hypothesis)
    )
    return first, second


def _width(text: str) -> int:
    """Columns that a terminal gives to a text: two for a wide character, none for an accent."""
    return sum(
        0 if unicodedata.combining(character) else
        2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )  # fmt: skip
