"""A small corpus and a tokenizer of it, for the tests of text."""

from __future__ import annotations

import random
from pathlib import Path

from d2v.modalities.text.learn import learn_tokenizer
from d2v.modalities.text.store import StoreSettings
from d2v.modalities.text.tokenizer import TokenizerSettings
from d2v.samples import SourceItem

SMALL = TokenizerSettings(size=400)
"""Settings that the corpus below supports."""
SYLLABLES = ("sto", "ne", "ri", "ver", "gar", "den", "win", "ter", "let", "can", "dle", "pro")
WORDS = [first + second for first in SYLLABLES for second in SYLLABLES]


def corpus(num_sentences: int = 300, seed: int = 0) -> str:
    """English-looking sentences, ten a paragraph."""
    generator = random.Random(seed)
    made = []
    for number in range(num_sentences):
        words = " ".join(generator.choices(WORDS, k=generator.randint(2, 14)))
        made.append(words.capitalize() + "." + ("\n\n" if number % 10 == 9 else "\n"))
    return "".join(made)


def item(content: str | bytes, **fields: str) -> SourceItem:
    """A document with these bytes."""
    data = content.encode() if isinstance(content, str) else content
    return SourceItem(name="doc", content=data, **fields)  # type: ignore[arg-type]  # all str


def learned(folder: Path, settings: TokenizerSettings = SMALL) -> Path:
    """A folder with a tokenizer of the corpus."""
    learn_tokenizer(lambda: [item(corpus())], settings, StoreSettings(), folder)
    return folder
