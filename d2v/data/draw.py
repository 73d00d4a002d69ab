"""The drawing of val and test: item by item with fair shares of every label, or group by group."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator


class Draw:
    """A seeded, stratified choice of items, made while they stream by.

    For every split the total is fraction x items, rounded, and each label's share is within one
    of its exact part; a label keeps at least one item in train.

    Args:
        labels: label -> number of items to draw from one by one.
        fractions: split -> part of the items, 0..1.
        seed: of the choice.
        in_groups: split -> items that are drawn for it in whole groups, beside these.
    """

    def __init__(
        self,
        labels: dict[str | None, int],
        fractions: dict[str, float],
        seed: int,
        in_groups: dict[str, int],
    ) -> None:
        self._labels, self._seed, self._in_groups = labels, seed, in_groups
        self._quotas: dict[str, dict[str | None, int]] = {}
        room = {label: count - 1 for label, count in labels.items()}
        for split in sorted(fractions):
            quota = _shares(labels, room, fractions[split], self._generator(split))
            room = {label: room[label] - quota[label] for label in room}
            self._quotas[split] = quota

    def num_drawn(self, split: str) -> int:
        """Items drawn for a split, val or test."""
        return sum(self._quotas.get(split, {}).values()) + self._in_groups.get(split, 0)

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


def draw_groups(
    groups: Iterable[tuple[bytes, int]], num_groups: int, wanted: dict[str, int]
) -> Iterator[tuple[bytes, int, str]]:
    """Give whole groups to splits; train keeps one group at least.

    A group is drawn where it brings its split nearer to what is wanted. So in the end no group
    of train would bring a split nearer, unless train could not spare it.

    Args:
        groups: name and number of items, in random order; they are streamed.
        num_groups: how many there are.
        wanted: split -> items.

    Yields:
        Name, number of items and split of each group, in the order given.
    """
    items, spare = dict.fromkeys(wanted, 0), num_groups - 1
    for name, count in groups:
        chosen = "train"
        for split, number in wanted.items():
            # A split that has nothing yet keeps its claim on one of the groups to come.
            claims = sum(items[other] == 0 for other in wanted if other != split)
            if count < 2 * (number - items[split]) and spare > claims:
                chosen = split
                items[split] += count
                spare -= 1
                break
        yield name, count, chosen


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
