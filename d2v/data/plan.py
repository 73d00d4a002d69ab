"""Which item goes where: the listing of a source on disk, and the split of every item.

Nothing here grows with the number of items or groups except the file on disk.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from d2v.data.draw import Draw, draw_groups
from d2v.data.files import WriteFailedError
from d2v.data.itemrow import COLUMNS, as_item, as_row, as_text, identity
from d2v.errors import UsageError
from d2v.samples import SourceItem

SPLITS = ("test", "val", "train")
"""In the order of encoding: of identical items the first is the original, so that a copy in train
is the one to be dropped, test stays whole, and nothing of it leaks into train."""

_TABLES = f"""
CREATE TABLE plan(number INTEGER PRIMARY KEY, {", ".join(COLUMNS)});
CREATE TABLE groups(name BLOB PRIMARY KEY, num_items, split) WITHOUT ROWID;
CREATE TABLE seen(sha256 BLOB PRIMARY KEY, number, split) WITHOUT ROWID;
CREATE TABLE stored_groups(split, name, PRIMARY KEY(split, name)) WITHOUT ROWID;
"""
_DRAWABLE = "FROM plan WHERE kin IS NOT NULL AND (split IS NULL OR split = 'train')"


class Plan:
    """A source's items, numbered from 0 in its own order."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.unlink(missing_ok=True)
        with self._errors():
            # A scratch file, made again after a kill: no need for it to survive one.
            self._database = sqlite3.connect(path, isolation_level=None)
            self._database.executescript(
                "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-16384;"
                f"{_TABLES} BEGIN;"
            )
        self.total = 0
        self._hash = hashlib.sha256()
        self._counts: Counter[tuple[str | None, str | None, bool]] = Counter()
        """(split, label, whether there is a group) -> items."""

    def fill(self, items: Iterable[SourceItem], listed: Callable[[int], None]) -> None:
        """Write down every item; `listed` is told their number as it grows."""
        with self._errors():
            places = "?" + ", ?" * len(COLUMNS)
            self._database.executemany(
                f"INSERT INTO plan VALUES ({places})", self._rows(items, listed)
            )

    def sha256(self) -> str:
        """Of all that the source says of its items, and their sizes and times."""
        return self._hash.hexdigest()

    def classes(self) -> list[str]:
        """All labels, sorted; as numbers where all of them are whole numbers."""
        labels = {label for _, label, _ in self._counts if label is not None}
        if all(re.fullmatch("-?[0-9]+", label) for label in labels):
            return sorted(labels, key=lambda label: (int(label), label))
        return sorted(labels)

    def draw(
        self, fractions: dict[str, float], seed: int, split_by: Literal["auto", "group", "sample"]
    ) -> Draw:
        """Decide what is drawn for the splits that the source lacks; called once.

        Args:
            fractions: split -> part of the items, 0..1.
            seed: of the choice.
            split_by: "sample" draws item by item; else groups stay whole, and what has none is
                drawn item by item; "group" insists on groups.

        Raises:
            UsageError: there are no groups to insist on.
        """
        if split_by == "group" and not any(has_group for _, _, has_group in self._counts):
            raise UsageError(
                "prepare.split_by is group, and no item of the source says what it belongs to",
                expected="a source with groups",
                remedy="Set prepare.split_by=auto, which draws item by item where there are none.",
            )
        own = {split for split, _, _ in self._counts}
        fractions = {split: part for split, part in fractions.items() if split not in own}
        in_groups = {} if split_by == "sample" else self._draw_groups(fractions, seed)
        labels: Counter[str | None] = Counter()
        for (split, label, has_group), count in self._counts.items():
            if split in (None, "train") and (split_by == "sample" or not has_group):
                labels[label] += count
        return Draw(dict(labels), fractions, seed, in_groups)

    def num_planned(self, split: str, draw: Draw) -> int:
        """Items that go to `split`."""
        own = sum(count for (name, _, _), count in self._counts.items() if name == split)
        if split != "train":
            return own + draw.num_drawn(split)
        unsaid = sum(count for (name, _, _), count in self._counts.items() if name is None)
        return own + unsaid - draw.num_drawn("val") - draw.num_drawn("test")

    def items(self, split: str, draw: Draw, skip: int) -> Iterator[tuple[int, SourceItem]]:
        """The items of a split with their numbers, without the first `skip` of them."""
        return islice(self._split_items(split, draw), skip, None)

    def first_seen(self, sha256: bytes) -> tuple[str, str] | None:
        """Name and split of the stored item with the same raw bytes."""
        row = self._row("SELECT name, seen.split FROM seen JOIN plan USING (number) "
                        "WHERE sha256 = ?", sha256)  # fmt: skip
        return None if row is None else (as_text(row[0]), row[1])

    def remember(self, sha256: bytes, number: int, split: str) -> None:
        """Note a stored item and its group, unless they are known already."""
        with self._errors():
            self._database.execute(
                "INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", (sha256, number, split)
            )
            self._database.execute(
                "INSERT OR IGNORE INTO stored_groups SELECT ?, kin FROM plan "
                "WHERE number = ? AND kin IS NOT NULL",
                (split, number),
            )

    def num_groups(self, split: str) -> int:
        """Distinct groups among the items stored in a split."""
        row = self._row("SELECT COUNT(*) FROM stored_groups WHERE split = ?", split)
        return 0 if row is None else int(row[0])

    def close(self) -> None:
        """Remove the scratch file."""
        with suppress(sqlite3.Error):
            self._database.close()
        self._path.unlink(missing_ok=True)

    def _rows(
        self, items: Iterable[SourceItem], listed: Callable[[int], None]
    ) -> Iterator[tuple[Any, ...]]:
        for item in items:
            if item.split not in (None, *SPLITS):
                raise UsageError(
                    f"{item.name} says it belongs to split {item.split!r}",
                    expected="train, val, test or nothing",
                )
            self._hash.update(json.dumps(identity(item), sort_keys=True).encode() + b"\n")
            self._counts[item.split, item.label, item.group is not None] += 1
            yield self.total, *as_row(item)
            self.total += 1
            listed(self.total)

    def _split_items(self, split: str, draw: Draw) -> Iterator[tuple[int, SourceItem]]:
        decide = draw.decisions()
        cursor = self._database.execute(
            "SELECT groups.split, plan.* FROM plan LEFT JOIN groups ON groups.name = plan.kin "
            "ORDER BY number"
        )
        for of_group, number, *row in cursor:
            item = as_item(row)
            goes_to = item.split
            if goes_to not in ("val", "test"):
                goes_to = of_group or decide(item.label)
            if goes_to == split:
                yield number, replace(item, split=split)

    def _draw_groups(self, fractions: dict[str, float], seed: int) -> dict[str, int]:
        """Write down the split of every group. Returns split -> items drawn in groups."""

        def ticket(group: bytes) -> bytes:
            return hashlib.sha256(f"d2v split {seed} groups ".encode() + group).digest()

        with self._errors():
            # A random order that needs no memory: by hash, sorted on disk.
            self._database.create_function("ticket", 1, ticket, deterministic=True)
            counts = self._row(f"SELECT COUNT(DISTINCT kin), COUNT(*) {_DRAWABLE}")
            num_groups, num_items = counts or (0, 0)
            wanted = {
                split: int(num_items * part + 0.5)
                for split, part in sorted(fractions.items())
                if part > 0
            }
            groups = self._database.execute(
                f"SELECT kin, COUNT(*) {_DRAWABLE} GROUP BY kin ORDER BY ticket(kin)"
            )
            self._database.executemany(
                "INSERT INTO groups VALUES (?, ?, ?)", draw_groups(groups, num_groups, wanted)
            )
            return {split: self._drawn_in_groups(split) for split in wanted}

    def _drawn_in_groups(self, split: str) -> int:
        """Items of the groups drawn for a split; where all were too large, of the smallest."""
        sizes = "SELECT TOTAL(num_items), COUNT(*) FROM groups WHERE split = ?"
        (items, count), (_, spare) = (self._row(sizes, name) or (0, 0) for name in (split, "train"))
        if count == 0 and spare > 1:
            self._database.execute(
                "UPDATE groups SET split = ? WHERE name = (SELECT name FROM groups "
                "WHERE split = 'train' ORDER BY num_items, ticket(name) LIMIT 1)",
                (split,),
            )
            return self._drawn_in_groups(split)
        return int(items)

    def _row(self, query: str, *values: Any) -> Any:
        """The first row that a query finds; None where it finds none."""
        with self._errors():
            return self._database.execute(query, values).fetchone()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise WriteFailedError(self._path, str(error)) from error
