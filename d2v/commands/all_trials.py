"""Every trial of a fine-tuning, one after the other, and what each came to on val."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from d2v.commands.stage import agree
from d2v.commands.trials import Trainer, Trial, trials_of
from d2v.engine.progress import load_best
from d2v.errors import GuardError, PeerLostError


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What came of the trials.

    Args:
        val: trial's name -> its best score on val, in the process that writes; NaN for none.
        stopped: trial's name -> why a guard stopped it. It has no score then, whatever it had
            reached: its learning rate is not one to choose.
    """

    val: dict[str, float] = field(default_factory=dict)
    stopped: dict[str, str] = field(default_factory=dict)

    def candidates(self, trials: Iterable[Trial]) -> list[Trial]:
        """The trials with a learning rate that may be chosen: none with it was stopped there."""
        every = list(trials)
        out = {(*one.cell, one.learning_rate) for one in every if one.name in self.stopped}
        return [one for one in every if (*one.cell, one.learning_rate) not in out]

    @property
    def remarks(self) -> list[str]:
        """What a person should know."""
        return [
            f"{name} was stopped, and its learning rate is out of the choice: {reason}"
            for name, reason in self.stopped.items()
        ]


def train_all(trainer: Trainer) -> Trained:
    """Train every trial, or go on where that stopped. Nothing where there is nothing to do.

    A learning rate that diverges is the worst of several, and no reason to give up the others.

    Raises:
        GuardError: a guard stopped a trial, and no learning rate is left to choose for its cell.
        PeerLostError: the same, in a process that does not tell.
    """
    trained = Trained()
    if agree(trainer.world, finished=False):
        return trained
    trials = trials_of(trainer.recipe, trainer.settings)
    for trial in trials:
        try:
            trainer.train(trial)
        except GuardError as error:
            trained.stopped[trial.name] = str(error)
            if any(one.cell == trial.cell for one in trained.candidates(trials)):
                continue
            if trainer.world.writes:
                raise
            raise PeerLostError(
                "A guard stopped the training; the first process says why"
            ) from error
        if trainer.world.writes:
            trained.val[trial.name] = _best_score(trainer, trial)
    trained.val.update(dict.fromkeys(trained.stopped, math.nan))
    return trained


def _best_score(trainer: Trainer, trial: Trial) -> float:
    best = load_best(trainer.folder / trial.name / "checkpoints")
    score = best.state["progress"]["best_score"]
    return math.nan if score is None else float(score)
