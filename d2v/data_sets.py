"""The sets of data that a recipe names."""

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from d2v.modalities import SourceSettings


class DataSet(SourceSettings):
    """One set of data: raw and prepared."""

    shards: Path | None = None
    """Folder of already prepared shards (with train/, val/, ...); null: what `prepare` wrote."""


class DataSettings(DataSet):
    """The data of all stages, or a set for each."""

    pretrain: DataSet | None = None
    """What pre-training reads, where it is not the common set."""
    probe: DataSet | None = None
    """What the probe reads, where it is not the common set."""
    finetune: DataSet | None = None
    """What fine-tuning reads, where it is not the common set."""
    tests: dict[str, DataSet] = {}
    """Further test sets by name, scored at the end of fine-tuning beside test."""
    workers: int | None = Field(None, ge=0)
    """Processes that read ahead while training; null: one for each spare core, at most 8."""
    max_bad_fraction: float = Field(0.01, ge=0, le=1)
    """Share of a split's samples that may be unusable before a run stops."""
    verify: Literal["auto", "hash", "size"] = "auto"
    """Check of the shards before a stage: every byte or only sizes; auto: hash below 2 GB."""
    num_train_samples: int | None = Field(None, ge=1)
    """For `--dry-run` before the data is there."""
    mean_train_length: float | None = Field(None, gt=0)
    """Likewise: a training sample's mean length, in the modality's unit (seconds, tokens)."""

    @field_validator("tests")
    @classmethod
    def _are_folder_names(cls, tests: dict[str, DataSet]) -> dict[str, DataSet]:
        if wrong := [name for name in tests if not re.fullmatch("[A-Za-z0-9_-]+", name)]:
            raise ValueError(f"{wrong[0]!r} cannot name a test set: letters, digits, _ and - do")
        return tests
