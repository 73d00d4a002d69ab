"""Drawn splits keep groups whole, come as near to their fractions as groups allow, and repeat."""

import hashlib
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from d2v.data.plan import Plan
from d2v.data.prepare import PrepareSettings
from d2v.errors import UsageError
from d2v.samples import SourceItem
from tests.prepare_case import make_items, run, stored_names

FRACTIONS = {"val": 0.1, "test": 0.2}


def of_groups(sizes: dict[str, int], without: int = 0, seed: int = 0) -> list[SourceItem]:
    """So many items of each group, and so many without one, shuffled."""
    names = [name for name, size in sizes.items() for _ in range(size)] + [""] * without
    random.Random(seed).shuffle(names)
    return [
        SourceItem(
            name=f"{number} {name}",
            content=b"%d" % number,
            label="ab"[number % 2],
            group=name or None,
        )
        for number, name in enumerate(names)
    ]


def drawn(
    tmp_path: Path,
    items: list[SourceItem],
    fractions: dict[str, float] = FRACTIONS,
    seed: int = 0,
) -> dict[str, Counter[str]]:
    """Split -> group -> items, by the plan alone."""
    plan = Plan(tmp_path / "plan.sqlite")
    plan.fill(items, lambda count: None)
    draw = plan.draw(fractions, seed, "auto")
    found = {}
    for split in ("train", "val", "test"):
        planned = [item for _, item in plan.items(split, draw, 0)]
        assert len(planned) == plan.num_planned(split, draw)
        assert all(item.split == split for item in planned)
        found[split] = Counter(item.group or "" for item in planned)
    plan.close()
    return found


def slow_draw(sizes: dict[str, int], fractions: dict[str, float], seed: int) -> dict[str, str]:
    """Group -> split: in an order drawn by hash, whatever brings a split nearer to its share.

    Test is served before val. One group always stays in train; a split that has none keeps one.
    """

    def ticket(name: str) -> bytes:
        return hashlib.sha256(f"d2v split {seed} groups {name}".encode()).digest()

    total, home = sum(sizes.values()), dict.fromkeys(sizes, "train")
    splits = [split for split in ("test", "val") if fractions[split] > 0]
    goal = {split: int(total * fractions[split] + 0.5) for split in splits}

    def items_in(split: str) -> int:
        return sum(size for name, size in sizes.items() if home[name] == split)

    def groups_in(split: str) -> list[str]:
        return [name for name in sizes if home[name] == split]

    for name in sorted(sizes, key=ticket):
        for split in splits:
            before = abs(goal[split] - items_in(split))
            after = abs(goal[split] - items_in(split) - sizes[name])
            waiting = [other for other in splits if other != split and not groups_in(other)]
            if after < before and len(groups_in("train")) - 1 >= 1 + len(waiting):
                home[name] = split
                break
    for split in splits:
        if not groups_in(split) and len(groups_in("train")) > 1:
            home[min(groups_in("train"), key=lambda name: (sizes[name], ticket(name)))] = split
    return home


@pytest.mark.parametrize("seed", range(40))
def test_groups__go_where_plain_loops_send_them(tmp_path: Path, seed: int) -> None:
    draws = random.Random(seed)
    sizes = {f"g{n}": draws.choice([1, 2, 5, 40]) for n in range(draws.choice([1, 2, 3, 7, 30]))}
    fractions = {"val": draws.choice([0, 0.1, 0.3]), "test": draws.choice([0, 0.01, 0.2])}
    found = drawn(tmp_path, of_groups(sizes), fractions, seed)
    expected = slow_draw(sizes, fractions, seed)
    for split, groups in found.items():
        assert groups == {name: sizes[name] for name in sizes if expected[name] == split}
    for split, groups in found.items():
        wanted = split == "train" or fractions[split] > 0
        assert bool(groups) >= (wanted and len(sizes) > 2)
    assert found["train"]


def test_groups__no_group_of_train_would_bring_a_split_nearer(tmp_path: Path) -> None:
    for seed in range(20):
        draws = random.Random(seed)
        sizes = {f"g{number}": draws.randint(1, 30) for number in range(40)}
        found = drawn(tmp_path, of_groups(sizes), seed=seed)
        for split, fraction in FRACTIONS.items():
            missing = int(sum(sizes.values()) * fraction + 0.5) - found[split].total()
            assert all(abs(missing - size) >= abs(missing) for size in found["train"].values())
            assert abs(missing) <= 15


def test_groups__one_of_two_is_drawn_and_one_stays(tmp_path: Path) -> None:
    found = drawn(tmp_path, of_groups({"large": 99, "small": 7}), {"val": 0.01, "test": 0.0})
    assert found == {"train": {"large": 99}, "val": {"small": 7}, "test": {}}
    found = drawn(tmp_path, of_groups({"only": 50}), {"val": 0.5, "test": 0.2})
    assert found == {"train": {"only": 50}, "val": {}, "test": {}}


def test_groups__are_drawn_by_the_seed_alone(tmp_path: Path) -> None:
    sizes = dict.fromkeys(map(str, range(60)), 3)
    first = drawn(tmp_path, of_groups(sizes, seed=1))
    assert drawn(tmp_path, of_groups(sizes, seed=2)) == first  # another order of the source
    assert drawn(tmp_path, of_groups(sizes, seed=1), seed=1) != first


def test_items_without_a_group__are_drawn_one_by_one_beside_the_groups(tmp_path: Path) -> None:
    sizes = dict.fromkeys(map(str, range(50)), 4)
    found = drawn(tmp_path, of_groups(sizes, without=100))
    assert {split: groups[""] for split, groups in found.items()} == {
        "train": 70,
        "val": 10,
        "test": 20,
    }
    assert found["val"].total() - 10 == 20
    assert all(count == 4 for groups in found.values() for name, count in groups.items() if name)


def test_groups__of_splits_that_the_source_has_stay_where_they_are(tmp_path: Path) -> None:
    items = of_groups(dict.fromkeys(map(str, range(20)), 5))
    tests = [
        replace(item, name=f"t{item.name}", content=b"t" + item.read(), split="test")
        for item in items[:10]
    ]
    found = drawn(tmp_path, [*items, *tests])
    assert found["test"].total() == 10
    assert found["val"].total() == 10
    assert set(found["val"].values()) == {5}
    assert set(found["test"]) & set(found["train"])  # the source's business


def test_split_by_sample__ignores_groups(tmp_path: Path) -> None:
    items = of_groups({"a": 50, "b": 50})
    settings = PrepareSettings(val_fraction=0.2, split_by="sample")
    summary = run(items, tmp_path / "grouped", settings)
    assert (summary.splits["val"].num_items, summary.splits["val"].num_groups) == (20, 2)
    plain = [replace(item, group=None) for item in items]
    run(plain, tmp_path / "plain", settings)
    assert stored_names(tmp_path / "grouped", "val") == stored_names(tmp_path / "plain", "val")


def test_split_by_group__without_groups_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"split_by is group.*split_by=auto"):
        run(make_items(20), tmp_path / "new", PrepareSettings(split_by="group"))
    assert not (tmp_path / "new").exists()


def test_summary__counts_the_groups_that_are_stored(tmp_path: Path) -> None:
    items = of_groups({"a": 9, "b": 9, "c": 9}, without=9)
    items += [SourceItem(name=f"x{n}", content=b"bad", group="rejected") for n in range(9)]
    settings = PrepareSettings(split_by="group", val_fraction=0.25)
    summary = run(items, tmp_path, settings)
    groups = {split: part.num_groups for split, part in summary.splits.items()}
    assert sum(groups.values()) == 3
    names = stored_names(tmp_path, "val")
    assert groups["val"] == len({name.split(" ")[1] for name in names} - {""})
