"""Transcripts: one spelling for all of them, the characters they are made of, and their summary."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping

from d2v.modalities.base import Summarised

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
"""In fairseq's order; `<s>` is the blank of CTC (reference section 3.2)."""
WORD_BOUNDARY = "|"
APOSTROPHES = str.maketrans({"\u2019": "'", "\u02bc": "'"})
SPLITS = ("train", "val", "test")


def normalise(text: str) -> str:
    """The spelling that models are trained on.

    Compatibility forms unified (Unicode NFKC), upper case, letters, digits and apostrophes kept,
    everything else turned to space, spaces folded. Numbers stay digits: how they are read aloud
    is not known here.
    """
    text = unicodedata.normalize("NFKC", text).translate(APOSTROPHES).upper()
    text = unicodedata.normalize("NFKC", text).translate(APOSTROPHES)
    kept = (char if char == "'" or unicodedata.category(char)[0] in "LMN" else " " for char in text)
    return " ".join("".join(kept).split())


def transcript_totals(text: str) -> dict[str, float]:
    """What a transcript adds to a split's totals: itself, and its characters once normalised."""
    characters = Counter(normalise(text).replace(" ", WORD_BOUNDARY))
    return {"transcribed": 1.0, **{f"character {char}": float(n) for char, n in characters.items()}}


def summarise(totals: Mapping[str, Mapping[str, float]]) -> Summarised:
    """Hours, speakers, rates and transcripts in words; the vocabulary where there are transcripts.

    `vocabulary.json` holds the characters of the training transcripts in the order of their code
    points, after the special symbols: `symbols`, `counts` beside them, and which of them is the
    blank and which the word boundary.
    """
    splits = [split for split in SPLITS if split in totals]
    lines = ["hours: " + _by_split(splits, lambda split: _hours(totals[split].get("seconds", 0)))]
    if any(_named(totals[split], "speaker ") for split in splits):
        lines.append(
            "speakers: "
            + _by_split(splits, lambda split: str(len(_named(totals[split], "speaker "))))
        )
    lines.append("original rates: " + _rates(totals))
    if not any(totals[split].get("transcribed") for split in splits):
        return Summarised(lines=lines)
    lines.append("transcribed: " + _by_split(splits, lambda split: _transcribed(totals[split])))
    characters = _named(totals.get("train", {}), "character ")
    lines.append(f"characters in the training transcripts: {len(characters)}")
    lines += _strangers(splits, totals, set(characters))
    return Summarised(lines=lines, files={"vocabulary.json": _vocabulary(characters)})


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:,.2f}" if hours >= 0.1 else f"{hours:.2g}"


def _by_split(splits: list[str], tell: Callable[[str], str]) -> str:
    return ", ".join(f"{split} {tell(split)}" for split in splits)


def _named(totals: Mapping[str, float], prefix: str) -> dict[str, int]:
    """The figures whose names begin so, by what follows, sorted."""
    return {
        name.removeprefix(prefix): int(totals[name])
        for name in sorted(totals)
        if name.startswith(prefix)
    }


def _rates(totals: Mapping[str, Mapping[str, float]]) -> str:
    rates: Counter[int] = Counter()
    for figures in totals.values():
        for name, count in _named(figures, "rate ").items():
            rates[int(name.removesuffix(" Hz"))] += count
    return ", ".join(f"{rate:,} Hz {count:,}" for rate, count in sorted(rates.items()))


def _transcribed(totals: Mapping[str, float]) -> str:
    num_recordings = sum(_named(totals, "rate ").values())
    return f"{int(totals.get('transcribed', 0)):,} of {num_recordings:,}"


def _strangers(
    splits: list[str], totals: Mapping[str, Mapping[str, float]], known: set[str]
) -> list[str]:
    """Characters that a model trained on the training transcripts could never write."""
    lines = []
    for split in splits:
        found = _named(totals[split], "character ")
        strange = [f"{char} ({count:,})" for char, count in found.items() if char not in known]
        if strange:
            lines.append(f"characters in {split} that are not in train: {', '.join(strange)}")
    return lines


def _vocabulary(characters: Mapping[str, int]) -> bytes:
    letters = [char for char in characters if char != WORD_BOUNDARY]
    symbols = [*SPECIAL, WORD_BOUNDARY, *letters]
    content = {
        "blank": SPECIAL[0],
        "word_boundary": WORD_BOUNDARY,
        "symbols": symbols,
        "counts": [characters.get(symbol, 0) for symbol in symbols],
    }
    return json.dumps(content, ensure_ascii=False, indent=1).encode() + b"\n"
