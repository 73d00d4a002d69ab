"""The tokenizer: trained on the data or loaded, and where its special tokens stand."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from d2v.settings import Settings


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
