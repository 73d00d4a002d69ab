"""The training loop. A step is one optimiser update; everything random hangs on (seed, step)."""

import math
import signal
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from d2v.engine.checkpoint import Checkpoint, clean_up, load_latest, prune, save_checkpoint
from d2v.engine.distributed import agreed_step
from d2v.engine.guards import Guards
from d2v.engine.identity import check_identity
from d2v.engine.job import Job
from d2v.engine.progress import Due, Progress
from d2v.engine.signals import StopRequest
from d2v.engine.tracking import Tracker, read_metrics
from d2v.engine.update import BAD, COUNT, LOSS, NORM, STOP, Updater
from d2v.errors import InterruptedRunError, StoppedError


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
        UsageError: its checkpoint is of another architecture.
    """
    checkpoint, messages = load_latest(job.folder / "checkpoints")
    if checkpoint is None and job.begin is not None:
        job.begin()
    return _Training(job, stop).run(checkpoint, messages)


class _Training:
    """One training under way."""

    def __init__(self, job: Job, stop: StopRequest) -> None:
        self.job, self.stop = job, stop
        self.due = Due(job.settings, job.horizon, job.evaluate is not None)
        self.updater = Updater(job)
        self.guards = Guards(job.settings.guards, job.objective.guards(), job.horizon)
        self.folder = job.folder / "checkpoints"
        self.progress = Progress()
        self.tracker: Tracker | None = None
        self.clock, self.timed_updates = 0.0, 0
        self.sound = True  # no update has been NaN or infinite, whatever the guards may do about it

    def run(self, checkpoint: Checkpoint | None, messages: list[str]) -> dict[str, float]:
        """From the checkpoint to the end; tells the messages first."""
        if checkpoint is not None:
            self._restore(checkpoint)
        first = agreed_step(self.job.world, self.progress.step, self.folder)
        figures: dict[str, float] = {}
        with self._open_tracker(first):
            for message in messages:
                self._say(message)
            batches = self.job.data.iterate(first)
            self.updater.model.train()
            self.clock = time.perf_counter()
            for step in range(first, self.job.horizon.total_steps):
                if self.progress.gave_up(self.job.settings.patience):
                    break
                done = step + 1
                schedules, monitors = self.updater.update(
                    step,
                    batches,
                    monitor=self.due.log(done),
                    stopping=self.stop.signal is not None,
                )
                told = self.job.objective.after_update(done)
                self.progress.step = done
                figures = self._after(done, {**schedules, **told}, monitors) or figures
        return figures or _last_logged(self.job)

    def _after(
        self, done: int, told: Mapping[str, float], monitors: Mapping[str, Tensor]
    ) -> dict[str, float]:
        """Read, log, score, save, stop: whatever is due after update number `done`."""
        logging, scoring, stopping = self.due.log(done), self.due.score(done), self._stops(done)
        saving = stopping or self.due.save(done)
        on_cpu = self.job.world.device.type == "cpu"  # where reading waits for nothing
        if on_cpu or logging or scoring or saving:
            self._read_updates()
        figures: dict[str, float] = {}
        if logging or scoring:
            figures = {**self._speed(), **self.progress.logged(), **told}
            figures |= self._averaged(monitors)
        if scoring:
            scores, better = self._score()
            figures |= scores
            saving = saving or better or self.progress.gave_up(self.job.settings.patience)
        if figures and self.tracker is not None:
            self.tracker.log(done, figures)
        if logging:
            self._say(self.guards.check_collapse(done, figures))
        if saving:
            self._save()
        if stopping:
            self._raise_stopped()
        return figures if logging else {}

    def _stops(self, done: int) -> bool:
        """Was any process asked to stop? A GPU is only asked where the loop waits for it anyway."""
        world = self.job.world
        if self.due.last(done):
            return False
        if world.size == 1:
            return self.stop.signal is not None
        if world.device.type == "cpu" or self.due.log(done):
            return bool(self.updater.rows[-1][STOP] > 0)
        return False

    def _read_updates(self) -> None:
        """Fetch what the updates left on the device; every one is checked for NaN."""
        rows = self.updater.rows
        table = torch.stack(rows).cpu() if rows else torch.zeros(0, BAD + 1)
        first = self.progress.step - len(rows) + 1
        rows.clear()
        losses, norms = (table[:, LOSS] / table[:, COUNT]).tolist(), table[:, NORM].tolist()
        for offset, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
            figures = {"loss": loss, "gradient_norm": norm}
            self.sound = self.sound and math.isfinite(loss) and math.isfinite(norm)
            self._say(self.guards.check_finite(first + offset, figures))
        self.progress.count(losses, norms, int(table[:, BAD].sum()))
        self.timed_updates += len(table)

    def _speed(self) -> dict[str, float]:
        """Since the last logged step of this start."""
        now = time.perf_counter()
        seconds, self.clock = max(now - self.clock, 1e-9), now
        waited, self.updater.seconds_waited = self.updater.seconds_waited, 0.0
        count, self.timed_updates = self.timed_updates, 0
        job = self.job
        samples_per_step = job.cut.micro * job.cut.accumulation * job.world.size
        return {
            "seconds": seconds,
            "samples_per_second": count * samples_per_step / seconds,
            "data_wait_share": min(1.0, waited / seconds),
        }

    def _averaged(self, monitors: Mapping[str, Tensor]) -> dict[str, float]:
        names = sorted(monitors)
        if not names:
            return {}
        values = self.job.world.mean(torch.stack([monitors[name].float() for name in names]))
        return dict(zip(names, values.tolist(), strict=True))

    def _score(self) -> tuple[dict[str, float], bool]:
        """Scores of the present weights, and whether rank 0's first is the best so far."""
        assert self.job.evaluate is not None
        before = time.perf_counter()
        self.updater.model.eval()
        scores = self.job.evaluate()
        self.updater.model.train()
        world = self.job.world
        first = next(iter(scores.values()), math.nan) if world.writes else 0.0
        told = torch.tensor(first, dtype=torch.float64, device=world.device)
        better = self.progress.is_best(world.sum(told).item())
        self.clock += time.perf_counter() - before
        return scores, better

    def _save(self) -> None:
        """One checkpoint, by rank 0; the best is kept beside the newest.

        Weights that an infinite update went through are not saved over good ones; the guard's
        warning has told.
        """
        if not self.sound:
            return
        if self.tracker is not None:
            self.tracker.flush()
        self.progress.strikes = dict(self.guards.strikes)
        if self.job.world.writes:
            newest = save_checkpoint(
                self.folder,
                self.progress.step,
                {
                    "model": self.updater.model.state_dict(),
                    "optimizer": self.updater.optimizer_tensors(),
                },
                {"progress": self.progress.as_json(), **self.job.origin},
            )
            prune(
                newest,
                keep_last=self.job.settings.keep_checkpoints,
                best=self.progress.best_checkpoint,
            )
        self.job.world.wait()

    def _restore(self, checkpoint: Checkpoint) -> None:
        check_identity(checkpoint, self.job.identity, self.job.identity_defaults)
        self.updater.restore(checkpoint)
        self.progress = Progress.of(checkpoint.state["progress"])
        self.guards.strikes.update(self.progress.strikes)
        if self.job.world.writes:
            clean_up(self.folder)

    def _raise_stopped(self) -> None:
        text = f"Stopped after step {self.progress.step} of {self.job.horizon.total_steps}"
        kind = InterruptedRunError if self.stop.signal == signal.SIGINT else StoppedError
        raise kind(text, remedy="A checkpoint is written: the same command continues from it.")

    def _open_tracker(self, first: int) -> Any:
        if not self.job.world.writes:
            return nullcontext()
        self.tracker = Tracker(
            self.job.folder,
            self.job.stage,
            total_steps=self.job.horizon.total_steps,
            start_step=first,
            verbosity=self.job.verbosity,
        )
        return self.tracker

    def _say(self, text: str | None) -> None:
        if text and self.tracker is not None:
            self.tracker.say(text)


def _last_logged(job: Job) -> dict[str, float]:
    """The last row of metrics.jsonl, for a run that had been killed after its last checkpoint."""
    rows = read_metrics(job.folder)
    last = rows[-1] if rows else {}
    return {name: math.nan if value is None else value for name, value in last.items()}
