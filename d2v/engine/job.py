"""One training, described: settings, parts and place."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from pydantic import Field, field_validator, model_validator

from d2v.core.schedules import Duration, Horizon
from d2v.engine.distributed import World
from d2v.engine.guards import GuardSettings
from d2v.engine.optim import OptimizerSettings
from d2v.errors import UsageError
from d2v.settings import Settings
from d2v.types import Batch, Mask, Objective


class TrainSettings(Settings):
    """Length, batch, optimiser and bookkeeping of one training."""

    section: ClassVar[str] = "pretrain"
    """What the recipe calls these settings, for messages."""

    steps: Duration = "800 epochs"
    """Length of the run: `3000`, `3000 steps` or `800 epochs`."""
    batch_size: int | None = Field(2048, ge=1)
    """Samples of one update, over all devices and micro-batches; null: `batch_length` decides."""
    batch_length: float | None = Field(None, gt=0)
    """Total length of one update's samples, each counted as the longest of them, in the modality's
    unit (seconds, tokens); samples of similar length come together. null: `batch_size` decides."""
    max_batch_per_device: int | None = Field(None, ge=1)
    """Largest micro-batch that fits one device; accumulation follows from it. null: no limit."""
    max_length_per_device: float | None = Field(None, gt=0)
    """The same for `batch_length`, in its unit; at least two of the longest samples. Samples divide
    unevenly: leave room for one more than `batch_length` shared by the devices."""
    max_length: float | None = Field(None, gt=0)
    """Longer samples are cropped at a random place, in the modality's unit; null: no limit."""
    length_mode: Literal["pad", "crop"] = "pad"
    """What makes samples of a batch equally long. pad: a micro-batch is padded to its longest;
    crop: the whole batch is cropped to its shortest, at random places."""
    optimizer: OptimizerSettings = OptimizerSettings()
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 autocast where the hardware has it and it pays, else float32."""
    log_every: int = Field(50, ge=1)
    """Updates between two logged steps."""
    checkpoint_every: Duration = "10 %"
    """Updates between two checkpoints."""
    keep_checkpoints: int = Field(2, ge=1)
    """Newest checkpoints kept, besides the best."""
    score_every: Duration | None = "10 epochs"
    """Time between two scores on held-out data (kNN, or the task's own); null for none."""
    patience: int | None = Field(None, ge=1)
    """Scores in a row without a better one after which training ends early; null: it never does."""
    guards: GuardSettings = GuardSettings()

    @field_validator("steps", "checkpoint_every", "score_every")
    @classmethod
    def _above_zero(cls, duration: str | None) -> str | None:
        if duration is not None and float(duration.split()[0]) == 0:
            raise ValueError("must be more than 0")
        return duration

    @field_validator("steps")
    @classmethod
    def _not_of_itself(cls, duration: str) -> str:
        if duration.endswith("%"):
            raise ValueError("the length of the run cannot be a share of itself: steps or epochs")
        return duration

    @model_validator(mode="before")
    @classmethod
    def _length_replaces_the_default(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("batch_length") is not None:
            return {"batch_size": None, **given}
        return given

    @model_validator(mode="after")
    def _check(self) -> "TrainSettings":
        if (self.batch_size is None) == (self.batch_length is None):
            given = "neither" if self.batch_size is None else "both"
            raise ValueError(
                f"of batch_size and batch_length, {given} of them are given; one says how much an "
                "update takes, and the other is null"
            )
        if self.batch_size is None and self.max_batch_per_device is not None:
            raise ValueError("max_batch_per_device goes with batch_size: set max_length_per_device")
        if self.batch_length is None and self.max_length_per_device is not None:
            raise ValueError("max_length_per_device goes with batch_length: set it, too")
        return self


@dataclass(frozen=True, kw_only=True)
class BatchCut:
    """How one global batch is cut: `world * accumulation * micro` samples."""

    micro: float
    """Samples of a micro-batch; the mean where batches are measured by length."""
    accumulation: int

    @staticmethod
    def of(
        batch_size: int, world_size: int, max_per_device: int | None, section: str = "pretrain"
    ) -> "BatchCut":
        """The fewest equal micro-batches that fit.

        Raises:
            UsageError: the batch cannot be divided evenly.
        """
        per_device, rest = divmod(batch_size, world_size)
        if rest or per_device == 0:
            raise UsageError(
                f"batch_size {batch_size} cannot be divided over {world_size} devices",
                expected=f"a multiple of {world_size}",
                remedy=f"Change {section}.batch_size or the number of devices.",
            )
        limit = max_per_device or per_device
        parts = math.ceil(per_device / limit)
        while per_device % parts:
            parts += 1
        return BatchCut(micro=per_device // parts, accumulation=parts)


class MicroBatches(Protocol):
    """Where the loop gets its data: one rank's micro-batches, in order, from any update on."""

    def iterate(self, start_step: int) -> Iterator[tuple[Batch, Mask | None]]:
        """Micro-batches from update `start_step` on, `accumulation` of them for each update."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training, ready to run."""

    stage: str
    objective: Objective
    data: MicroBatches
    cut: BatchCut
    settings: TrainSettings
    horizon: Horizon
    seed: int
    folder: Path
    world: World
    precision: Literal["float32", "bfloat16"] = "float32"
    """What the forward pass computes in; weights, targets and averages stay float32."""
    identity: dict[str, Any] = field(default_factory=dict)
    """Settings that make the architecture; kept in checkpoints to explain a mismatch."""
    identity_defaults: dict[str, Any] = field(default_factory=dict)
    """What these settings were in checkpoints from before there was a choice."""
    about: dict[str, Any] = field(default_factory=dict)
    """What the data say of themselves; kept in checkpoints for those who give them other data."""
    begin: Callable[[], None] | None = None
    """Called in each process before the first update where there is no checkpoint; weights are on
    the CPU then. Buffers that it sets must come out the same everywhere: they are not exchanged."""
    evaluate: Callable[[], dict[str, float]] | None = None
    """Scores of the present weights; the first one named picks the best checkpoint."""
    verbosity: int = 0

    @property
    def origin(self) -> dict[str, Any]:
        """What checkpoints tell of where their weights come from, as JSON."""
        return {"identity": self.identity, "about": self.about}

    def __post_init__(self) -> None:
        """Refuse a run without an update.

        Raises:
            UsageError: steps come to none.
        """
        if self.horizon.total_steps < 1:
            raise UsageError(
                f"{self.stage}: steps {self.settings.steps!r} is less than one update",
                expected="at least one",
                remedy="Give a number of steps, or epochs: '3000', '10 epochs'.",
            )
