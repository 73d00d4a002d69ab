"""A recipe: one experiment, all its sections."""

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from d2v.core.encoder import EncoderSettings
from d2v.core.probing import ProbeSettings
from d2v.data.prepare import PrepareSettings
from d2v.data2vec import Data2VecSettings
from d2v.engine.job import TrainSettings
from d2v.modalities import ModalitySettings, SourceSettings
from d2v.settings import Settings

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*(/[A-Za-z0-9_][A-Za-z0-9_.\-]*)*")


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


class PretrainSettings(TrainSettings):
    """The pretrain section."""

    checkpoint: Path | None = None
    """For later stages: use this checkpoint or run directory instead of the run's own."""
    init_from: Path | None = None
    """Start from this checkpoint's student (and a fresh teacher copied from it)."""
    probe_samples: int = Field(5000, ge=100)
    """Train samples that the kNN score during training compares with."""

    @field_validator("steps", "checkpoint_every")
    @classmethod
    def _above_zero(cls, duration: str) -> str:
        if float(duration.split()[0]) == 0:
            raise ValueError("must be more than 0")
        return duration

    @field_validator("steps")
    @classmethod
    def _not_of_itself(cls, duration: str) -> str:
        if duration.endswith("%"):
            raise ValueError("the length of the run cannot be a share of itself: steps or epochs")
        return duration


class Recipe(Settings):
    """One experiment, from raw data to scores."""

    name: str
    """Names the run directory; slashes make folders."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Fixes every random draw of the run."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""
    modality: ModalitySettings
    encoder: EncoderSettings = EncoderSettings()
    objective: Data2VecSettings = Data2VecSettings()
    data: DataSettings = DataSettings()
    prepare: PrepareSettings | None = None
    pretrain: PretrainSettings | None = None
    probe: ProbeSettings | None = None

    @field_validator("name")
    @classmethod
    def _is_folder_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(
                "a name is letters, digits, _ - and . (not in front), in parts separated by /; it "
                "names the run directory"
            )
        return name

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        if self.objective.top_k > self.encoder.depth:
            raise ValueError(
                f"objective.top_k {self.objective.top_k} is more than encoder.depth "
                f"{self.encoder.depth}: there are not so many blocks to average"
            )
        self.modality.check_encoder(self.encoder)
        if self.probe is not None:
            self._check_probe(self.probe)
        return self

    def _check_probe(self, probe: ProbeSettings) -> None:
        if probe.block is not None and probe.block > self.encoder.depth:
            raise ValueError(
                f"probe.block {probe.block} is more than encoder.depth {self.encoder.depth}"
            )
        if probe.pool in ("cls", "mean_cls") and not self.modality.has_cls:
            raise ValueError(f"probe.pool {probe.pool} needs a CLS token, and there is none")

    def data_set(self, stage: Literal["pretrain", "probe"]) -> tuple[str, DataSet]:
        """The set that a stage reads, and its name among the prepared ones."""
        own = getattr(self.data, stage)
        return (stage, own) if own is not None else ("common", self.data)

    def data_sets(self) -> dict[str, DataSet]:
        """Every set that the recipe's stages read, by name."""
        stages: tuple[Literal["pretrain", "probe"], ...] = ("pretrain", "probe")
        return dict(self.data_set(stage) for stage in stages if getattr(self, stage) is not None)
