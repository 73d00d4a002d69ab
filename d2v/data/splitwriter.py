"""One split's items into parts: what is stored, what is turned away, where a shard ends."""

from __future__ import annotations

import re
from dataclasses import replace
from math import isfinite
from pathlib import Path
from tarfile import BLOCKSIZE, RECORDSIZE

from d2v.data.encoding import Encoded
from d2v.data.files import writing
from d2v.data.journal import Journal, Part, PartWriter
from d2v.data.plan import Plan
from d2v.data.settings import PrepareSettings
from d2v.data.tarformat import member_bytes
from d2v.errors import UsageError
from d2v.samples import SourceItem, StoredSample

EXTENSION = re.compile(r"[a-z0-9]+(\.[a-z0-9]+)*")
NOTHING: dict[str, int] = {}


class SplitWriter:
    """Goes on after the parts of this split that the journal already has."""

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        journal: Journal,
        settings: PrepareSettings,
        classes: dict[str, int],
    ) -> None:
        self.split = folder.name
        self.consumed = 0
        """Items of the split that have been dealt with."""
        self._folder, self._plan, self._journal = folder, plan, journal
        self._settings, self._classes = settings, classes
        self._part: PartWriter | None = None
        self._num_shards = 0
        with writing(folder):
            folder.mkdir(exist_ok=True)

    def replay(self) -> list[Part]:
        """Take over what an earlier run has finished."""
        parts = self._journal.of(self.split)
        for part in parts:
            self.consumed = part.consumed
            if part.shard is not None:
                self._num_shards += 1
                _refuse_missing(self._folder / part.shard.name, part.shard.bytes)
        for entry in self._journal.entries("sample", parts):
            number = int(entry["key"].partition("-")[0])
            self._plan.remember(bytes.fromhex(entry["sha256"]), number, self.split)
        return parts

    def add(self, number: int, item: SourceItem, outcome: Encoded) -> dict[str, int]:
        """Deal with one item. Returns what became of it, as counts."""
        if outcome.samples is None:
            entry = {"source": item.name, "split": self.split, "reason": outcome.reason}
            self._open_part().note("rejected", entry)
            counts = {"rejected": 1}
        else:
            counts = self._add_samples(number, item, outcome.sha256, outcome.samples)
        self.consumed += 1
        return counts

    def end_part(self) -> None:
        """Finish the current part, if there is one, and record it."""
        if self._part is not None:
            part = self._part.commit(self.consumed)
            self._journal.append(part)
            self._part = None
            self._num_shards += part.shard is not None

    def discard(self) -> None:
        """Leave no unfinished part behind."""
        if self._part is not None:
            self._part.discard()

    def _add_samples(
        self, number: int, item: SourceItem, sha256: bytes, samples: list[StoredSample]
    ) -> dict[str, int]:
        _check(samples)
        first = self._plan.first_seen(sha256)
        dropped = first is not None and self._settings.duplicates == "drop"
        label = None if item.label is None else self._classes[item.label]
        if label is not None:
            samples = [_with_label(sample, label) for sample in samples]
        if not dropped and self._is_full_for(samples):
            self.end_part()  # before anything is noted: the next part begins with this item
        if first is not None:
            self._note_duplicate(item, first, dropped)
        if dropped:
            return {"duplicates": 1}
        note = {"source": item.name, "label": label, "sha256": sha256.hex()}
        part = self._open_part()
        for place, sample in enumerate(samples):
            which = f"-{place:05d}" if len(samples) > 1 else ""
            part.store(f"{number:09d}{which}", sample, note)
        part.counts["stored"] += 1
        # Told once for an input, however many of its samples it is true of.
        for warning in dict.fromkeys(text for sample in samples for text in sample.warnings):
            part.note("warnings", {"source": item.name, "split": self.split, "warning": warning})
        self._plan.remember(sha256, number, self.split)
        return NOTHING if first is None else {"duplicates": 1}

    def _note_duplicate(self, item: SourceItem, first: tuple[str, str], dropped: bool) -> None:
        entry = {"source": item.name, "split": self.split}
        part = self._open_part()
        part.note(
            "duplicates",
            {**entry, "first": first[0], "first_split": first[1], "dropped": dropped},
        )
        part.counts["dropped"] += dropped

    def _is_full_for(self, samples: list[StoredSample]) -> bool:
        if self._part is None or self._part.shard is None:
            return False
        shard = self._part.shard
        data = shard.data_bytes + sum(
            member_bytes(len(content)) for sample in samples for content in sample.members.values()
        )
        file = -(-(data + 2 * BLOCKSIZE) // RECORDSIZE) * RECORDSIZE  # as tar rounds it up
        return (
            shard.num_samples + len(samples) > self._settings.shard_samples
            or file > self._settings.shard_megabytes * 1e6
        )

    def _open_part(self) -> PartWriter:
        if self._part is None:
            log = self._journal.folder / f"part-{len(self._journal.parts):06d}.jsonl"
            shard = self._folder / f"{self.split}-{self._num_shards:06d}.tar"
            self._part = PartWriter(log, shard, self.split)
        return self._part


def _check(samples: list[StoredSample]) -> None:
    """Catch an encoder's own mistakes."""
    assert samples, "an encoder gave nothing"
    for sample in samples:
        names = sample.members.keys()
        assert names, "an encoder gave a sample without content"
        assert "cls" not in names, "cls is the label's place"
        assert all(EXTENSION.fullmatch(extension) for extension in names), names
        assert sample.length >= 1, "a sample without length"
        assert all(map(isfinite, sample.totals.values())), sample.totals


def _with_label(sample: StoredSample, label: int) -> StoredSample:
    return replace(sample, members={**sample.members, "cls": str(label).encode()})


def _refuse_missing(path: Path, num_bytes: int) -> None:
    if not path.exists() or path.stat().st_size != num_bytes:
        raise UsageError(
            f"{path} was finished by the interrupted run and is now missing or changed",
            expected=f"a file of {num_bytes} bytes",
            remedy="Use --fresh to start over.",
        )
