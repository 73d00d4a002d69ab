"""Samples as the user has them and as shards hold them, before anything is a tensor."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class SourceItem:
    """One raw sample as the user has it, before it is read.

    Either `path` names a file, of which `offset` and `num_bytes` may cut a piece, or `content`
    holds the bytes (data that ships inside a package).
    """

    name: str
    """Stable name for reports: the path relative to the source, with forward slashes."""
    path: Path | None = None
    content: bytes | None = None
    offset: int = 0
    """Where the item begins in its file, in bytes."""
    num_bytes: int | None = None
    """How much of its file the item takes; None to the end."""
    part: str = ""
    """Tells items apart that share the same bytes (a stretch of time); belongs to identity."""
    label: str | None = None
    split: str | None = None
    """"train", "val" or "test" where the source itself says so, else None."""
    group: str | None = None
    """What must stay together in one split (a person, say); None where nothing must."""
    details: dict[str, str] = field(default_factory=dict)
    """What else the source says of it; the modality fixes the keys."""
    problem: str | None = None
    """Why the source itself rules it out; it will be rejected with this reason."""

    def read(self) -> bytes:
        """The raw bytes. Raises OSError where the file cannot be read."""
        if self.content is not None:
            return self.content
        assert self.path is not None
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(-1 if self.num_bytes is None else self.num_bytes)


@dataclass(frozen=True, kw_only=True)
class StoredSample:
    """One sample as shards hold it; an item may give several."""

    members: dict[str, bytes]
    """Extension -> content."""
    length: int = 1
    """What batches are measured by where samples differ: the modality fixes the unit."""
    totals: dict[str, float] = field(default_factory=dict)
    """Figures that the summary adds up over each split; the modality fixes the names."""
    warnings: tuple[str, ...] = ()
    """What is odd about it, though it can be used."""
