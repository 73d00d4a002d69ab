"""Stop a run that has nothing left to learn: non-finite numbers, collapse."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from d2v.core.schedules import Duration, Horizon
from d2v.errors import GuardError
from d2v.settings import Settings
from d2v.types import Guard


class GuardSettings(Settings):
    """When guards look and how patient they are."""

    action: Literal["stop", "warn", "off"] = "stop"
    """stop: end the run with exit code 3; warn: say so and go on; off: do not look."""
    after: Duration = "5 %"
    """Collapse guards are silent before this: young targets are small."""
    patience: int = Field(3, ge=1)
    """Logged steps in a row below the floor before a guard fires."""


class Guards:
    """Counts how often each monitor was below its floor."""

    def __init__(self, settings: GuardSettings, guards: Sequence[Guard], horizon: Horizon) -> None:
        self.settings, self.guards = settings, guards
        self.first_step = horizon.steps(settings.after)
        self.strikes: Counter[str] = Counter()
        self.warned_of_infinity = False

    def check_finite(self, step: int, figures: Mapping[str, float]) -> str | None:
        """Loss and gradient norm of one update.

        Returns:
            A warning, once, where the action is to warn.

        Raises:
            GuardError: one of them is NaN or infinite, and the action is to stop.
        """
        bad = [name for name, value in figures.items() if not math.isfinite(value)]
        if not bad or self.settings.action == "off" or self.warned_of_infinity:
            return None
        self.warned_of_infinity = True
        error = GuardError(
            f"Step {step}: {' and '.join(bad)} not finite "
            f"({', '.join(f'{name} = {figures[name]}' for name in bad)})",
            expected="finite numbers",
            remedy="Lower the learning rate, clip the gradient (optimizer.clip_norm), "
            f"lengthen the warm-up, or use precision float32.{self._kept()}",
        )
        return self._answer(error)

    def check_collapse(self, step: int, monitors: Mapping[str, float]) -> str | None:
        """Monitors of a logged step.

        Returns:
            A warning where the action is to warn.

        Raises:
            GuardError: a monitor stayed below its floor, and the action is to stop.
        """
        if self.settings.action == "off" or step < self.first_step:
            return None
        for guard in self.guards:
            value = monitors.get(guard.monitor, math.nan)
            if math.isnan(value):  # not measurable here, e.g. a spread over a single sample
                continue
            if value >= guard.minimum:
                self.strikes[guard.monitor] = 0
                continue
            self.strikes[guard.monitor] += 1
            if self.strikes[guard.monitor] % self.settings.patience == 0:
                return self._answer(self._collapse(step, guard, value))
        return None

    def _collapse(self, step: int, guard: Guard, value: float) -> GuardError:
        return GuardError(
            f"Collapse at step {step}: {guard.monitor} is {value:.4g}, below its floor for "
            f"{self.strikes[guard.monitor]} logged steps in a row. {guard.cause}",
            expected=f"{guard.monitor} of at least {guard.minimum:g}",
            remedy=f"{guard.remedy}{self._kept()}",
        )

    def _answer(self, error: GuardError) -> str:
        if self.settings.action == "stop":
            raise error
        return str(error)

    def _kept(self) -> str:
        return " The last good checkpoint is kept." if self.settings.action == "stop" else ""
