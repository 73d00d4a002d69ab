"""Raw items to shards: resumable after a kill at any moment, and the same bytes every time.

Pass 1 lists the source into a plan on disk and decides the splits; pass 2 encodes one split after
the other, shard by shard. Memory does not grow with the number of items.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from d2v.data.draw import Draw
from d2v.data.encoding import Encode, encoders
from d2v.data.files import WriteFailedError, locked, writing
from d2v.data.journal import Journal, has_parts
from d2v.data.plan import SPLITS, Plan
from d2v.data.progress import PrepareProgress, Progress, Reporter
from d2v.data.results import Summarise, begin, clear, finish, finished, remove_leftovers
from d2v.data.settings import PrepareSettings
from d2v.data.splitwriter import SplitWriter
from d2v.data.summary import PrepareSummary, SplitSummary
from d2v.errors import D2VError, UsageError
from d2v.samples import SourceItem

__all__ = [
    "PrepareProgress",
    "PrepareSettings",
    "PrepareSummary",
    "SplitSummary",
    "clear",
    "prepare",
]


def no_files(totals: Mapping[str, Mapping[str, float]]) -> dict[str, bytes]:
    """What `summarise` is where nobody has more to say."""
    return {}


def prepare(
    items: Callable[[], Iterable[SourceItem]],
    encode: Encode,
    dest: Path,
    settings: PrepareSettings,
    *,
    seed: int,
    progress: Progress | None = None,
    identity: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    summarise: Summarise = no_files,
) -> PrepareSummary:
    """Write `dest/<split>/` shards and indexes, and lists of what was rejected, found twice, odd.

    The same call continues after a kill; when everything is there it only returns the summary.

    Args:
        items: makes the source's items anew at each call, in the same order.
        encode: item -> samples; raises BadSampleError. Picklable for `workers` > 0.
        dest: folder to fill.
        settings: of shards and splits.
        seed: of the drawn splits.
        progress: told about ten times a second where things stand.
        identity: settings behind `items` and `encode` that decide the bytes, as JSON: a
            preparation that was begun with others is refused.
        about: what a reader of the shards must know, as JSON; written into every index, and bound
            to the preparation like `identity`.
        summarise: says which files to write beside the splits, from the samples' totals.

    Raises:
        UsageError: no item, none usable, or `dest` holds something else.
        D2VError: a file could not be written; what is complete stays, the same call continues.
    """
    run = {
        "settings": settings.model_dump(exclude={"workers", "subsets"}),
        "seed": seed,
        "identity": dict(identity or {}),
        "about": dict(about or {}),
    }
    run = json.loads(json.dumps(run))  # as it will be read back: tuples become lists
    with _explained(dest):
        with writing(dest):
            dest.mkdir(parents=True, exist_ok=True)
        with locked(dest):
            done = finished(dest, run)
            return done or _Run(dest, settings, progress, summarise).result(items, encode, run)


class _Run:
    """One call's journey from items to shards."""

    def __init__(
        self,
        dest: Path,
        settings: PrepareSettings,
        progress: Progress | None,
        summarise: Summarise,
    ) -> None:
        self._dest, self._settings, self._summarise = dest, settings, summarise
        self._report = Reporter(progress)

    def result(
        self, items: Callable[[], Iterable[SourceItem]], encode: Encode, run: dict[str, Any]
    ) -> PrepareSummary:
        with writing(self._dest):
            work = begin(self._dest)
        try:
            with closing(Plan(work / "plan.sqlite")) as plan:
                plan.fill(_outside(self._dest, items()), self._report.listed)
                _refuse_no_item(plan)
                draw = plan.draw(self._fractions(), run["seed"], self._settings.split_by)
                journal = Journal(work, {**run, "plan": plan.sha256()})
                splits = self._encode(plan, draw, journal, encode)
                groups = {split: plan.num_groups(split) for split in splits}
            _refuse_no_sample(journal, self._dest)
            return finish(self._dest, journal, groups, plan.classes(), run, self._summarise)
        except BaseException:
            if has_parts(work):
                remove_leftovers(self._dest)
            else:
                clear(self._dest)
            raise

    def _encode(self, plan: Plan, draw: Draw, journal: Journal, encode: Encode) -> list[str]:
        splits = [split for split in SPLITS if plan.num_planned(split, draw)]
        classes = {label: number for number, label in enumerate(plan.classes())}
        self._report.begin(plan.total)
        with encoders(encode, self._settings.workers) as encoded:
            for split in splits:
                folder = self._dest / split
                writer = SplitWriter(folder, plan, journal, self._settings, classes)
                self._report.replayed(writer.replay())
                try:
                    for number, item, outcome in encoded(plan.items(split, draw, writer.consumed)):
                        self._report.encoded(writer.add(number, item, outcome))
                    writer.end_part()
                finally:
                    writer.discard()
        self._report.end()
        return splits

    def _fractions(self) -> dict[str, float]:
        return {"val": self._settings.val_fraction, "test": self._settings.test_fraction}


def _outside(dest: Path, items: Iterable[SourceItem]) -> Iterator[SourceItem]:
    """The items, none of which may be our own output."""
    inside = os.path.abspath(dest) + os.sep
    for item in items:
        if item.path is not None and os.path.abspath(item.path).startswith(inside):
            raise UsageError(
                f"The shards would be written into their own source, {dest}",
                expected="a folder outside the source",
            )
        yield item


def _refuse_no_item(plan: Plan) -> None:
    if plan.total == 0:
        raise UsageError("The source has no items", expected="at least one")


def _refuse_no_sample(journal: Journal, dest: Path) -> None:
    if any(part.shard for part in journal.parts):
        return
    num_rejected = sum(part.counts.get("rejected", 0) for part in journal.parts)
    first = islice(journal.entries("rejected", journal.parts), 3)
    reasons = "; ".join(f"{entry['source']}: {entry['reason']}" for entry in first)
    clear(dest)
    raise UsageError(
        f"None of the {num_rejected} inputs could be used ({reasons})",
        expected="at least one usable input",
        remedy="Check that the source is the right folder and its files are whole.",
    )


@contextmanager
def _explained(dest: Path) -> Iterator[None]:
    """What the system says, in terms of shards; and no empty folder left where there was none."""
    is_new = not dest.exists()
    try:
        yield
    except WriteFailedError as failure:
        num_shards = sum(1 for split in SPLITS for _ in (dest / split).glob("*.tar"))
        raise D2VError(
            f"Cannot write {failure.path}: {failure.reason}; {num_shards} shards are complete",
            expected=f"space and permission to write in {dest}",
            remedy="Make room, then start the same command again: it continues where it stopped.",
        ) from failure
    except OSError as error:
        raise D2VError(
            f"The system failed while preparing {dest}: {error}",
            remedy="Start the same command again: it continues where it stopped.",
        ) from error
    finally:
        if is_new:
            with suppress(OSError):  # not empty: there is something to keep
                dest.rmdir()
