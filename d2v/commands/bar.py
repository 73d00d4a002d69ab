"""How far a command has come: a bar on a terminal, a line in ten seconds in a pipe."""

from __future__ import annotations

from rich.console import Console
from rich.progress import Progress, TextColumn

_SECONDS_BETWEEN_LINES = 10.0


class Bar:
    """Shown for the time of a `with` block.

    Args:
        noun: what is counted, its plural.
        verbosity: below 0 shows nothing.
    """

    def __init__(self, noun: str, verbosity: int) -> None:
        self.noun, self.verbosity = noun, verbosity
        console = Console()
        self.terminal = console.is_terminal and verbosity >= 0
        columns = [*Progress.get_default_columns(), TextColumn("{task.fields[speed]}")]
        self.progress = Progress(*columns, console=console, disable=not self.terminal)
        self.task = self.progress.add_task("", total=None, speed="")
        self.next_line_seconds = _SECONDS_BETWEEN_LINES

    def __enter__(self) -> Bar:
        self.progress.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self.progress.stop()

    def show(
        self, title: str, done: int, total: int | None, seconds: float, *, earlier: int = 0
    ) -> None:
        """Say where things stand.

        Args:
            title: what is being done.
            done: how much of it, also by an earlier start.
            total: of how much; None where that is not known yet.
            seconds: since the beginning of this start.
            earlier: what of `done` an earlier start did.
        """
        speed = f"{(done - earlier) / seconds:,.0f} {self.noun}/s" if seconds > 0 else ""
        self.progress.update(self.task, description=title, completed=done, total=total, speed=speed)
        if not self.terminal and self.verbosity >= 0 and seconds >= self.next_line_seconds:
            self.next_line_seconds = seconds + _SECONDS_BETWEEN_LINES
            print(f"{title} {done:,}/{total or '?'}  {speed}", flush=True)
