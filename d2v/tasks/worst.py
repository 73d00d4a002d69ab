"""The utterances that a recogniser gets most wrong, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from d2v.core.alignment import alignment, character_errors, word_errors

MOST = 50
"""Utterances that are listed."""


class Heard(NamedTuple):
    """One utterance: where it came from, what was said, what was understood."""

    source: str
    reference: str
    hypothesis: str


def write_worst(heard: Sequence[Heard], path: Path) -> int:
    """List the utterances with the most word errors, the worst first; right ones are left out.

    Of equals the one with more character errors comes first.

    Returns:
        How many utterances have errors.
    """
    ranked = []
    for place, one in enumerate(heard):
        words = word_errors(one.reference, one.hypothesis)
        characters = character_errors(one.reference, one.hypothesis)
        if words.total:
            ranked.append((-words.total, -characters.total, place, words.length))
    blocks = [f"{len(ranked)} of {len(heard)} utterances have errors. The worst:\n"]
    for words_wrong, characters_wrong, place, length in sorted(ranked)[:MOST]:
        one = heard[place]
        told = f"{-words_wrong} of {length} words, {-characters_wrong} characters"
        blocks.append(f"{one.source}: {told}\n{alignment(one.reference, one.hypothesis)}\n")
    path.write_text("\n".join(blocks), encoding="utf-8")
    return len(ranked)
