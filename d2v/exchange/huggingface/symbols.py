"""The symbols of a Hugging Face CTC model, in the order and by the names that d2v has for them.

The blank is `<pad>` there and `<s>` here and in fairseq, from whose symbols the published models
were made by swapping the two names (reference section 3.2).
Letters: V symbols.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d2v.errors import UsageError
from d2v.exchange.huggingface.config import AudioConfig
from d2v.exchange.json_file import read_json
from d2v.tasks.decoding.base import BLANK, BOUNDARY
from d2v.tasks.transcripts import UNKNOWN, check_symbols

VOCABULARY = "vocab.json"
ADDED, TOKENIZER_CONFIG = "added_tokens.json", "tokenizer_config.json"
ROLES = {
    "pad_token": ("<pad>", BLANK),
    "bos_token": ("<s>", "<pad>"),
    "eos_token": ("</s>", "</s>"),
    "unk_token": ("<unk>", UNKNOWN),
    "word_delimiter_token": ("|", BOUNDARY),
}
"""Role -> what the stock tokenizer calls the symbol unless told otherwise, and what d2v does."""


def ctc_symbols(
    config: AudioConfig, folder: Path, given: Path | None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Symbols with the blank first, and which row of the head's projection each has.

    Args:
        config: its `vocab_size` rows, of which `pad_token_id` is the blank.
        folder: of the model, with its vocab.json.
        given: another vocab.json, named by the user; only where the folder has none.

    Raises:
        UsageError: there is no vocabulary, or one that d2v cannot spell with.
    """
    path = _vocabulary_path(folder, given)
    names = _names(config, path, folder)
    roles = read_json(folder / TOKENIZER_CONFIG)
    renamed = {_token(roles, role, theirs): ours for role, (theirs, ours) in ROLES.items()}
    ours = [renamed.get(name, name) for name in names]
    blank = config.pad_token_id
    if blank is None or not 0 <= blank < len(ours) or ours[blank] != BLANK:
        raise UsageError(
            f"pad_token_id is {blank}, and {path} has the symbol "
            f"{_token(roles, 'pad_token', '<pad>')!r} elsewhere or not at all",
            expected="the blank of CTC at pad_token_id",
        )
    rows = (blank, *(row for row in range(len(ours)) if row != blank))
    symbols = tuple(ours[row] for row in rows)
    if wrong := check_symbols(symbols):
        raise UsageError(
            f"{path} is no vocabulary that d2v can spell with: {wrong}",
            expected="single characters, a word boundary and the special symbols",
            remedy=f"Where a special symbol has another name, {TOKENIZER_CONFIG} must tell it.",
        )
    return symbols, rows


def _vocabulary_path(folder: Path, given: Path | None) -> Path:
    own = folder / VOCABULARY
    if own.is_file():
        if given is not None:
            raise UsageError(
                f"--tokenizer {given} is not needed: there is {own}", remedy="Leave it out."
            )
        return own
    if given is None:
        raise UsageError(
            f"There is no {VOCABULARY} in {folder}: what the outputs spell is not known",
            expected="symbol -> number, as Hugging Face's tokenizer keeps it",
            remedy="Download it, or name one with --tokenizer FILE.",
        )
    if not given.is_file():
        raise UsageError(f"--tokenizer {given}: there is no such file")
    return given


def _names(config: AudioConfig, path: Path, folder: Path) -> list[str]:
    """The symbol of each of the V rows, as it is called there."""
    numbers = read_json(path)
    if not all(isinstance(number, int) for number in numbers.values()):
        raise UsageError(
            f"{path} is not one vocabulary", expected="symbol -> number, of one language"
        )
    added = {
        name: number
        for name, number in read_json(folder / ADDED).items()
        if isinstance(number, int) and number < config.vocab_size
    }
    by_number = {number: name for name, number in {**added, **numbers}.items()}
    if sorted(by_number) != list(range(config.vocab_size)):
        raise UsageError(
            f"{path} names {len(by_number)} symbols, and the head has {config.vocab_size} rows",
            expected=f"one symbol for each number from 0 to {config.vocab_size - 1}",
        )
    return [by_number[number] for number in range(config.vocab_size)]


def _token(roles: Mapping[str, Any], role: str, usual: str) -> str:
    """What a tokenizer calls the symbol of a role."""
    found = roles.get(role, usual)
    if isinstance(found, dict):
        found = found.get("content", usual)
    return found if isinstance(found, str) else usual
