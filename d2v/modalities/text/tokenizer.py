"""The tokenizer: trained on the data or loaded, and where its special tokens stand."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator
from tokenizers import Tokenizer

from d2v.errors import UsageError
from d2v.settings import Settings

TOKENIZER_FILE = "tokenizer.json"
"""In the folder of what was learned, and beside the splits of every prepared set."""
SPECIAL_TOKENS = {
    "bos_id": ("<s>", "[CLS]"),
    "pad_id": ("<pad>", "[PAD]"),
    "eos_id": ("</s>", "[SEP]"),
    "unk_id": ("<unk>", "[UNK]"),
    "mask_id": ("<mask>", "[MASK]"),
}
"""Setting -> names of the token: ours and RoBERTa's, BERT's."""


class TokenizerSettings(Settings):
    """Which tokens there are (reference section 2.3; defaults: GPT-2's in fairseq's order)."""

    path: Path | None = None
    """A `tokenizer.json`; null: byte-level BPE is trained on what pre-training reads."""
    size: int = Field(50_265, ge=261)
    """Tokens, special ones included: 256 bytes and five special tokens at least."""
    bos_id: int = Field(0, ge=0)
    """Of `<s>`, which begins every sample."""
    pad_id: int = Field(1, ge=0)
    """Of `<pad>`."""
    eos_id: int = Field(2, ge=0)
    """Of `</s>`, which ends every text."""
    unk_id: int = Field(3, ge=0)
    """Of `<unk>`."""
    mask_id: int | None = Field(None, ge=0)
    """Of `<mask>`; null: the last one."""

    @model_validator(mode="after")
    def _check(self) -> TokenizerSettings:
        ids = self.special_ids
        if len(set(ids)) < len(ids) or max(ids) >= self.size:
            raise ValueError(f"special tokens need five different ids below {self.size}: {ids}")
        return self

    @property
    def mask(self) -> int:
        """Id of `<mask>`."""
        return self.size - 1 if self.mask_id is None else self.mask_id

    @property
    def special_ids(self) -> tuple[int, int, int, int, int]:
        """Of `<s> <pad> </s> <unk> <mask>`."""
        return self.bos_id, self.pad_id, self.eos_id, self.unk_id, self.mask


def parse_tokenizer(content: bytes, place: str, settings: TokenizerSettings) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`, set to add, cut and pad nothing by itself.

    What looks like a special token in a text is taken for ordinary characters: a document that
    writes of `<s>` or `<mask>` must not begin a sample or mask anything.

    Args:
        content: of the file.
        place: its path, for errors.
        settings: which it must fit.

    Raises:
        UsageError: not a tokenizer, or it does not fit the settings.
    """
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # tokenizers has no type of its own for this
        raise UsageError(
            f"{place} is not a tokenizer: {error}",
            expected="a tokenizer.json of Hugging Face's tokenizers",
            remedy="Set modality.tokenizer.path to one, or to null to train one.",
        ) from error
    _check_fit(tokenizer, place, settings)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def load_tokenizer(folder: Path, settings: TokenizerSettings) -> Tokenizer:
    """The tokenizer that `learn` left in a folder; kept in memory as long as the file is the same.

    Raises:
        UsageError: it is not there, or does not fit the settings.
    """
    path = folder / TOKENIZER_FILE
    try:
        state = path.stat()
    except OSError as error:
        raise UsageError(
            f"There is no tokenizer: {path} cannot be read ({error.strerror})",
            remedy="Run d2v prepare with --fresh.",
        ) from error
    return _loaded(path, state.st_mtime_ns, state.st_size, settings)


def token_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text, without special tokens."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def about_tokenizer(folder: Path, settings: TokenizerSettings) -> dict[str, Any]:
    """What a reader of the shards must know of the ids in them, as JSON."""
    load_tokenizer(folder, settings)
    return {
        "tokenizer_sha256": hashlib.sha256((folder / TOKENIZER_FILE).read_bytes()).hexdigest(),
        "tokens": settings.size,
        "special_ids": list(settings.special_ids),
    }


@lru_cache(maxsize=4)
def _loaded(path: Path, mtime_ns: int, size: int, settings: TokenizerSettings) -> Tokenizer:
    del mtime_ns, size  # a file that changed is another file
    return parse_tokenizer(path.read_bytes(), str(path), settings)


def _check_fit(tokenizer: Tokenizer, place: str, settings: TokenizerSettings) -> None:
    size = max(tokenizer.get_vocab().values(), default=-1) + 1
    if size != settings.size:
        raise UsageError(
            f"The tokenizer {place} has {size:,} tokens and modality.tokenizer.size is "
            f"{settings.size:,}",
            remedy=f"Set modality.tokenizer.size={size}.",
        )
    for (setting, names), wanted in zip(SPECIAL_TOKENS.items(), settings.special_ids, strict=True):
        found = {name: tokenizer.token_to_id(name) for name in names}
        ids = {name: number for name, number in found.items() if number is not None}
        if not ids:
            raise UsageError(
                f"The tokenizer {place} has no token {names[0]} (nor {names[1]})",
                expected=" ".join(["the special tokens", *(o for o, _ in SPECIAL_TOKENS.values())]),
                remedy="Add it to the tokenizer, or set modality.tokenizer.path=null to train one.",
            )
        if wanted not in ids.values():
            name, number = next(iter(ids.items()))
            raise UsageError(
                f"In the tokenizer {place} the token {name} has id {number}, and "
                f"modality.tokenizer.{setting} says {wanted}",
                remedy=f"Set modality.tokenizer.{setting}={number}.",
            )
