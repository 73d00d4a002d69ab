"""Which item goes where: the listing of a source on disk, and the drawing of val and test.

Nothing here grows with the number of items except the file on disk.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

from d2v.data.files import WriteFailedError
from d2v.errors import UsageError
from d2v.types import SourceItem

SPLITS = ("test", "val", "train")
"""In the order of encoding: of identical items the first is the original, so that a copy in train
is the one to be dropped, test stays whole, and nothing of it leaks into train."""

Row = tuple[int, bytes, bytes | None, bytes | None, bytes | None, str | None]


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
                "CREATE TABLE plan(number INTEGER PRIMARY KEY, name, path, content, label, split);"
                "CREATE TABLE seen(sha256 BLOB PRIMARY KEY, number, split) WITHOUT ROWID;"
                "BEGIN;"
            )
        self.total = 0
        self._hash = hashlib.sha256()
        self._counts: Counter[tuple[str | None, str | None]] = Counter()

    def fill(self, items: Iterable[SourceItem], listed: Callable[[int], None]) -> None:
        """Write down every item; `listed` is told their number as it grows."""
        with self._errors():
            self._database.executemany(
                "INSERT INTO plan VALUES (?, ?, ?, ?, ?, ?)",
                self._rows(items, listed),
            )

    def sha256(self) -> str:
        """Names, labels, splits, sizes and times of all items: changes when the source does."""
        return self._hash.hexdigest()

    def classes(self) -> list[str]:
        """All labels, sorted; as numbers where all of them are whole numbers."""
        labels = {label for _, label in self._counts if label is not None}
        if all(re.fullmatch("-?[0-9]+", label) for label in labels):
            return sorted(labels, key=lambda label: (int(label), label))
        return sorted(labels)

    def draw(self, fractions: dict[str, float], seed: int) -> Draw:
        """Decide how many items of every label are drawn for the splits the source lacks."""
        own = {split for split, _ in self._counts}
        fractions = {split: part for split, part in fractions.items() if split not in own}
        labels: Counter[str | None] = Counter()
        for (split, label), count in self._counts.items():
            if split in (None, "train"):
                labels[label] += count
        return Draw(dict(labels), fractions, seed)

    def num_planned(self, split: str, draw: Draw) -> int:
        """Items that go to `split`."""
        own = sum(count for (name, _), count in self._counts.items() if name == split)
        if split != "train":
            return own + draw.num_drawn(split)
        unsaid = sum(count for (name, _), count in self._counts.items() if name is None)
        return own + unsaid - draw.num_drawn("val") - draw.num_drawn("test")

    def items(self, split: str, draw: Draw, skip: int) -> Iterator[tuple[int, SourceItem]]:
        """The items of a split with their numbers, without the first `skip` of them."""
        return islice(self._split_items(split, draw), skip, None)

    def first_seen(self, sha256: bytes) -> tuple[str, str] | None:
        """Name and split of the stored item with the same raw bytes."""
        with self._errors():
            row = self._database.execute(
                "SELECT name, seen.split FROM seen JOIN plan USING (number) WHERE sha256 = ?",
                (sha256,),
            ).fetchone()
        return None if row is None else (_text(row[0]), row[1])

    def remember(self, sha256: bytes, number: int, split: str) -> None:
        """Note a stored item, unless its bytes are known already."""
        with self._errors():
            self._database.execute(
                "INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", (sha256, number, split)
            )

    def close(self) -> None:
        """Remove the scratch file."""
        with suppress(sqlite3.Error):
            self._database.close()
        self._path.unlink(missing_ok=True)

    def _rows(self, items: Iterable[SourceItem], listed: Callable[[int], None]) -> Iterator[Row]:
        for item in items:
            if item.split not in (None, *SPLITS):
                raise UsageError(
                    f"{item.name} says it belongs to split {item.split!r}",
                    expected="train, val, test or nothing",
                )
            path = None if item.path is None else _bytes(str(item.path))
            self._hash.update(json.dumps(_identity(item)).encode() + b"\n")
            self._counts[item.split, item.label] += 1
            label = None if item.label is None else _bytes(item.label)
            yield self.total, _bytes(item.name), path, item.content, label, item.split
            self.total += 1
            listed(self.total)

    def _split_items(self, split: str, draw: Draw) -> Iterator[tuple[int, SourceItem]]:
        decide = draw.decisions()
        cursor = self._database.execute("SELECT * FROM plan ORDER BY number")
        for number, name, path, content, label, own in cursor:
            label = None if label is None else _text(label)
            if (own if own in ("val", "test") else decide(label)) == split:
                place = None if path is None else Path(_text(path))
                yield (
                    number,
                    SourceItem(
                        name=_text(name), path=place, content=content, label=label, split=split
                    ),
                )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise WriteFailedError(self._path, str(error)) from error


class Draw:
    """A seeded, stratified choice of items, made while they stream by.

    For every split the total is fraction x items, rounded, and each label's share is within one
    of its exact part; a label keeps at least one item in train.

    Args:
        labels: label -> number of items to draw from.
        fractions: split -> part of the items, 0..1.
        seed: of the choice.
    """

    def __init__(
        self, labels: dict[str | None, int], fractions: dict[str, float], seed: int
    ) -> None:
        self._labels, self._seed = labels, seed
        self._quotas: dict[str, dict[str | None, int]] = {}
        room = {label: count - 1 for label, count in labels.items()}
        for split in sorted(fractions):
            quota = _shares(labels, room, fractions[split], self._generator(split))
            room = {label: room[label] - quota[label] for label in room}
            self._quotas[split] = quota

    def num_drawn(self, split: str) -> int:
        """Items drawn for a split."""
        return sum(self._quotas.get(split, {}).values())

    def decisions(self) -> Callable[[str | None], str]:
        """A function from each item's label, in order, to its split (selection sampling)."""
        generator = self._generator("items")
        left = dict(self._labels)
        wanted = {split: dict(quota) for split, quota in self._quotas.items()}

        def decide(label: str | None) -> str:
            ticket = generator.random() * left[label]
            left[label] -= 1
            for split, quota in wanted.items():
                if ticket < quota[label]:
                    quota[label] -= 1
                    return split
                ticket -= quota[label]
            return "train"

        return decide

    def _generator(self, purpose: str) -> random.Random:
        return random.Random(f"d2v split {self._seed} {purpose}")


def _shares(
    labels: dict[str | None, int],
    room: dict[str | None, int],
    fraction: float,
    generator: random.Random,
) -> dict[str | None, int]:
    """Whole shares by largest remainder; which of equal remainders wins is drawn."""
    order = sorted(labels, key=lambda label: (label is not None, label or ""))
    generator.shuffle(order)
    shares = {label: min(int(labels[label] * fraction), room[label]) for label in order}
    order.sort(key=lambda label: int(labels[label] * fraction) - labels[label] * fraction)
    missing = int(sum(labels.values()) * fraction + 0.5) - sum(shares.values())
    for label in order:
        if missing > 0 and shares[label] < room[label]:
            shares[label] += 1
            missing -= 1
    return shares


def _identity(item: SourceItem) -> list[object]:
    state: object = None
    if item.content is not None:
        state = hashlib.sha256(item.content).hexdigest()
    elif item.path is not None:
        with suppress(OSError):  # a file that is not there is rejected later, with its reason
            stat = item.path.stat()
            state = [stat.st_size, stat.st_mtime_ns]
    return [item.name, item.label, item.split, state]


def _bytes(text: str) -> bytes:
    """File names need not be valid Unicode, and SQLite's text must."""
    return text.encode("utf-8", "surrogatepass")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")
