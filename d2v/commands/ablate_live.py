"""What a person sees while an ablation runs: the table so far, and how long it will take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from d2v.commands.ablate_state import Job, Outcome
from d2v.commands.ablate_summary import Results
from d2v.commands.ablate_table import ablate_report
from d2v.engine.tracking import read_metrics

_CHARTS_SECONDS = 60.0
"""Charts take a second: they are not drawn anew for every cell of a quick sweep."""


class Display:
    """A live table on a terminal, a line for each beginning and end in a pipe."""

    def __init__(
        self,
        jobs: Sequence[Job],
        write: Callable[[Sequence[Job], bool], Results],
        slots: int,
        verbosity: int,
    ) -> None:
        """Nothing is shown yet.

        Args:
            jobs: all trainings.
            write: writes what is there, and returns it; told which run, and whether to draw.
            slots: how many run at once.
            verbosity: -1 shows nothing, 1 the table in a pipe too.
        """
        self.jobs, self.write, self.slots, self.verbosity = jobs, write, slots, verbosity
        self.console = Console()
        live = self.console.is_terminal and verbosity >= 0
        self.live = Live(console=self.console, refresh_per_second=4) if live else None
        self.results, self.drawn = write((), False), time.monotonic()
        self.running: list[Job] = []

    def __enter__(self) -> Display:
        """Begin to show."""
        if self.live:
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was: the report comes after."""
        if self.live:
            self.live.update(Text(""))
            self.live.stop()

    def tick(self, running: Sequence[Job], changed: bool) -> None:
        """What runs now; `changed`: something has begun or ended since the last time."""
        before, self.running = self.running, list(running)
        if changed:
            draw = time.monotonic() > self.drawn + _CHARTS_SECONDS
            self.drawn = time.monotonic() if draw else self.drawn
            self.results = self.write(self.running, draw)
            self._lines(before)
        if self.live:
            self.live.update(self._picture())

    def _picture(self) -> Group:
        report = ablate_report(self.results, "", [])
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in report.columns:
            table.add_column(Text(column))
        for row in report.rows:
            table.add_row(*map(Text, row))
        now = "; ".join(f"{_title(job)}{_step(job)}" for job in self.running)
        return Group(table, Text(f"now: {now or 'nothing'}", style="bold"), Text(self._standing()))

    def _lines(self, before: Sequence[Job]) -> None:
        if self.live or self.verbosity < 0:
            return
        for job in before:
            if job not in self.running:
                print(f"{_title(job)} {_told(self._outcome(job))}", flush=True)
        begun = [job for job in self.running if job not in before]
        if begun and self.verbosity > 0:
            for row in ablate_report(self.results, "", []).rows:
                print("  " + "  ".join(row), flush=True)
        for job in begun:
            print(f"{_title(job)} begins; {self._standing()}", flush=True)

    def _outcome(self, job: Job) -> Outcome:
        return self.results.cells[job.cell.id].outcomes[job.seed]

    def _standing(self) -> str:
        ended = [self._outcome(job) for job in self.jobs]
        left = sum(not one.ended and one.status != "failed" for one in ended)
        seconds = [one.seconds for one in ended if one.ended and one.seconds]
        told = f"{len(ended) - left} of {len(ended)} trainings done"
        if not seconds:
            return told
        rounds = math.ceil(left / max(1, self.slots))
        return f"{told}, about {duration(rounds * sum(seconds) / len(seconds))} left"


def duration(seconds: float) -> str:
    """For people: 40 s, 12 min, 3.5 h, 12 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 100 * 3600 else f"{seconds / 86400:.0f} days"


def _title(job: Job) -> str:
    return f"{job.cell.id} seed {job.seed}"


def _step(job: Job) -> str:
    rows = read_metrics(job.folder / "pretrain")
    return f" (step {rows[-1]['step']:,})" if rows else ""


def _told(found: Outcome) -> str:
    if found.status == "done":
        score = "without a score" if found.score is None else f"{found.score:.4f}"
        return f"is done: {score} after {found.seconds:.0f} s"
    return f"{found.status}: {found.reason}"
