"""What preparing did, in figures."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from d2v.data.journal import Journal, Part
from d2v.data.plan import SPLITS

MAX_TEXTS = 1000
"""Distinct reasons or warnings counted one by one; the rest together: memory stays flat."""


@dataclass(frozen=True, kw_only=True)
class SplitSummary:
    """One split on disk."""

    num_items: int
    """Inputs stored; one may give several samples."""
    num_samples: int
    num_groups: int
    """Distinct groups that the stored inputs belong to; 0 where the source names none."""
    num_shards: int
    num_bytes: int
    length: int
    """Of all samples together, in the unit of `StoredSample.length`."""
    totals: dict[str, float]
    """What the samples' totals add up to: name -> sum."""


@dataclass(frozen=True, kw_only=True)
class PrepareSummary:
    """Every input is stored, rejected or dropped. Counts are of inputs unless said otherwise."""

    splits: dict[str, SplitSummary]
    """"train", "val", "test", those that exist."""
    classes: list[str]
    total: int
    stored: int
    rejected: int
    duplicates: int
    """Inputs whose raw bytes had been stored before; dropped or not."""
    dropped: int
    reasons: dict[str, int]
    """Reason for rejecting -> inputs, most frequent first."""
    warnings: dict[str, int]
    """What is odd about stored inputs -> inputs, most frequent first."""

    def __post_init__(self) -> None:
        assert self.total == self.stored + self.rejected + self.dropped, "inputs went missing"
        assert self.stored == sum(split.num_items for split in self.splits.values())
        assert self.rejected == sum(self.reasons.values())

    def as_json(self) -> dict[str, Any]:
        """Plain dictionaries, for result.json."""
        return asdict(self)

    @staticmethod
    def from_json(record: dict[str, Any]) -> PrepareSummary:
        """The inverse of `as_json`."""
        splits = {name: SplitSummary(**split) for name, split in record["splits"].items()}
        return PrepareSummary(**{**record, "splits": splits})


def summary_of(journal: Journal, groups: dict[str, int], classes: list[str]) -> PrepareSummary:
    """Add up a journal that has all parts.

    Args:
        journal: of the preparation.
        groups: split -> distinct groups stored; its keys are the splits there are.
        classes: label names.
    """
    counts: Counter[str] = Counter()
    for part in journal.parts:
        counts.update(part.counts)
    return PrepareSummary(
        splits={
            split: _split_summary(journal.of(split), groups[split])
            for split in reversed(SPLITS)
            if split in groups
        },
        classes=classes,
        total=counts["stored"] + counts["rejected"] + counts["dropped"],
        stored=counts["stored"],
        rejected=counts["rejected"],
        duplicates=counts["duplicates"],
        dropped=counts["dropped"],
        reasons=_counted(journal, "rejected", "reason", "other reasons"),
        warnings=_counted(journal, "warnings", "warning", "other warnings"),
    )


def _split_summary(parts: list[Part], num_groups: int) -> SplitSummary:
    shards = [part.shard for part in parts if part.shard is not None]
    totals: dict[str, float] = {}
    for part in parts:
        for name, value in part.totals.items():
            totals[name] = totals.get(name, 0) + value
    return SplitSummary(
        num_items=sum(part.counts.get("stored", 0) for part in parts),
        num_samples=sum(shard.num_samples for shard in shards),
        num_groups=num_groups,
        num_shards=len(shards),
        num_bytes=sum(shard.bytes for shard in shards),
        length=sum(part.counts.get("length", 0) for part in parts),
        totals=dict(sorted(totals.items())),
    )


def _counted(journal: Journal, kind: str, field: str, others: str) -> dict[str, int]:
    """How often each text stands in a list, most frequent first."""
    texts: Counter[str] = Counter()
    for entry in journal.entries(kind, journal.parts):
        known = entry[field] in texts or len(texts) < MAX_TEXTS
        texts[entry[field] if known else others] += 1
    return dict(sorted(texts.items(), key=lambda entry: (-entry[1], entry[0])))
