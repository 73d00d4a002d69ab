"""Run the trainings of an ablation, some at once, and end them in good order."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from d2v.commands.ablate_state import Job
from d2v.engine.signals import StopRequest
from d2v.errors import D2VError

_GRACE_SECONDS = 60.0
"""For writing a checkpoint after a signal."""
_PATIENCE_SECONDS = 120.0
"""For processes of an earlier start, which was killed, to end."""


class Child(Protocol):
    """A training under way somewhere."""

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""

    def stop(self, number: int) -> None:
        """Ask it, by a signal, to write a checkpoint and end."""

    def kill(self) -> None:
        """End it now."""


Start = Callable[[Job, int], Child]
"""Starts a training in one of the slots 0..N-1."""


@dataclass
class _Running:
    job: Job
    child: Child
    begun: float
    log_start: int


class Runner:
    """Keeps a number of slots busy until nothing is left or somebody asks to stop."""

    def __init__(
        self,
        jobs: Sequence[Job],
        start: Start,
        *,
        slots: int,
        stop: StopRequest,
        tick: Callable[[Sequence[Job], bool], None],
        pause_seconds: float = 0.2,
    ) -> None:
        """Nothing is started yet.

        Args:
            jobs: in this order.
            start: begins one.
            slots: how many at once.
            stop: set by a signal.
            tick: called between looks with the jobs that run, and whether any began or ended.
            pause_seconds: between looks.
        """
        self.waiting, self.start, self.slots = list(jobs), start, slots
        self.stop, self.tick, self.pause_seconds = stop, tick, pause_seconds
        self.running: dict[int, _Running] = {}
        self.deadline = float("inf")

    def run(self) -> None:
        """To the end. Whatever happens, no process is left behind."""
        try:
            while self.waiting or self.running:
                changed = self._look()
                if self.stop.signal is not None:
                    self._ask_to_stop(self.stop.signal)
                else:
                    changed = self._fill() or changed
                self.tick([one.job for one in self.running.values()], changed)
                if self.running:
                    time.sleep(self.pause_seconds)
        finally:
            for one in self.running.values():
                one.child.kill()

    def _look(self) -> bool:
        """Note those that have ended."""
        ended = [slot for slot, one in self.running.items() if one.child.poll() is not None]
        for slot in ended:
            one = self.running.pop(slot)
            code = one.child.poll()
            assert code is not None
            one.job.note(code, time.monotonic() - one.begun, one.log_start)
        return bool(ended)

    def _fill(self) -> bool:
        begun = False
        for slot in range(self.slots):
            if slot not in self.running and self.waiting:
                job = self.waiting.pop(0)
                job.write_config()
                log_start = job.log.stat().st_size if job.log.exists() else 0
                child = self.start(job, slot)
                self.running[slot] = _Running(job, child, time.monotonic(), log_start)
                begun = True
        return begun

    def _ask_to_stop(self, number: int) -> None:
        """Once; those that do not end in time are killed."""
        self.waiting.clear()
        if self.deadline == float("inf"):
            self.deadline = time.monotonic() + _GRACE_SECONDS
            for one in self.running.values():
                one.child.stop(number)
        elif time.monotonic() > self.deadline:
            for one in self.running.values():
                one.child.kill()


@contextmanager
def no_other_children(folder: Path, say: Callable[[str], None]) -> Iterator[Path]:
    """Wait for trainings that an earlier start, killed, has left to write their checkpoints.

    Args:
        folder: of the ablation.
        say: tells a person that it takes a moment.

    Yields:
        A file that each child keeps locked, shared, for as long as it lives.

    Raises:
        D2VError: they do not end.
    """
    path = folder.parent / f".{folder.name}.children.lock"
    deadline, told = time.monotonic() + _PATIENCE_SECONDS, False
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise D2VError(
                        f"Trainings of an earlier start are still running below {folder}",
                        remedy="Wait for them or end them, then start again.",
                    ) from None
            if not told:
                say("Waiting for trainings of an earlier start to write their checkpoints ...")
                told = True
            time.sleep(0.2)
        fcntl.flock(file, fcntl.LOCK_UN)
    yield path
