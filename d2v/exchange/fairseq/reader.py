"""Checkpoints of fairseq's data2vec models of speech and text, and of 2.0 (reference section 5)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from d2v.errors import UsageError
from d2v.exchange.data2vec2.look import is_second
from d2v.exchange.data2vec2.reader import read_second
from d2v.exchange.fairseq.settings import told_settings
from d2v.exchange.fairseq.speech import is_speech, read_speech
from d2v.exchange.fairseq.text import is_text, read_text
from d2v.exchange.foreign import Foreign


def is_fairseq(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of one of fairseq's models: speech, text, or any of 2.0."""
    return is_speech(tensors) or is_text(tensors) or is_second(tensors)


def read_fairseq(
    path: Path,
    content: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    num_heads: int | None,
    tokenizer: Path | None,
) -> Foreign:
    """A model of speech or text, or of 2.0.

    Args:
        path: of the file, for errors.
        content: of the file: `model`, and `cfg` or `args`, as far as they are there.
        tensors: of its model, flat; `is_fairseq` holds.
        num_heads: where the user says.
        tokenizer: of a model of text.

    Raises:
        UsageError: d2v cannot express it, or an option does not fit.
    """
    place = str(path)
    if is_second(tensors):
        return read_second(place, content, tensors, num_heads=num_heads, tokenizer=tokenizer)
    told = told_settings(content)
    if is_text(tensors):
        return read_text(place, tensors, told, num_heads=num_heads, tokenizer=tokenizer)
    if tokenizer is not None:
        raise UsageError(f"--tokenizer {tokenizer} means nothing to speech", remedy="Leave it out.")
    return read_speech(place, content, tensors, told, num_heads=num_heads)
