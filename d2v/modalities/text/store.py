"""A text as somebody has it to token ids as shards hold them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from tokenizers import Tokenizer
from torch import Tensor

from d2v.errors import BadSampleError
from d2v.modalities.base import Summarised
from d2v.modalities.text.blocks import contiguous, single, whole_sentences
from d2v.modalities.text.items import CONTINUED, is_document, read_texts
from d2v.modalities.text.sentences import lines, pieces, sentences
from d2v.modalities.text.tokenizer import (
    TOKENIZER_FILE,
    TokenizerSettings,
    load_tokenizer,
    token_ids,
)
from d2v.samples import SourceItem, StoredSample
from d2v.settings import Settings

MEMBER = "tokens.npy"
"""Extension of what is stored: a one-dimensional array of token ids."""
_SMALL = 1 << 16
"""Up to so many tokens their ids fit into 16 bits."""


class StoreSettings(Settings):
    """How documents become samples (reference section 2.3)."""

    blocks: Literal["sentences", "contiguous"] = "sentences"
    """Whole sentences of one document, each ended by `</s>`, as many as fit; or one document's
    tokens in a row, cut wherever a sample is full. Never two documents in one sample."""
    block_tokens: int = Field(512, ge=8)
    """Longest sample in tokens, `<s>` included. A text with a label, or a pair, is cut to it."""


def encode_text(
    item: SourceItem, store: StoreSettings, tokenizer: TokenizerSettings, folder: Path
) -> list[StoredSample]:
    """The samples of a document, or the one of a labelled text or a pair.

    Args:
        item: from `read_source`.
        store: settings.
        tokenizer: settings.
        folder: where `learn_tokenizer` wrote.

    Raises:
        BadSampleError: empty, one token, or not UTF-8.
        OSError: cannot be read.
    """
    texts = read_texts(item)
    if not all(text.strip() for text in texts):
        raise BadSampleError("empty: no text")
    loaded = load_tokenizer(folder, tokenizer)
    ids = [_ids(loaded, stretch) for stretch in stretches(item, texts, store)]
    blocks, warnings = _blocks(ids, store, tokenizer, is_whole=not is_document(item))
    counts = {
        "documents": 0.0 if CONTINUED in item.details else 1.0,
        "sentences": float(sum(1 for text in texts for _ in sentences(text))),
    }
    return [
        StoredSample(
            members={MEMBER: stored_ids(block, tokenizer.size)},
            length=len(block),
            totals={**({} if number else counts), "tokens": float(len(block))},
            warnings=warnings,
        )
        for number, block in enumerate(blocks)
    ]


def _blocks(
    ids: list[list[int]], store: StoreSettings, tokenizer: TokenizerSettings, *, is_whole: bool
) -> tuple[list[list[int]], tuple[str, ...]]:
    """Samples, and what is odd about them. Raises BadSampleError."""
    ends = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id}
    num_tokens = sum(map(len, ids))
    if num_tokens == 0 or (is_whole and not all(ids)):
        raise BadSampleError("empty: no token")
    if is_whole:
        is_cut = num_tokens + 2 * len(ids) > store.block_tokens
        warnings = (f"cut to block_tokens={store.block_tokens}",) if is_cut else ()
        return [single(ids, store.block_tokens, **ends)], warnings
    if num_tokens == 1:
        raise BadSampleError("one token: there is nothing to predict it from")
    cut = contiguous if store.blocks == "contiguous" else whole_sentences
    return list(cut(ids, store.block_tokens, **ends)), ()


def stretches(item: SourceItem, texts: list[str], store: StoreSettings) -> Iterator[list[str]]:
    """What the tokenizer gets of an item: sentences, lines or whole texts.

    Each comes as a list, in which what is too long for the tokenizer is cut.
    """
    for text in texts:
        if not is_document(item):
            yield list(pieces(" ".join(text.split())))
        elif store.blocks == "contiguous":
            yield from (list(pieces(line)) for line in lines(text.strip()))
        else:
            yield from (list(pieces(sentence)) for sentence in sentences(text))


def stored_ids(ids: list[int], num_tokens: int) -> bytes:
    """What a sample's member holds: NumPy's own format, with numbers alone and no pickle.

    Args:
        ids: of one sample.
        num_tokens: of the tokenizer; up to 65,536 an id takes 16 bits, else 32.
    """
    content = io.BytesIO()
    dtype = np.uint16 if num_tokens <= _SMALL else np.int32
    np.save(content, np.array(ids, dtype), allow_pickle=False)
    return content.getvalue()


def read_tokens(parts: Mapping[str, bytes], tokenizer: TokenizerSettings) -> Tensor:
    """The ids that a sample holds: (T,) int64.

    Args:
        parts: extension -> content.
        tokenizer: settings; an id beyond its size is damage.

    Raises:
        BadSampleError: no tokens among the members, or damaged.
    """
    if MEMBER not in parts:
        raise BadSampleError(f"no {MEMBER} among its members ({', '.join(parts)})")
    try:
        ids = np.load(io.BytesIO(parts[MEMBER]), allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise BadSampleError(f"damaged tokens: {error}") from error
    if not isinstance(ids, np.ndarray) or ids.dtype not in (np.uint16, np.int32) or ids.ndim != 1:
        raise BadSampleError("damaged tokens: not a row of 16 or 32 bit numbers")
    if ids.size == 0 or ids.min() < 0 or ids.max() >= tokenizer.size:
        raise BadSampleError(f"damaged tokens: none, or ids outside 0..{tokenizer.size - 1}")
    return torch.from_numpy(ids.astype(np.int64))


def summarise_texts(totals: Mapping[str, Mapping[str, float]], folder: Path) -> Summarised:
    """Documents, sentences and tokens of every split; the tokenizer, to lie beside them.

    Args:
        totals: split -> name -> sum.
        folder: where `learn_tokenizer` wrote.
    """
    return Summarised(
        lines=[
            f"{split}: "
            + ", ".join(f"{sums.get(n, 0):,.0f} {n}" for n in ("documents", "sentences", "tokens"))
            for split, sums in totals.items()
        ],
        files={TOKENIZER_FILE: (folder / TOKENIZER_FILE).read_bytes()},
    )


def _ids(tokenizer: Tokenizer, stretch: list[str]) -> list[int]:
    return [number for piece in stretch for number in token_ids(tokenizer, piece)]
