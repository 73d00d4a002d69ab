"""Where preparing stands, told a few times a second."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from d2v.data.journal import Part

SECONDS_BETWEEN_REPORTS = 0.1


@dataclass(frozen=True, kw_only=True)
class PrepareProgress:
    """Where preparing stands, for a progress bar."""

    stage: Literal["list", "encode"]
    done: int
    total: int | None
    """None while the source is being listed."""
    rejected: int = 0
    duplicates: int = 0
    seconds: float = 0.0


Progress = Callable[[PrepareProgress], None]


class Reporter:
    """Turns single items into a few reports a second."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._begun = time.monotonic()
        self._reported = 0.0
        self._total: int | None = None
        self._done = 0
        self._counts: Counter[str] = Counter()

    def listed(self, num_items: int) -> None:
        """The source has told so many items so far."""
        self._done = num_items
        self._tell_now_and_then()

    def begin(self, total: int) -> None:
        """Encoding so many items begins."""
        self._total, self._done, self._begun = total, 0, time.monotonic()

    def replayed(self, parts: list[Part]) -> None:
        """Parts that an earlier run has finished."""
        for part in parts:
            self._counts.update(part.counts)
        self._done += parts[-1].consumed if parts else 0

    def encoded(self, counts: dict[str, int]) -> None:
        """One more item is done; `counts` of what became of it."""
        self._done += 1
        self._counts.update(counts)
        self._tell_now_and_then()

    def end(self) -> None:
        """Tell where things stand, whenever that was told last."""
        self._tell()

    def _tell_now_and_then(self) -> None:
        if time.monotonic() - self._reported > SECONDS_BETWEEN_REPORTS:
            self._tell()

    def _tell(self) -> None:
        self._reported = time.monotonic()
        if self._progress is not None:
            self._progress(
                PrepareProgress(
                    stage="list" if self._total is None else "encode",
                    done=self._done,
                    total=self._total,
                    rejected=self._counts["rejected"],
                    duplicates=self._counts["duplicates"],
                    seconds=time.monotonic() - self._begun,
                )
            )
