"""Text to paragraphs, sentences and lines. Plain rules, made for languages with capitals."""

from __future__ import annotations

import re
from collections.abc import Iterator

PIECE = 1 << 16
"""Characters that the tokenizer gets at once: it needs a hundred times their bytes."""
ABBREVIATIONS = frozenset(
    re.findall(
        r"\w+",
        "mr mrs ms messrs mme mlle dr prof st rev hon gen col capt lt sgt sen rep gov jr sr "
        "vs etc vol pp fig eq dept inc ltd corp approx cf",
    )
)
"""Words that take a full stop without ending a sentence, in lower case."""
_BLANK_LINE = re.compile(r"\n\s*\n")
_END = re.compile(r"(?<![.!?…])([.!?…]++)[\"'”’»)\]]*+\s++(?=[\"'“‘«(\[_*]*+(\w))")
"""Full stop, question or exclamation mark, closing marks, space; then what may open a sentence.
Possessive, so that a line of a million dots costs a million steps and not their square."""
_LAST_WORD = re.compile(r"[\w.]*\Z")
_LONGEST_WORD = 24
"""Characters before a full stop that are looked at."""


def sentences(text: str) -> Iterator[str]:
    """Sentences without the white space around them; white space within becomes one space.

    A blank line ends a sentence, a line end alone does not. So does `.`, `!`, `?` or `…` with
    closing quotes or brackets, white space, and then a letter that is not lower case, or a digit.
    A single full stop does not after an abbreviation, an initial (J. S. Bach), a word with a full
    stop inside (U.S., e.g.), or a number that begins the sentence (1. First).
    """
    for paragraph in paragraphs(text):
        start = 0
        for end in _END.finditer(paragraph):
            if not end[2].islower() and _may_end(paragraph, start, end):
                yield paragraph[start : end.end()].rstrip()
                start = end.end()
        yield paragraph[start:]


def paragraphs(text: str) -> Iterator[str]:
    """What stands between blank lines, white space folded to single spaces, empty ones left out."""
    start = 0
    for blank in _BLANK_LINE.finditer(text):
        if folded := " ".join(text[start : blank.start()].split()):
            yield folded
        start = blank.end()
    if folded := " ".join(text[start:].split()):
        yield folded


def lines(text: str) -> Iterator[str]:
    """Lines as they are, each with its end."""
    start = 0
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        yield text[start:end]
        start = end


def pieces(text: str) -> Iterator[str]:
    """A text cut before spaces into pieces of at most `PIECE` characters."""
    start = 0
    while len(text) - start > PIECE:
        end = text.rfind(" ", start + 1, start + PIECE)
        end = start + PIECE if end < 0 else end
        yield text[start:end]
        start = end
    yield text[start:]


def _may_end(paragraph: str, start: int, end: re.Match[str]) -> bool:
    if end[1] != ".":
        return True
    found = _LAST_WORD.search(paragraph[max(start, end.start() - _LONGEST_WORD) : end.start()])
    word = "" if found is None else found[0]
    is_initial = len(word) == 1 and word.isalpha() and word != "I"
    is_number_of_list = word.isdigit() and start + len(word) == end.start()
    return not (is_initial or is_number_of_list or "." in word or word.lower() in ABBREVIATIONS)
