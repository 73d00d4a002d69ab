"""The words that a search may find, how they are spelled, and what a language model calls them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from d2v.errors import UsageError
from d2v.tasks.decoding.base import BLANK, BOUNDARY, SPECIAL

_SHOWN = 5
_MOST = 0.5
"""Share of the words that a model expects; where more cannot be spelled, it is a wrong model."""


class LexiconWord(NamedTuple):
    """One word.

    Args:
        entry: the language model's own spelling, which may be in another case.
        text: as it is written in transcripts.
        letters: symbol ids that spell `text`, without a word boundary.
    """

    entry: str
    text: str
    letters: tuple[int, ...]


class Lexicon(NamedTuple):
    """Words, no two spelled alike, and what was left out and why."""

    words: tuple[LexiconWord, ...]
    remarks: tuple[str, ...]


def build_lexicon(
    symbols: Sequence[str],
    words: Iterable[str],
    known: Mapping[str, float] | None,
    normalise: Callable[[str], str],
) -> Lexicon:
    """Words of the transcripts and of the language model that the symbols can spell.

    Args:
        symbols: of the CTC model.
        words: of the training transcripts; may be empty where there is a language model.
        known: the language model's words with log10 p; None without such a model. Of those that
            are written alike once normalised the likeliest is used.
        normalise: a word of the model -> its spelling in transcripts.

    Raises:
        UsageError: more than half of what the language model expects cannot be spelled, or
            nothing can.
    """
    ids = {symbol: number for number, symbol in enumerate(symbols)}
    letters = ids.keys() - {BLANK, BOUNDARY, *SPECIAL}
    entries: dict[str, str] = {}
    for word in sorted(known or {}, key=lambda word: (-(known or {})[word], word)):
        entries.setdefault(normalise(word), word)
    spoken = set(map(normalise, words))
    strangers = spoken - entries.keys()
    entries.update((text, text) for text in sorted(strangers))
    unspelled = [text for text in entries if not text or not letters >= set(text)]
    if known is not None:
        _refuse_foreign(known, [entries[text] for text in unspelled])
    for text in unspelled:
        del entries[text]
    if not entries:
        raise UsageError(
            "No word can be decoded: the lexicon is empty",
            expected="words that the model's symbols can spell",
            remedy="Check the training transcripts, or decode greedily.",
        )
    remarks = _told(
        f"{len(unspelled):,} words that the symbols cannot spell are left out", unspelled
    )
    if known is not None:
        told = f"{len(strangers):,} of {len(spoken):,} training words are not in the language model"
        remarks += _told(told, sorted(strangers))
    found = (
        LexiconWord(entry, text, tuple(ids[letter] for letter in text))
        for text, entry in entries.items()
    )
    return Lexicon(tuple(sorted(found)), tuple(remarks))


def _refuse_foreign(known: Mapping[str, float], unspelled: Iterable[str]) -> None:
    """Stop where the language model is of another language, or of another alphabet."""
    lost = [word for word in unspelled if word in known]
    share = sum(10 ** known[word] for word in lost) / (sum(10**p for p in known.values()) or 1)
    if share > _MOST:
        raise UsageError(
            f"A language model whose words the vocabulary cannot spell: {share:.0%} of the words "
            f"that it expects, such as {_some(lost)}",
            expected="words made of the characters of the training transcripts",
            remedy="Choose a language model of the same language and spelling.",
        )


def _told(what: str, words: Sequence[str]) -> list[str]:
    return [f"{what}: {_some(words)}."] if words else []


def _some(words: Sequence[str]) -> str:
    shown = ", ".join(repr(word) for word in words[:_SHOWN])
    return shown + (", ..." if len(words) > _SHOWN else "")
