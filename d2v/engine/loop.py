"""The training loop. A step is one optimiser update; everything random hangs on (seed, step)."""

import math
import signal
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from d2v.engine.checkpoint import Checkpoint, clean_up, load_latest, prune, save_checkpoint
from d2v.engine.guards import Guards
from d2v.engine.job import Job
from d2v.engine.signals import StopRequest
from d2v.engine.tracking import Tracker
from d2v.engine.update import BAD, COUNT, LOSS, NORM, STOP, Updater
from d2v.errors import (
    InterruptedRunError,
    PeerLostError,
    StoppedError,
    UsageError,
)


def train(job: Job, stop: StopRequest) -> dict[str, float]:
    """Train to the end, or from the last checkpoint to the end.

    Args:
        job: everything about the run.
        stop: set by a signal; the loop writes a checkpoint and raises.

    Returns:
        The last logged figures.

    Raises:
        GuardError: a guard fired; the last good checkpoint is kept.
        StoppedError: SIGTERM came. InterruptedRunError: Ctrl-C came. The same command continues.
        PeerLostError: another process of the run ended.
    """
    try:
        return _Training(job, stop).run()
    except RuntimeError as error:
        if job.world.size > 1 and _lost_peer(error):
            raise PeerLostError("Another process of this run ended") from error
        raise


@dataclass(kw_only=True)
class _Progress:
    """What must survive a restart beside the tensors."""

    step: int = 0
    best_score: float | None = None
    best_checkpoint: str | None = None
    bad_samples: int = 0


class _Training:
    """One training under way."""

    def __init__(self, job: Job, stop: StopRequest) -> None:
        self.job, self.stop = job, stop
        self.settings, self.horizon = job.settings, job.horizon
        self.updater = Updater(job)
        self.guards = Guards(job.settings.guards, job.objective.guards(), job.horizon)
        self.folder = job.folder / "checkpoints"
        self.progress = _Progress()
        self.tracker: Tracker | None = None
        self.clock = 0.0

    def run(self) -> dict[str, float]:
        """From the last checkpoint to the end."""
        checkpoint, messages = load_latest(self.folder)
        if checkpoint is not None:
            self._restore(checkpoint)
        first = self.progress.step
        figures: dict[str, float] = {}
        with self._open_tracker(first):
            for message in messages:
                self._say(message)
            batches = self.job.data.iterate(first)
            self.updater.model.train()
            self.clock = time.perf_counter()
            for step in range(first, self.horizon.total_steps):
                done = step + 1
                logging = self._is_logged(done)
                schedules, monitors = self.updater.update(
                    step, batches, monitor=logging, stopping=self.stop.signal is not None
                )
                told = self.job.objective.after_update(done)
                self.progress.step = done
                figures = self._after(done, {**schedules, **told}, monitors) or figures
        return figures

    def _after(
        self, done: int, told: Mapping[str, float], monitors: Mapping[str, Tensor]
    ) -> dict[str, float]:
        """Log, score, save, stop: whatever is due after update number `done`."""
        logging, scoring, stopping = self._is_logged(done), self._is_scored(done), self._stops(done)
        saving = stopping or self._is_saved(done)
        figures: dict[str, float] = {}
        if logging or scoring or saving:
            figures = {**self._read_updates(), **told, **self._averaged(monitors)}
        if logging:
            warning = self.guards.check_collapse(done, figures)
            if warning:
                self._say(warning)
        if scoring:
            scores, better = self._score()
            figures |= scores
            saving = saving or better
        if (logging or scoring) and self.tracker is not None:
            self.tracker.log(done, figures)
        if saving:
            self._save()
        if stopping:
            self._raise_stopped()
        return figures if logging else {}

    def _is_logged(self, done: int) -> bool:
        return done == 1 or done % self.settings.log_every == 0 or self._is_last(done)

    def _is_saved(self, done: int) -> bool:
        every = max(1, self.horizon.steps(self.settings.checkpoint_every))
        return done % every == 0 or self._is_last(done)

    def _is_scored(self, done: int) -> bool:
        if self.job.evaluate is None or self.settings.probe_every is None:
            return False
        every = max(1, round(self.settings.probe_every * self.horizon.steps_per_epoch))
        return done % every == 0 or self._is_last(done)

    def _is_last(self, done: int) -> bool:
        return done == self.horizon.total_steps

    def _stops(self, done: int) -> bool:
        """Was any process asked to stop? A GPU is only asked where the loop waits for it anyway."""
        world = self.job.world
        if self._is_last(done):
            return False
        if world.size == 1:
            return self.stop.signal is not None
        if world.device.type == "cpu" or self._is_logged(done):
            return bool(self.updater.rows[-1][STOP] > 0)
        return False

    def _read_updates(self) -> dict[str, float]:
        """Loss and speed since the last reading; every update in between is checked for NaN."""
        rows = self.updater.rows
        table = torch.stack(rows).cpu() if rows else torch.zeros(0, BAD + 1)
        first = self.progress.step - len(rows) + 1
        rows.clear()
        losses, norms = table[:, LOSS] / table[:, COUNT], table[:, NORM]
        for offset, (loss, norm) in enumerate(zip(losses.tolist(), norms.tolist(), strict=True)):
            self.guards.check_finite(first + offset, {"loss": loss, "gradient_norm": norm})
        now = time.perf_counter()
        seconds, self.clock = max(now - self.clock, 1e-9), now
        waited, self.updater.seconds_waited = self.updater.seconds_waited, 0.0
        self.progress.bad_samples += int(table[:, BAD].sum())
        if not len(table):
            return {}
        return {
            "loss": losses.mean().item(),
            "gradient_norm": norms.mean().item(),
            "samples_per_second": len(table) * self.settings.batch_size / seconds,
            "data_wait_share": min(1.0, waited / seconds),
            "bad_samples": self.progress.bad_samples,
        }

    def _averaged(self, monitors: Mapping[str, Tensor]) -> dict[str, float]:
        names = sorted(monitors)
        if not names:
            return {}
        values = self.job.world.mean(torch.stack([monitors[name].float() for name in names]))
        return dict(zip(names, values.tolist(), strict=True))

    def _score(self) -> tuple[dict[str, float], bool]:
        """Scores of the present weights, and whether the first is the best so far."""
        assert self.job.evaluate is not None
        before = time.perf_counter()
        self.updater.model.eval()
        scores = self.job.evaluate()
        self.updater.model.train()
        self.clock += time.perf_counter() - before
        score = next(iter(scores.values()), -math.inf)
        best = self.progress.best_score
        better = best is None or score > best
        if better:
            self.progress.best_score = score
            self.progress.best_checkpoint = f"step-{self.progress.step:09d}"
        return scores, better

    def _save(self) -> None:
        """One checkpoint, by rank 0; the best is kept beside the newest."""
        if self.job.world.writes:
            save_checkpoint(
                self.folder,
                self.progress.step,
                {
                    "model": self.updater.model.state_dict(),
                    "optimizer": self.updater.optimizer_tensors(),
                },
                {"progress": vars(self.progress), "identity": self.job.identity},
            )
            best = self.progress.best_checkpoint
            prune(
                self.folder,
                keep_last=self.settings.keep_checkpoints,
                keep=self.folder / best if best else None,
            )
        self.job.world.wait()

    def _restore(self, checkpoint: Checkpoint) -> None:
        check_identity(checkpoint, self.job.identity)
        self.updater.restore(checkpoint)
        self.progress = _Progress(**checkpoint.state["progress"])
        if self.job.world.writes:
            clean_up(self.folder)

    def _raise_stopped(self) -> None:
        text = f"Stopped after step {self.progress.step} of {self.horizon.total_steps}"
        kind = InterruptedRunError if self.stop.signal == signal.SIGINT else StoppedError
        raise kind(text, remedy="A checkpoint is written: the same command continues from it.")

    def _open_tracker(self, first: int) -> Any:
        if not self.job.world.writes:
            return nullcontext()
        self.tracker = Tracker(
            self.job.folder,
            self.job.stage,
            total_steps=self.horizon.total_steps,
            start_step=first,
            verbosity=self.job.verbosity,
        )
        return self.tracker

    def _say(self, text: str) -> None:
        if self.tracker is not None:
            self.tracker.say(text)


def check_identity(checkpoint: Checkpoint, identity: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another architecture.

    Args:
        checkpoint: its state carries the settings that made it.
        identity: dotted setting -> value of the present recipe.

    Raises:
        UsageError: names every setting that differs.
    """
    saved = checkpoint.state.get("identity", {})
    differing = [
        f"{key} is {saved.get(key)!r} in the checkpoint and {identity.get(key)!r} in the recipe"
        for key in sorted({*saved, *identity})
        if saved.get(key) != identity.get(key)
    ]
    if differing:
        raise UsageError(
            f"The checkpoint {checkpoint.path} is of another architecture: " + "; ".join(differing),
            remedy="Use the checkpoint's settings, another checkpoint, or --fresh.",
        )


def _lost_peer(error: RuntimeError) -> bool:
    text = str(error)
    return isinstance(error, torch.distributed.DistError) or "gloo" in text or "NCCL" in text
