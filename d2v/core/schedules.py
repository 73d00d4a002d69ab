"""Learning rate, weight decay and tau as functions of the step: numbers in, number out."""

import math
import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from d2v.settings import Settings

_DURATION = re.compile(r"(\d+(?:\.\d*)?(?:[eE]\d+)?)\s*(steps?|epochs?|%)?")


def _normalised_duration(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("a number of steps, or text such as '800 epochs', '5 %', '1000 steps'")
    match = _DURATION.fullmatch(str(value).strip())
    if match is None:
        raise ValueError(f"'{value}' is none of: 1000, '1000 steps', '10 epochs', '5 %'")
    number, unit = match.group(1), match.group(2) or "steps"
    unit = unit if unit == "%" else unit.rstrip("s") + "s"
    if not math.isfinite(float(number)):
        raise ValueError(f"{number} is too large")
    if unit == "steps" and not float(number).is_integer():
        raise ValueError(f"{number} is not a whole number of steps")
    return f"{number} {unit}"


Duration = Annotated[str, BeforeValidator(_normalised_duration)]
"""A length of training: `1000` or `1000 steps`, `10 epochs`, `5 %` (of the whole run)."""


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """How long the run is: total optimiser updates, and updates in one pass over the data."""

    total_steps: int
    steps_per_epoch: float

    def steps(self, duration: str) -> int:
        """A duration in optimiser updates, rounded to the nearest."""
        number, unit = duration.split()
        factor = {
            "steps": 1.0,
            "epochs": self.steps_per_epoch,
            "%": self.total_steps / 100,
        }[unit]
        return round(float(number) * factor)


class LearningRateSettings(Settings):
    """How the learning rate moves over the run (reference section 7)."""

    schedule: Literal["cosine", "tri_stage_exponential", "tri_stage_linear", "constant"] = "cosine"
    """cosine: to `final_scale`; tri_stage: warm-up, hold, then exponential or linear decay."""
    warmup: Duration = "5 %"
    """Linear rise to the peak."""
    warmup_start_scale: float = Field(0.0, ge=0, le=1)
    """Where the warm-up starts, as a share of the peak (tri-stage of the paper: 0.01)."""
    hold: Duration = "0 steps"
    """Tri-stage: time at the peak after warm-up."""
    final_scale: float = Field(0.005, ge=0, le=1)
    """Where the decay ends, as a share of the peak (published ViT-B: 1e-5 / 2e-3)."""


def learning_rate_scale(step: int, settings: LearningRateSettings, horizon: Horizon) -> float:
    """Share of the peak learning rate for update `step` (0-based).

    Cosine: final + (1 - final) * (1 + cos(pi * t)) / 2 after a linear warm-up. Tri-stage: warm-up,
    hold, then final ** t (exponential, as published) or linear to `final_scale`; t runs 0..1 over
    what is left of the run. Source: reference section 7.
    """
    warmup = horizon.steps(settings.warmup)
    if step < warmup:
        start = settings.warmup_start_scale
        return start + (1 - start) * step / warmup
    if settings.schedule == "constant":
        return 1.0
    hold = 0 if settings.schedule == "cosine" else horizon.steps(settings.hold)
    decay_steps = horizon.total_steps - warmup - hold
    t = min(1.0, max(0.0, (step - warmup - hold) / decay_steps)) if decay_steps > 0 else 0.0
    final = settings.final_scale
    if settings.schedule == "cosine":
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * t))
    if settings.schedule == "tri_stage_exponential":
        return float(final**t)
    return 1 + (final - 1) * t


def weight_decay(step: int, *, start: float, end: float, total_steps: int) -> float:
    """Cosine from start to end over the run; constant where both are equal."""
    t = min(1.0, step / max(1, total_steps))
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * t))


class TauSettings(Settings):
    """How the teacher's decay moves over the run (reference section 1.1)."""

    schedule: Literal["constant", "linear"] = "constant"
    """constant: `tau_e` throughout, as in the published vision runs; linear: tau_0 to tau_e."""
    tau_0: float = Field(0.999, ge=0, le=1)
    """Decay at update 0 (linear only)."""
    tau_e: float = Field(0.9998, ge=0, le=1)
    """Decay at the end."""
    tau_n: Duration = "100 %"
    """When the linear rise ends."""


def ema_decay(step: int, settings: TauSettings, horizon: Horizon) -> float:
    """Tau for the teacher's update number `step`: linear tau_0 to tau_e over tau_n, then tau_e."""
    anneal_steps = horizon.steps(settings.tau_n)
    if settings.schedule == "constant" or step >= anneal_steps:
        return settings.tau_e
    return settings.tau_0 + (settings.tau_e - settings.tau_0) * step / anneal_steps
