"""Whether shards and settings belong together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from d2v.errors import UsageError
from d2v.modalities.text.frontend import FrontendSettings
from d2v.modalities.text.tokenizer import SPECIAL_TOKENS, TokenizerSettings

_ANEW = "or prepare the data with these settings"


def check_data(
    about: Mapping[str, Any],
    tokenizer: TokenizerSettings,
    frontend: FrontendSettings,
) -> None:
    """Refuse shards whose ids mean something else, or whose samples are too long.

    Args:
        about: of the shards.
        tokenizer: settings.
        frontend: settings.

    Raises:
        UsageError: they do not fit; says which setting to change.
    """
    if "tokens" not in about:
        raise UsageError(
            "The shards do not say which tokenizer made them",
            expected="shards of texts, prepared by d2v",
            remedy="Check data.shards and modality.name.",
        )
    if about["tokens"] != tokenizer.size:
        raise UsageError(
            f"The shards hold ids of a tokenizer with {about['tokens']:,} tokens, and "
            f"modality.tokenizer.size is {tokenizer.size:,}",
            remedy=f"Set modality.tokenizer.size={about['tokens']}, {_ANEW}.",
        )
    for setting, stored, ours in zip(
        SPECIAL_TOKENS, about["special_ids"], tokenizer.special_ids, strict=True
    ):
        if stored != ours:
            raise UsageError(
                f"In the shards {SPECIAL_TOKENS[setting][0]} has the id {stored}, and "
                f"modality.tokenizer.{setting} says {ours}",
                remedy=f"Set modality.tokenizer.{setting}={stored}, {_ANEW}.",
            )
    if about["block_tokens"] > frontend.max_tokens:
        raise UsageError(
            f"The shards hold samples of up to {about['block_tokens']} tokens, and "
            f"modality.frontend.max_tokens is {frontend.max_tokens}",
            remedy=f"Set modality.frontend.max_tokens={about['block_tokens']}, or prepare the data "
            "with a smaller modality.store.block_tokens.",
        )
