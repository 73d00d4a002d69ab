"""Named parts of the train split: fine-tuning on few labels, the same few for everybody.

N samples. All subsets of one seed are prefixes of one order, so that smaller ones lie in larger.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from d2v.data.amounts import A_CLASS, ALL, PERCENT, parsed
from d2v.data.files import whole_file
from d2v.data.index import Ints
from d2v.data.results import SUBSETS
from d2v.data.shards import Shards
from d2v.errors import UsageError


class Unit(NamedTuple):
    """What lengths are told in: plural, and how much of a stored length makes one."""

    name: str
    size: int


def check_units(amounts: Mapping[str, str], unit: Unit) -> None:
    """Refuse lengths in another unit than the data's.

    Args:
        amounts: name -> amount, as checked by the settings.
        unit: of the data's lengths.

    Raises:
        UsageError: names the subset.
    """
    for name, amount in amounts.items():
        if parsed(amount).unit not in (PERCENT, A_CLASS, unit.name):
            raise UsageError(
                f"prepare.subsets.{name} is {amount!r}",
                expected=f"an amount such as '10 %', '20 a class' or '600 {unit.name}'",
                remedy=f"Lengths are told in {unit.name} here.",
            )


def write_subsets(
    folder: Path, amounts: Mapping[str, str], *, seed: int, unit: Unit
) -> dict[str, dict[str, Any]]:
    """Write `subsets.json` beside the splits; a file that says the same already is left alone.

    It holds, for each name, the amount, the seed, the number of samples, their length as stored
    and their keys. Only the index of the train split is read: subsets can be named at any time.

    Args:
        folder: of the splits.
        amounts: name -> amount, as checked by the settings; {} removes the file.
        seed: of the order.
        unit: of lengths.

    Returns:
        What the file holds.

    Raises:
        UsageError: an amount is more than there is; nothing was written.
    """
    path = folder / SUBSETS
    if not amounts:
        path.unlink(missing_ok=True)
        return {}
    check_units(amounts, unit)
    train = Shards.open(folder / "train")
    keys = [train.key(i) for i in range(len(train))]
    order = subset_order(train.labels, keys, seed)
    subsets = {}
    for name, amount in amounts.items():
        numbers = _chosen(name, amount, order, train, unit)
        subsets[name] = {
            "amount": amount,
            "seed": seed,
            "samples": len(numbers),
            "length": int(train.lengths[numbers].sum()),
            "train_sha256": train.fingerprint,
            "keys": [keys[i] for i in numbers.tolist()],
        }
    content = json.dumps(subsets, indent=1, sort_keys=True).encode() + b"\n"
    if not path.exists() or path.read_bytes() != content:
        with whole_file(path) as file:
            file.write(content)
    return subsets


def subset_numbers(folder: Path, name: str, shards: Shards) -> Ints:
    """The places in the train split of a subset's samples, ascending.

    Args:
        folder: of the splits, with `subsets.json`.
        name: of the subset; `all` for every sample.
        shards: the train split.

    Raises:
        UsageError: there is no such subset, or it was drawn from other shards.
    """
    if name == ALL:
        return np.arange(len(shards))
    path = folder / SUBSETS
    try:
        subsets = json.loads(path.read_bytes())
        found = subsets.get(name)
        keys = None if found is None else set(found["keys"])
        made_of = None if found is None else found["train_sha256"]
    except FileNotFoundError:
        subsets, keys, made_of = {}, None, None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unusable(f"{path} is damaged ({type(error).__name__}: {error})") from None
    if keys is None:
        raise _unknown(path, name, list(subsets))
    numbers = np.array([i for i in range(len(shards)) if shards.key(i) in keys], np.int64)
    if made_of != shards.fingerprint or len(numbers) != len(keys):
        raise _unusable(f"{path} was written for other shards than those in {shards.folder}")
    return numbers


def subset_order(labels: Ints, keys: list[str], seed: int) -> Ints:
    """An order of all samples of which every beginning has its fair share of each class.

    Within a class (and among what has none) samples are ordered by a hash of seed and key, which
    draws them at random. The k-th of n stands at (k + 1/2) / n of the whole; but the first one of
    each class goes before all others, so that no class is left out as soon as there is room.

    Args:
        labels: (N,) class ids, -1 where there is none.
        keys: N different names.
        seed: of the draw.

    Returns:
        (N,) places.
    """
    tickets = [hashlib.sha256(f"d2v subset {seed} {key}".encode()).digest() for key in keys]
    drawn = sorted(range(len(keys)), key=tickets.__getitem__)
    sizes = {int(label): int(count) for label, count in zip(*_counts(labels), strict=True)}
    seen = dict.fromkeys(sizes, 0)
    places = {}
    for i in drawn:
        label = int(labels[i])
        rank, seen[label] = seen[label], seen[label] + 1
        places[i] = (rank > 0, (rank + 0.5) / sizes[label], tickets[i])
    return np.array(sorted(places, key=places.__getitem__), np.int64)


def _chosen(name: str, amount: str, order: Ints, train: Shards, unit: Unit) -> Ints:
    """The places of a subset's samples, ascending."""
    number, measure = parsed(amount)
    if measure == PERCENT:
        chosen = order[: max(1, int(number / 100 * len(order) + 0.5))]
    elif measure == A_CLASS:
        chosen = _of_each_class(name, int(number), order, train)
    else:
        total = float(train.lengths.sum()) / unit.size
        if number > total:
            raise _too_much(name, amount, f"train has {total:,.6g} {unit.name}")
        sums = np.cumsum(train.lengths[order])
        # No longer than asked for, unless the first sample alone is.
        chosen = order[: max(1, int(np.searchsorted(sums, number * unit.size, side="right")))]
    return np.sort(chosen)


def _of_each_class(name: str, number: int, order: Ints, train: Shards) -> Ints:
    if not (train.labels >= 0).any():
        raise _too_much(name, f"{number} a class", "no sample of train has a class")
    of_class = train.labels[order]
    chosen = []
    for label in np.unique(of_class[of_class >= 0]).tolist():
        members = order[of_class == label]
        if len(members) < number:
            has = f"{train.classes[label]} has {len(members):,} in train"
            raise _too_much(name, f"{number} a class", has)
        chosen.append(members[:number])
    return np.concatenate(chosen)


def _counts(labels: Ints) -> tuple[Ints, Ints]:
    values, counts = np.unique(labels, return_counts=True)
    return values, counts


def _too_much(name: str, amount: str, has: str) -> UsageError:
    return UsageError(
        f"prepare.subsets.{name} asks for {amount}, and {has}",
        expected="no more than there is",
        remedy="Ask for less, or leave it out; what is prepared stays.",
    )


def _unknown(path: Path, name: str, known: list[str]) -> UsageError:
    near = difflib.get_close_matches(name, known, n=1)
    return UsageError(
        f"There is no subset {name!r} in {path}",
        expected=", ".join([ALL, *known]),
        remedy=f"Did you mean {near[0]}?"
        if near
        else f"Set prepare.subsets.{name} (to '10 %', say) and run d2v prepare again.",
    )


def _unusable(happened: str) -> UsageError:
    return UsageError(
        happened,
        expected="subsets of the shards beside it",
        remedy="Run d2v prepare again: it writes them anew.",
    )
