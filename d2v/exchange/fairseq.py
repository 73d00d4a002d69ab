"""Checkpoints of fairseq's first data2vec models (reference section 5)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from d2v.errors import UsageError
from d2v.exchange.fairseq_settings import told_settings
from d2v.exchange.fairseq_speech import is_speech, read_speech
from d2v.exchange.fairseq_text import is_text, read_text
from d2v.exchange.foreign import Foreign

_SECOND = "modality_encoders."


def is_fairseq(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of one of fairseq's speech or text models, or a second one."""
    return is_speech(tensors) or is_text(tensors) or _is_second(tensors)


def read_fairseq(
    path: Path,
    content: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    num_heads: int | None,
    tokenizer: Path | None,
) -> Foreign:
    """A model of speech or text.

    Args:
        path: of the file, for errors.
        content: of the file: `model`, and `cfg` or `args`, as far as they are there.
        tensors: of its model, flat; `is_fairseq` holds.
        num_heads: where the user says.
        tokenizer: of a model of text.

    Raises:
        UsageError: a model of data2vec 2.0, one that d2v cannot express, or a wrong option.
    """
    place = str(path)
    if _is_second(tensors):
        raise UsageError(
            f"{place} is a model of data2vec 2.0: it has {_SECOND}*",
            expected="a model of the first data2vec; the second is not in d2v",
        )
    told = told_settings(content)
    if is_text(tensors):
        return read_text(place, tensors, told, num_heads=num_heads, tokenizer=tokenizer)
    if tokenizer is not None:
        raise UsageError(f"--tokenizer {tokenizer} means nothing to speech", remedy="Leave it out.")
    return read_speech(place, content, tensors, told, num_heads=num_heads)


def _is_second(tensors: Mapping[str, Tensor]) -> bool:
    return any(_SECOND in name for name in tensors)
