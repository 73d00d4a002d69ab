"""One training, described: settings, parts and place."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field

from d2v.core.schedules import Duration, Horizon
from d2v.engine.distributed import World
from d2v.engine.guards import GuardSettings
from d2v.engine.optim import OptimizerSettings
from d2v.errors import UsageError
from d2v.settings import Settings
from d2v.types import Batch, Mask, Objective


class TrainSettings(Settings):
    """Length, batch, optimiser and bookkeeping of one training."""

    steps: Duration = "800 epochs"
    """Length of the run: `3000`, `3000 steps` or `800 epochs`."""
    batch_size: int = Field(2048, ge=1)
    """Samples of one update, over all devices and micro-batches."""
    max_batch_per_device: int | None = Field(None, ge=1)
    """Largest micro-batch that fits one device; accumulation follows from it. null: no limit."""
    optimizer: OptimizerSettings = OptimizerSettings()
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 autocast where the hardware has it and it pays, else float32."""
    log_every: int = Field(50, ge=1)
    """Updates between two logged steps."""
    checkpoint_every: Duration = "10 %"
    """Updates between two checkpoints."""
    keep_checkpoints: int = Field(2, ge=1)
    """Newest checkpoints kept, besides the best."""
    probe_every: float | None = Field(10, gt=0)
    """Epochs between two kNN scores on held-out data; null for none."""
    guards: GuardSettings = GuardSettings()


@dataclass(frozen=True, kw_only=True)
class BatchCut:
    """How one global batch is cut: `world * accumulation * micro` samples."""

    micro: int
    accumulation: int

    @staticmethod
    def of(batch_size: int, world_size: int, max_per_device: int | None) -> "BatchCut":
        """The fewest equal micro-batches that fit.

        Raises:
            UsageError: the batch cannot be divided evenly.
        """
        per_device, rest = divmod(batch_size, world_size)
        if rest or per_device == 0:
            raise UsageError(
                f"batch_size {batch_size} cannot be divided over {world_size} devices",
                expected=f"a multiple of {world_size}",
                remedy="Change pretrain.batch_size or the number of devices.",
            )
        limit = max_per_device or per_device
        parts = math.ceil(per_device / limit)
        while per_device % parts:
            parts += 1
        return BatchCut(micro=per_device // parts, accumulation=parts)


class MicroBatches(Protocol):
    """Where the loop gets its data: one rank's micro-batches, in order, from any update on."""

    def iterate(self, start_step: int) -> Iterator[tuple[Batch, Mask]]:
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
    evaluate: Callable[[], dict[str, float]] | None = None
    """Scores of the present weights; the first one named picks the best checkpoint."""
    verbosity: int = 0

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
