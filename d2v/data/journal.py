"""What a run has finished so far, so that a killed one goes on where it stood.

The output grows in parts: one shard (or none, where nothing was left to store) and the log of
every input that went into it or was turned away on the way. A part ends between two inputs, never
between the samples of one. It counts once its line stands in
the journal; whatever else lies about is a leftover.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from d2v.data.files import WholeFile, sync_folder, whole_file, writing
from d2v.data.shardfile import ShardFile, ShardRecord
from d2v.errors import UsageError
from d2v.samples import StoredSample

JOURNAL = "journal.jsonl"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A finished piece of a split."""

    log: str
    split: str
    consumed: int
    """Items of the split's plan that this part and those before it have dealt with."""
    counts: dict[str, int]
    """Items: stored, rejected, duplicates, dropped; and the length of all samples together."""
    totals: dict[str, float]
    """What the samples' totals add up to."""
    shard: ShardRecord | None


class PartWriter:
    """A part being written: its log at once, its shard with the first sample."""

    def __init__(self, log: Path, shard: Path, split: str) -> None:
        self.counts: Counter[str] = Counter()
        self.totals: dict[str, float] = {}
        self.shard: ShardFile | None = None
        self._shard_path, self._split = shard, split
        self._log = WholeFile(log)

    def store(self, key: str, sample: StoredSample, note: dict[str, Any]) -> None:
        """Append a sample; `note` is logged with where its members lie."""
        if self.shard is None:
            self.shard = ShardFile(self._shard_path)
        places = self.shard.add(key, sample.members)
        length = {} if sample.length == 1 else {"length": sample.length}
        self._write("sample", {"key": key, **note, **length, "members": places})
        self.counts["length"] += sample.length
        for name, value in sample.totals.items():
            self.totals[name] = self.totals.get(name, 0) + value

    def note(self, kind: str, entry: dict[str, Any]) -> None:
        """Log and count what became of an input: rejected, duplicates, warnings (findings)."""
        self.counts[kind] += 1
        self._write(kind, entry)

    def commit(self, consumed: int) -> Part:
        """Put shard and log in their places."""
        shard = None if self.shard is None else self.shard.commit()
        self._log.commit()
        return Part(
            log=self._log.path.name,
            split=self._split,
            consumed=consumed,
            counts=dict(self.counts),
            totals=self.totals,
            shard=shard,
        )

    def discard(self) -> None:
        """Leave nothing behind."""
        if self.shard is not None:
            self.shard.discard()
        self._log.discard()

    def _write(self, kind: str, entry: dict[str, Any]) -> None:
        self._log.write(json.dumps([kind, entry]).encode() + b"\n")


class Journal:
    """The list of finished parts, one fsynced line each, after a line that names the run."""

    def __init__(self, folder: Path, run: dict[str, Any]) -> None:
        self.folder = folder
        self._path = folder / JOURNAL
        self.parts: list[Part] = []
        lines = _whole_lines(self._path)
        if len(lines) > 1:
            records = self._parsed(lines)
            self._check(records[0], run)
            self.parts = [_part(record) for record in records[1:]]
        else:  # nothing finished that another source or setting could contradict
            # At once: a shard that a kill left beside no journal would pass for a stranger's.
            with whole_file(self._path) as file:
                file.write(_line(run))

    def append(self, part: Part) -> None:
        """Record a part that is in its place."""
        self._append(asdict(part))
        self.parts.append(part)

    def of(self, split: str) -> list[Part]:
        """The parts of one split, in order."""
        return [part for part in self.parts if part.split == split]

    def entries(self, kind: str, parts: list[Part]) -> Iterator[dict[str, Any]]:
        """What the logs say about samples, or about one kind of outcome; streamed."""
        for part in parts:
            with (self.folder / part.log).open(encoding="ascii") as log:
                for line in log:
                    what, entry = json.loads(line)
                    if what == kind:
                        yield entry

    def _parsed(self, lines: list[bytes]) -> list[dict[str, Any]]:
        try:
            return [json.loads(line) for line in lines]
        except ValueError:
            raise UsageError(
                f"{self._path} is damaged", remedy="Use --fresh to start over."
            ) from None

    def _check(self, recorded: dict[str, Any], run: dict[str, Any]) -> None:
        if recorded == run:
            return
        if {**recorded, "plan": ""} != {**run, "plan": ""}:
            happened = f"{self.folder.parent} was begun with other settings"
        else:
            happened = f"The source has changed since {self.folder.parent} was begun"
        raise UsageError(
            happened,
            expected="the source and settings of the interrupted run, to continue it",
            remedy="Use --fresh to start over.",
        )

    def _append(self, record: dict[str, Any]) -> None:
        with writing(self._path):
            with self._path.open("ab") as file:
                file.write(_line(record))
                file.flush()
                os.fsync(file.fileno())
            sync_folder(self.folder)


def has_parts(folder: Path) -> bool:
    """Whether a run has finished anything worth continuing."""
    path = folder / JOURNAL
    return path.exists() and path.read_bytes().count(b"\n") > 1


def _whole_lines(path: Path) -> list[bytes]:
    """The journal's lines; a last one that a kill has torn is cut off."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        with writing(path):
            os.truncate(path, len(whole))
    return whole.splitlines()


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"


def _part(record: dict[str, Any]) -> Part:
    shard = record.pop("shard")
    return Part(**record, shard=None if shard is None else ShardRecord(**shard))
