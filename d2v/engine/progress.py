"""Where a training stands, what it logs of its updates, and what is due after which update."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from d2v.core.schedules import Horizon
from d2v.engine.checkpoint import Checkpoint, load_checkpoint, load_latest
from d2v.engine.job import TrainSettings
from d2v.errors import D2VError

_SUMS = ("loss_since_log", "gradient_norm_since_log")


@dataclass(kw_only=True)
class Progress:
    """What must survive a restart beside the tensors; kept in every checkpoint."""

    step: int = 0
    best_score: float | None = None
    best_checkpoint: str | None = None
    scores_since_best: int = 0
    """Scores in a row that were not better."""
    bad_samples: int = 0
    updates_since_log: int = 0
    loss_since_log: float = 0.0
    """Sum over the updates since the last logged step; so is the next."""
    gradient_norm_since_log: float = 0.0
    strikes: dict[str, int] = field(default_factory=dict)
    """Monitor -> logged steps in a row below its floor."""

    @staticmethod
    def of(saved: Mapping[str, Any]) -> "Progress":
        """What `as_json` made."""
        sums = {name: math.nan for name in _SUMS if saved.get(name, 0) is None}
        return Progress(**{**saved, **sums})

    def as_json(self) -> dict[str, Any]:
        """For the checkpoint; JSON has null for a sum that is not finite."""
        bad = {name: None for name in _SUMS if not math.isfinite(getattr(self, name))}
        return {**vars(self), **bad}

    def count(self, losses: Sequence[float], norms: Sequence[float], bad_samples: int) -> None:
        """Add updates that were read from the device."""
        self.bad_samples += bad_samples
        self.updates_since_log += len(losses)
        for loss, norm in zip(losses, norms, strict=True):  # one by one: the same sum, however cut
            self.loss_since_log += loss
            self.gradient_norm_since_log += norm

    def logged(self) -> dict[str, float]:
        """Means over the updates since the last logged step, which is now."""
        count = self.updates_since_log
        figures = {
            "loss": self.loss_since_log / count,
            "gradient_norm": self.gradient_norm_since_log / count,
            "bad_samples": self.bad_samples,
        }
        self.updates_since_log, self.loss_since_log, self.gradient_norm_since_log = 0, 0.0, 0.0
        return figures

    def is_best(self, score: float) -> bool:
        """Whether no score so far is better than this one; then it is remembered.

        Of equals the latest counts, which has learned longest (a recogniser begins with nothing
        right for a while), and patience runs out all the same.
        """
        best = self.best_score
        self.scores_since_best = 0 if best is None or score > best else self.scores_since_best + 1
        if not math.isfinite(score) or (best is not None and score < best):
            return False
        self.best_score, self.best_checkpoint = score, f"step-{self.step:09d}"
        return True

    def gave_up(self, patience: int | None) -> bool:
        """Whether so many scores in a row were not better that training ends early."""
        return patience is not None and self.scores_since_best >= patience


def load_best(folder: Path) -> Checkpoint:
    """The checkpoint with a run's best score; its newest where nothing was scored.

    Args:
        folder: of the checkpoints.

    Raises:
        D2VError: it is damaged, or there is none.
    """
    newest, _ = load_latest(folder)
    if newest is None:
        raise D2VError(f"There is no checkpoint in {folder}", remedy="Pass --fresh to start over.")
    best = newest.state["progress"]["best_checkpoint"]
    return newest if best is None else load_checkpoint(folder / best)


@dataclass(frozen=True)
class Due:
    """What is due after update number `done` (1-based)."""

    settings: TrainSettings
    horizon: Horizon
    has_scores: bool

    def last(self, done: int) -> bool:
        """The run ends here."""
        return done == self.horizon.total_steps

    def log(self, done: int) -> bool:
        """The first, every `log_every`-th and the last."""
        return done == 1 or done % self.settings.log_every == 0 or self.last(done)

    def save(self, done: int) -> bool:
        """Every `checkpoint_every`-th and the last."""
        every = max(1, self.horizon.steps(self.settings.checkpoint_every))
        return done % every == 0 or self.last(done)

    def score(self, done: int) -> bool:
        """Every `score_every` and the last, where there is something to score on."""
        if not self.has_scores or self.settings.score_every is None:
            return False
        every = max(1, self.horizon.steps(self.settings.score_every))
        return done % every == 0 or self.last(done)
