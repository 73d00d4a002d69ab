"""What preparing did, in figures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


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


@dataclass(frozen=True, kw_only=True)
class SplitSummary:
    """One split on disk."""

    num_samples: int
    num_shards: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class PrepareSummary:
    """Every input is stored, rejected or dropped."""

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

    def __post_init__(self) -> None:
        assert self.total == self.stored + self.rejected + self.dropped, "inputs went missing"
        assert self.stored == sum(split.num_samples for split in self.splits.values())
        assert self.rejected == sum(self.reasons.values())

    def as_json(self) -> dict[str, Any]:
        """Plain dictionaries, for result.json."""
        return asdict(self)

    @staticmethod
    def from_json(record: dict[str, Any]) -> PrepareSummary:
        """The inverse of `as_json`."""
        splits = {name: SplitSummary(**split) for name, split in record["splits"].items()}
        return PrepareSummary(**{**record, "splits": splits})
