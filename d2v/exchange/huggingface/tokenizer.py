"""The tokenizer of a Hugging Face text model, as the one file that d2v reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from d2v.errors import UsageError
from d2v.exchange.complaints import complaints
from d2v.exchange.huggingface.config import TextConfig
from d2v.exchange.json_file import read_json
from d2v.modalities.text.tokenizer import (
    SPECIAL_TOKENS,
    TOKENIZER_FILE,
    TokenizerSettings,
    parse_tokenizer,
)

VOCABULARY, MERGES, TOKENIZER_CONFIG = "vocab.json", "merges.txt", "tokenizer_config.json"
_USUAL_UNK = 3
"""In fairseq's order of the special tokens."""


@dataclass(frozen=True, kw_only=True)
class FoundTokenizer:
    """A tokenizer that fits a model.

    Args:
        content: of a tokenizer.json.
        ids: the `modality.tokenizer` section.
        notes: what a user should know.
    """

    content: bytes
    ids: dict[str, int]
    notes: tuple[str, ...] = ()


def fitted_tokenizer(config: TextConfig, folder: Path, given: Path | None) -> FoundTokenizer | None:
    """The tokenizer of a folder, or the one that the user named; None where there is neither.

    Args:
        config: of the model: its vocabulary's size and the padding's id.
        folder: with tokenizer.json, or vocab.json and merges.txt of a byte-level BPE.
        given: a tokenizer.json, or a vocab.json with its merges.txt beside it; only where the
            folder has none.

    Raises:
        UsageError: it cannot be read or does not fit the model.
    """
    place = next((path for path in (folder / TOKENIZER_FILE, folder / VOCABULARY)
                  if path.is_file()), None)  # fmt: skip
    if place is not None and given is not None:
        raise UsageError(
            f"--tokenizer {given} is not needed: there is {place}", remedy="Leave it out."
        )
    if given is not None and not given.is_file():
        raise UsageError(f"--tokenizer {given}: there is no such file")
    place = place or given
    if place is None:
        return None
    content = _byte_level_bpe(place) if place.name == VOCABULARY else place.read_bytes()
    return _fitted(content, place, config)


def free_ids(config: TextConfig) -> dict[str, int]:
    """The section of a model without a tokenizer: what is not known takes the usual or a free id.

    Raises:
        UsageError: there are too few ids.
    """
    ids = {"size": config.vocab_size, "pad_id": config.pad_token_id}
    usual = {
        "bos_id": config.bos_token_id,
        "eos_id": config.eos_token_id,
        "mask_id": config.vocab_size - 1,
        "unk_id": _USUAL_UNK,
    }
    for name, wanted in usual.items():
        taken = {value for key, value in ids.items() if key != "size"}
        free = (number for number in range(config.vocab_size) if number not in taken)
        ids[name] = wanted if wanted is not None and wanted not in taken else next(free)
    return ids


def _fitted(content: bytes, place: Path, config: TextConfig) -> FoundTokenizer:
    tokenizer = _parsed(content, place)
    size = max(tokenizer.get_vocab().values(), default=-1) + 1
    notes = []
    if size > config.vocab_size:
        raise UsageError(
            f"The tokenizer {place} has {size:,} tokens, and the model {config.vocab_size:,} rows",
            expected="a row for each token",
        )
    if size < config.vocab_size:
        # Rows beyond the tokenizer's are never looked up; ids for them let the two fit.
        fillers = [f"<unused-{number}>" for number in range(size, config.vocab_size)]
        tokenizer.add_special_tokens([AddedToken(name, special=True) for name in fillers])
        content = tokenizer.to_str().encode()
        notes.append(
            f"The tokenizer has {size:,} tokens and the model {config.vocab_size:,} rows: the "
            "others were given names that no text has."
        )
    ids = {"size": config.vocab_size, "pad_id": config.pad_token_id}
    for setting, names in SPECIAL_TOKENS.items():
        found = [number for name in names if (number := tokenizer.token_to_id(name)) is not None]
        if setting == "pad_id" and found and config.pad_token_id not in found:
            raise UsageError(
                f"config.json says that padding is {config.pad_token_id}, and in {place} it is "
                f"{found[0]}",
                expected="the same: positions are counted from there",
            )
        if found and setting != "pad_id":
            ids[setting] = found[0]
    _check(content, place, ids)
    return FoundTokenizer(content=content, ids=ids, notes=tuple(notes))


def _check(content: bytes, place: Path, ids: dict[str, int]) -> None:
    """Whether d2v can use it with these ids. Raises UsageError."""
    try:
        settings = TokenizerSettings.model_validate(ids)
    except ValidationError as error:
        raise UsageError(
            f"{place} does not fit d2v: {complaints(error)}",
            expected="the special tokens " + " ".join(name for name, *_ in SPECIAL_TOKENS.values()),
        ) from error
    parse_tokenizer(content, str(place), settings)


def _parsed(content: bytes, place: Path) -> Tokenizer:
    try:
        return Tokenizer.from_buffer(content)
    except Exception as error:  # tokenizers has no type of its own for this
        raise UsageError(
            f"{place} is not a tokenizer: {error}",
            expected=f"a {TOKENIZER_FILE}, or a {VOCABULARY} with its {MERGES} beside it",
        ) from error


def _byte_level_bpe(vocabulary: Path) -> bytes:
    """GPT-2's and RoBERTa's tokenizer out of the two files that its first version was kept in."""
    merges = vocabulary.with_name(MERGES)
    try:
        model = models.BPE.from_file(str(vocabulary), str(merges))
    except Exception as error:  # see above
        raise UsageError(
            f"{vocabulary} and {MERGES} beside it are no byte-level BPE: {error}",
            expected="both files, as GPT-2 and RoBERTa have them",
        ) from error
    told = read_json(vocabulary.with_name(TOKENIZER_CONFIG))
    tokenizer = Tokenizer(model)
    space = bool(told.get("add_prefix_space", False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    tokenizer.decoder = decoders.ByteLevel()
    known = [
        name
        for names in SPECIAL_TOKENS.values()
        for name in names
        if tokenizer.token_to_id(name) is not None
    ]
    tokenizer.add_special_tokens(known)
    return tokenizer.to_str().encode()
