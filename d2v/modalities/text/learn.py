"""The tokenizer that a data set gets: byte-level BPE of its own, or one that is there already."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from d2v.errors import BadSampleError, D2VError, UsageError
from d2v.modalities.text.items import read_texts
from d2v.modalities.text.store import StoreSettings, stretches
from d2v.modalities.text.tokenizer import (
    SPECIAL_TOKENS,
    TOKENIZER_FILE,
    TokenizerSettings,
    load_tokenizer,
    parse_tokenizer,
)
from d2v.samples import SourceItem

MIN_FREQUENCY = 2
"""A pair seen once becomes no token (as in GPT-2-like training with Hugging Face's defaults)."""


def learn_tokenizer(
    items: Callable[[], Iterable[SourceItem]],
    tokenizer: TokenizerSettings,
    store: StoreSettings,
    folder: Path,
) -> None:
    """Write `folder/tokenizer.json`; where it is there already, only check that it fits.

    Args:
        items: what pre-training reads. Texts that the source itself puts into val or test are left
            alone. Where those splits are drawn, by `prepare.val_fraction` say, they are not known
            yet, and their texts are among the others; no label is read.
        tokenizer: settings.
        store: settings; the trainer sees texts in the same portions as the tokenizer will.
        folder: made where it is missing.

    Raises:
        UsageError: the tokenizer does not fit its settings, or the data supports no such.
        D2VError: the file cannot be written.
    """
    path = folder / TOKENIZER_FILE
    if path.exists():
        load_tokenizer(folder, tokenizer)
        return
    if tokenizer.path is None:
        content = _trained(items, tokenizer, store)
    else:
        content = _existing(tokenizer.path)
    parse_tokenizer(content, str(tokenizer.path or path), tokenizer)
    try:
        _write(path, content)
    except OSError as error:
        raise D2VError(
            f"Cannot write {path}: {error.strerror}", remedy="Make room, then start again."
        ) from error


def _existing(path: Path) -> bytes:
    try:
        return path.expanduser().read_bytes()
    except OSError as error:
        raise UsageError(
            f"The tokenizer {path} cannot be read: {error.strerror}",
            remedy="Set modality.tokenizer.path to a tokenizer.json, or to null to train one.",
        ) from error


def _trained(
    items: Callable[[], Iterable[SourceItem]], settings: TokenizerSettings, store: StoreSettings
) -> bytes:
    """GPT-2's byte-level BPE without its leading space, `<mask>` behind all other tokens.

    The same texts give the same bytes: counts are sums, and ties are broken by the tokens' ids.
    """
    _check_ids(settings)
    *first, (mask, _) = SPECIAL_TOKENS.values()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.size - 1,
        min_frequency=MIN_FREQUENCY,
        special_tokens=[name for name, _ in first],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    seen = _Texts(items, store)
    tokenizer.train_from_iterator(seen, trainer)
    if not seen.count:
        raise UsageError(
            "There is no text to train a tokenizer on",
            expected="readable documents outside val and test",
            remedy="Check data.source, or set modality.tokenizer.path to a tokenizer.json.",
        )
    supported = tokenizer.get_vocab_size() + 1
    if supported < settings.size:
        raise UsageError(
            f"The data supports a vocabulary of {supported:,} tokens, not of {settings.size:,}",
            expected=f"{settings.size:,} tokens that occur {MIN_FREQUENCY} times or more",
            remedy=f"Set modality.tokenizer.size={supported} or less, or give more text.",
        )
    tokenizer.add_special_tokens([mask])
    return tokenizer.to_str().encode()


def _check_ids(settings: TokenizerSettings) -> None:
    ours = (0, 1, 2, 3, settings.size - 1)
    if settings.special_ids != ours:
        raise UsageError(
            f"A tokenizer that d2v trains has its special tokens at {ours}, and the settings say "
            f"{settings.special_ids}",
            remedy="Leave modality.tokenizer.*_id out, or set modality.tokenizer.path.",
        )


class _Texts:
    """What the tokenizer is trained on, and how many texts that were."""

    def __init__(self, items: Callable[[], Iterable[SourceItem]], store: StoreSettings) -> None:
        self._items, self._store = items, store
        self.count = 0

    def __iter__(self) -> Iterator[str]:
        for item in self._items():
            if item.problem is not None or item.split in ("val", "test"):
                continue
            # What cannot be read is turned away when it is encoded, with its reason.
            with suppress(BadSampleError, OSError):
                for stretch in stretches(item, read_texts(item), self._store):
                    self.count += 1
                    yield from stretch


def _write(path: Path, content: bytes) -> None:
    """All of it or nothing, even when the power fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
