"""The settings of preparing."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from d2v.data.amounts import ALL, NAME, Amount
from d2v.settings import Settings


class PrepareSettings(Settings):
    """How a source becomes shards."""

    shard_samples: int = Field(10_000, ge=1)
    """Samples in a shard, at most, unless a single input gives more: they stay together."""
    shard_megabytes: float = Field(256, gt=0)
    """Size of a shard in 10^6 bytes, at most, unless a single input gives more."""
    val_fraction: float = Field(0.1, ge=0, lt=1)
    """Part of the train items that becomes val, where the source has no val of its own."""
    test_fraction: float = Field(0.0, ge=0, lt=1)
    """Part of the train items that becomes test, where the source has no test of its own."""
    split_by: Literal["auto", "group", "sample"] = "auto"
    """What val and test are drawn in: whole groups (persons, say) where the source names them, else
    item by item; group insists on groups, sample ignores them."""
    duplicates: Literal["keep", "drop"] = "keep"
    """Inputs with the same bytes as an earlier one (test before val before train, so that dropping
    never lets a test item stay in train): stored all the same, or left out. Listed either way."""
    subsets: dict[str, Amount] = {}
    """Name -> part of the train split that fine-tuning may be limited to, the smaller within the
    larger: `10 %`, `20 a class`, or a total length in the modality's unit (`600 seconds`). They can
    be changed when all is prepared."""
    workers: int = Field(0, ge=0)
    """Encoder processes; 0 encodes in this process. Does not change the bytes."""

    @field_validator("subsets")
    @classmethod
    def _are_names(cls, subsets: dict[str, str]) -> dict[str, str]:
        for name in subsets:
            if name == ALL or not NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} cannot name a subset: names are letters, digits, _ and -, and "
                    f"{ALL!r} is the whole split"
                )
        return subsets

    @model_validator(mode="after")
    def _leave_something_for_train(self) -> PrepareSettings:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction + test_fraction must be below 1")
        return self
