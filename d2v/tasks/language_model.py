"""A language model beside a recogniser: fitted, weighed on val, kept in a folder, read again."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field
from torch import Tensor

from d2v.errors import UsageError
from d2v.settings import Settings
from d2v.tasks.decoding import (
    BeamSettings,
    Decoder,
    Tried,
    build_decoder,
    estimate,
    grid_around,
    tune,
    write_arpa,
)
from d2v.tasks.decoding.arpa import read_words
from d2v.tasks.decoding.lexicon import build_lexicon

ARPA, WORDS, FACTS = "lm.arpa", "words.txt", "language_model.json"
"""What a folder holds: the model, the words of the training transcripts, all the rest."""
_TUNING_BEAM = 100
"""Hypotheses, at most, while weights are chosen: 48 pairs of weights on 200 utterances would take
hours with the 1,500 that are published for decoding."""


class LanguageModelSettings(Settings):
    """Decoding with an n-gram model of words (reference section 3.2)."""

    path: Path | None = None
    """An ARPA file, plain or .gz; null: a model estimated from the training transcripts."""
    order: int = Field(4, ge=2, le=6)
    """Longest n-gram of an estimated model, in words."""
    beam: BeamSettings = BeamSettings()
    tune: bool = True
    """Choose `beam.lm_weight` and `beam.word_score` on val, out of a grid; false: as set."""


class Fitted(NamedTuple):
    """A language model that is ready to decode with; `name` tells its order."""

    name: str
    decoder: Decoder


def check_language_model(settings: LanguageModelSettings, symbols: Sequence[str]) -> None:
    """Read the ARPA file from end to end, before anything is trained.

    Raises:
        UsageError: it is missing or damaged, or the symbols cannot spell its words.
    """
    if settings.path is not None:
        known, _ = read_words(settings.path)
        build_lexicon(symbols, (), known, str.upper)


def fit_language_model(
    settings: LanguageModelSettings,
    symbols: Sequence[str],
    train: Iterable[str],
    val: Sequence[tuple[Tensor, str]],
    folder: Path,
) -> Fitted:
    """Estimate or copy a model, choose its weights, write all of it down.

    Args:
        settings: which model.
        symbols: of the recogniser.
        train: normalised transcripts; their words can be decoded in any case.
        val: log-probabilities (T, V) and the transcript of utterances to choose weights on.
        folder: to write `lm.arpa` (or `lm.arpa.gz`), `words.txt` and `language_model.json` into.

    Raises:
        UsageError: the ARPA file cannot be used, or there are no transcripts to learn from.
    """
    sentences = [text.split() for text in train]
    words = sorted({word for sentence in sentences for word in sentence})
    perplexity = None
    if settings.path is None:
        model = estimate(sentences, settings.order)
        write_arpa(model, folder / ARPA)
        arpa, order = ARPA, model.order
        held_out = model.perplexity(text.split() for _, text in val)
        perplexity = held_out if math.isfinite(held_out) else None
    else:
        arpa = ARPA + ".gz" * (settings.path.suffix == ".gz")
        order = read_words(settings.path)[1]
        shutil.copyfile(settings.path, folder / arpa)
    (folder / WORDS).write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    decoder = build_decoder(symbols, words, folder / arpa, settings.beam)
    chosen, tried = settings.beam, list[Tried]()
    if settings.tune and val:
        narrow = settings.beam.model_copy(update={"beam": min(settings.beam.beam, _TUNING_BEAM)})
        best, tried = tune(val, decoder.with_settings, grid_around(narrow))
        chosen = best.model_copy(update={"beam": settings.beam.beam})
    facts = {
        "file": arpa,
        "order": order,
        "source": "training transcripts" if settings.path is None else str(settings.path),
        "training_sentences": len(sentences),
        "training_words": len(words),
        "perplexity_on_val": perplexity,
        "beam": chosen.model_dump(mode="json"),
        "tuned_on_val": [_row(one) for one in tried],
        "tuning_beam": tried[0].settings.beam if tried else None,
        "remarks": list(decoder.remarks),
    }
    (folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return Fitted(f"{order}-gram", decoder.with_settings(chosen))


def load_language_model(symbols: Sequence[str], folder: Path) -> Decoder | None:
    """The decoder that `fit_language_model` left in a folder; None where there is none.

    Raises:
        UsageError: the folder is damaged.
    """
    path = folder / FACTS
    if not path.exists():
        return None
    facts = _read(path, json.loads)
    words = _read(folder / WORDS, str.splitlines)
    try:
        beam, arpa = BeamSettings.model_validate(facts["beam"]), str(facts["file"])
    except (LookupError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error
    return build_decoder(symbols, words, folder / arpa, beam)


def _row(tried: Tried) -> dict[str, float]:
    settings, rate = tried
    return {"lm_weight": settings.lm_weight, "word_score": settings.word_score, "wer": rate}


def _read(path: Path, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> UsageError:
    return UsageError(
        f"{path} cannot be used ({type(error).__name__}: {error})",
        expected="the file as d2v finetune wrote it",
        remedy="Run d2v finetune again, or decode without the language model.",
    )
