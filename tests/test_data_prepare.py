"""Preparing loses nothing, repeats to the byte, and goes on after a kill as if there was none."""

import errno
import hashlib
import json
import os
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from d2v.data.prepare import (
    PrepareProgress,
    PrepareSettings,
    PrepareSummary,
    clear,
    prepare,
)
from d2v.data.shards import Shards
from d2v.errors import BadSampleError, D2VError, UsageError
from d2v.types import SourceItem

SMALL = PrepareSettings(shard_samples=7, val_fraction=0.2, test_fraction=0.1)


def make_items(
    count: int, *, labels: int = 3, same: int = 0, bad: int = 0, split: str | None = None
) -> list[SourceItem]:
    """`count` items; every `same`-th has the bytes of item 0, every `bad`-th cannot be used."""
    items = []
    for number in range(count):
        content = f"content of {number} ".encode() * (number % 5 + 1)
        if same and number % same == 0:
            content = b"content that comes back"
        if bad and number % bad == 1:
            content = b"bad" + content
        label = None if labels == 0 else f"class {number % labels}"
        items.append(SourceItem(name=f"{number}.txt", content=content, label=label, split=split))
    return items


def encode(item: SourceItem) -> dict[str, bytes]:
    content = item.read()
    if content.startswith(b"bad"):
        raise BadSampleError("it is bad")
    return {"txt": content, "meta.json": b'{"length": %d}' % len(content)}


def run(
    items: Iterable[SourceItem],
    dest: Path,
    settings: PrepareSettings = SMALL,
    *,
    seed: int = 0,
    progress: Callable[[PrepareProgress], None] | None = None,
) -> PrepareSummary:
    kept = list(items)
    return prepare(lambda: kept, encode, dest, settings, seed=seed, progress=progress)


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def stored_names(dest: Path, split: str) -> list[str]:
    shards = Shards.open(dest / split)
    return [shards.source(number) for number in range(len(shards))]


# What is written


def test_prepare__writes_shards_indexes_and_lists_and_nothing_else(tmp_path: Path) -> None:
    run(make_items(50), tmp_path)
    assert list(digests(tmp_path)) == [
        "duplicates.jsonl",
        "rejected.jsonl",
        "summary.json",
        "test/index.json",
        "test/test-000000.tar",
        *("train/index.json", *(f"train/train-00000{number}.tar" for number in range(5))),
        *("val/index.json", "val/val-000000.tar", "val/val-000001.tar"),
    ]


def test_every_input__is_stored_rejected_or_dropped_exactly_once(tmp_path: Path) -> None:
    items = make_items(200, same=6, bad=11)
    summary = run(items, tmp_path, SMALL.model_copy(update={"duplicates": "drop"}))
    stored = [name for split in summary.splits for name in stored_names(tmp_path, split)]
    rejected = [entry["source"] for entry in lines(tmp_path / "rejected.jsonl")]
    dropped = [entry["source"] for entry in lines(tmp_path / "duplicates.jsonl")]
    assert Counter(stored + rejected + dropped) == Counter(item.name for item in items)
    assert (len(stored), len(rejected), len(dropped)) == (
        summary.stored,
        summary.rejected,
        summary.dropped,
    )
    assert summary.reasons == {"it is bad": len(rejected)}
    assert summary.total == 200


def test_samples__come_back_with_content_label_and_source(tmp_path: Path) -> None:
    items = {item.name: item for item in make_items(60)}
    summary = run(items.values(), tmp_path)
    for split in summary.splits:
        shards = Shards.open(tmp_path / split)
        for number in range(len(shards)):
            item, sample = items[shards.source(number)], shards.read(number)
            assert sample["txt"] == item.content
            assert shards.classes[shards.labels[number]] == item.label
            assert sample["cls"] == str(shards.labels[number]).encode()
            assert shards.key(number) == f"{int(item.name.removesuffix('.txt')):09d}"


def test_same_input__gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(make_items(80, same=9, bad=13), tmp_path / name)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_workers__do_not_change_the_bytes(tmp_path: Path) -> None:
    for workers in (0, 2):
        settings = SMALL.model_copy(update={"workers": workers})
        run(make_items(80, same=9, bad=13), tmp_path / str(workers), settings)
    assert digests(tmp_path / "0") == digests(tmp_path / "2")


def test_shards__close_at_their_number_of_samples(tmp_path: Path) -> None:
    run(make_items(50, labels=0), tmp_path, PrepareSettings(shard_samples=20, val_fraction=0))
    index = json.loads((tmp_path / "train" / "index.json").read_text())
    assert [shard["num_samples"] for shard in index["shards"]] == [20, 20, 10]


def test_shards__stay_below_their_size(tmp_path: Path) -> None:
    items = [
        SourceItem(name=str(number), content=bytes([number]) * size)
        for number, size in enumerate([9000, 9000, 90_000, 10, 10])
    ]
    run(items, tmp_path, PrepareSettings(shard_megabytes=0.030720, val_fraction=0))
    index = json.loads((tmp_path / "train" / "index.json").read_text())
    assert [shard["num_samples"] for shard in index["shards"]] == [2, 1, 2]
    assert [shard["bytes"] <= 30720 for shard in index["shards"]] == [True, False, True]


def test_classes__sort_as_numbers_where_all_are_numbers(tmp_path: Path) -> None:
    for name, labels, expected in (
        ("numbers", ["10", "9", "-1"], ["-1", "9", "10"]),
        ("words", ["10", "9", "a"], ["10", "9", "a"]),
    ):
        items = [SourceItem(name=label, content=label.encode(), label=label) for label in labels]
        summary = run(items, tmp_path / name, PrepareSettings(val_fraction=0))
        assert summary.classes == expected


def test_names__need_not_be_valid_unicode(tmp_path: Path) -> None:
    item = SourceItem(name="caf\udce9\n.txt", content=b"x", label="\udce9")
    run([item], tmp_path, PrepareSettings(val_fraction=0))
    shards = Shards.open(tmp_path / "train")
    assert (shards.source(0), shards.classes) == (item.name, [item.label])


# Splits


def test_val__has_the_exact_count_and_every_class_its_share(tmp_path: Path) -> None:
    sizes = {"a": 101, "b": 53, "c": 7, "d": 1}
    items = [
        SourceItem(name=f"{label}{number}", content=f"{label}{number}".encode(), label=label)
        for label, size in sizes.items()
        for number in range(size)
    ]
    settings = PrepareSettings(val_fraction=0.1, test_fraction=0.2)
    summary = run(items, tmp_path, settings)
    assert summary.splits["val"].num_samples == 16  # 16.2
    assert summary.splits["test"].num_samples == 32  # 32.4
    for split, fraction in (("val", 0.1), ("test", 0.2)):
        shards = Shards.open(tmp_path / split)
        for label, size in sizes.items():
            drawn = int((shards.labels == shards.classes.index(label)).sum())
            assert abs(drawn - fraction * size) < 1
    train = Shards.open(tmp_path / "train")
    assert sorted(set(train.labels.tolist())) == [0, 1, 2, 3]  # even "d", which has one item


def test_val__depends_on_the_seed_and_nothing_else(tmp_path: Path) -> None:
    items = make_items(100)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(items, tmp_path / name, seed=seed)
    assert stored_names(tmp_path / "a", "val") == stored_names(tmp_path / "b", "val")
    assert stored_names(tmp_path / "a", "val") != stored_names(tmp_path / "c", "val")


def test_splits_of_the_source__are_kept(tmp_path: Path) -> None:
    items = [
        replace(item, split=split)
        for item, split in zip(make_items(6), ["train", "val", None, "test", "val", None], strict=True)
    ]
    run(items, tmp_path, PrepareSettings(val_fraction=0.5, test_fraction=0.4))
    assert stored_names(tmp_path, "train") == ["0.txt", "2.txt", "5.txt"]
    assert stored_names(tmp_path, "val") == ["1.txt", "4.txt"]
    assert stored_names(tmp_path, "test") == ["3.txt"]


def test_val__is_drawn_where_the_source_only_lacks_val(tmp_path: Path) -> None:
    items = make_items(90, split="train") + [
        replace(item, name="t" + item.name, content=b"t" + item.read())
        for item in make_items(10, split="test")
    ]
    summary = run(items, tmp_path, SMALL)
    assert {name: split.num_samples for name, split in summary.splits.items()} == {
        "train": 72,
        "val": 18,
        "test": 10,
    }


def test_unknown_split__is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="split 'extra'"):
        run(make_items(3, split="extra"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_fractions__must_leave_something_for_train() -> None:
    with pytest.raises(ValueError, match="below 1"):
        PrepareSettings(val_fraction=0.5, test_fraction=0.5)


# Duplicates


def twins() -> list[SourceItem]:
    return [
        SourceItem(name=f"{split}/{number}", content=f"same {number}".encode(), split=split)
        for split in ("train", "val", "test")
        for number in (0, 0, 1)
    ]


def test_duplicates__are_listed_with_their_first_occurrence_and_kept(tmp_path: Path) -> None:
    summary = run(twins(), tmp_path)
    assert (summary.stored, summary.duplicates, summary.dropped) == (9, 7, 0)
    found = lines(tmp_path / "duplicates.jsonl")
    assert found[0] == {
        "source": "test/0",
        "split": "test",
        "first": "test/0",
        "first_split": "test",
        "dropped": False,
    }
    assert {entry["first_split"] for entry in found} == {"test"}


def test_dropping__keeps_test_whole_and_leaves_none_of_it_in_train(tmp_path: Path) -> None:
    settings = PrepareSettings(duplicates="drop")
    summary = run(twins(), tmp_path, settings)
    assert (summary.stored, summary.dropped) == (2, 7)
    assert stored_names(tmp_path, "test") == ["test/0", "test/1"]
    assert stored_names(tmp_path, "train") == []


def test_rejected_twins__are_no_duplicates(tmp_path: Path) -> None:
    items = [SourceItem(name=str(number), content=b"bad") for number in range(3)]
    summary = run([*items, *make_items(5)], tmp_path)
    assert (summary.rejected, summary.duplicates) == (3, 0)


# Going on, and not doing things twice


def test_finished__returns_its_summary_without_looking_at_the_source(tmp_path: Path) -> None:
    def untouchable() -> Iterable[SourceItem]:
        raise AssertionError

    first = run(make_items(50, same=4, bad=5), tmp_path)
    before = digests(tmp_path)
    assert prepare(untouchable, encode, tmp_path, SMALL, seed=0) == first
    assert digests(tmp_path) == before
    assert PrepareSummary.from_json(json.loads(json.dumps(first.as_json()))) == first


def test_finished__with_other_settings_or_source_is_not_passed_off(tmp_path: Path) -> None:
    run(make_items(50), tmp_path)
    with pytest.raises(UsageError, match="--fresh"):
        run(make_items(50), tmp_path, seed=1)
    with pytest.raises(UsageError, match="--fresh"):
        run(make_items(50), tmp_path, PrepareSettings(shard_samples=8))
    run(make_items(50), tmp_path, SMALL.model_copy(update={"workers": 1}))

    prepare(partial(make_items, 9), encode, tmp_path / "a", SMALL, seed=0)
    with pytest.raises(UsageError, match="another source"):
        prepare(partial(make_items, 8), encode, tmp_path / "a", SMALL, seed=0)


def interrupted(dest: Path, items: list[SourceItem], after: int) -> None:
    """Leaves a preparation that was stopped after so many items."""
    calls = iter(range(after))

    def stopping(item: SourceItem) -> dict[str, bytes]:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return encode(item)

    with pytest.raises(KeyboardInterrupt):
        prepare(lambda: items, stopping, dest, SMALL, seed=0)


def test_interrupted__leaves_whole_shards_only_and_goes_on(tmp_path: Path) -> None:
    items = make_items(80, same=9, bad=13)
    run(items, tmp_path / "whole")
    interrupted(tmp_path / "cut", items, after=40)
    whole = digests(tmp_path / "whole")
    left = digests(tmp_path / "cut")
    assert all(whole[name] == digest for name, digest in left.items() if name.endswith(".tar"))
    assert not [name for name in left if name.endswith((".tmp", ".sqlite", "index.json"))]
    seen: list[PrepareProgress] = []
    run(items, tmp_path / "cut", progress=seen.append)
    assert digests(tmp_path / "cut") == whole
    assert (seen[-1].done, seen[-1].total) == (80, 80)


def test_interrupted_before_the_first_shard__leaves_nothing(tmp_path: Path) -> None:
    interrupted(tmp_path / "new", make_items(80), after=3)
    assert not (tmp_path / "new").exists()


def test_changed_source__is_not_mixed_with_the_old_one(tmp_path: Path) -> None:
    interrupted(tmp_path, make_items(80), after=40)
    with pytest.raises(UsageError, match="changed since.*--fresh"):
        run(make_items(81), tmp_path)
    with pytest.raises(UsageError, match="other settings.*--fresh"):
        run(make_items(80), tmp_path, seed=1)
    clear(tmp_path)
    run(make_items(81), tmp_path)


def test_changed_file__is_noticed_by_its_size(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text(f"number {number}")
    paths = sorted(tmp_path.glob("*.txt"))
    items = [SourceItem(name=path.name, path=path) for path in paths]
    interrupted(tmp_path / "out", items, after=25)
    paths[3].write_text("something else")
    with pytest.raises(UsageError, match="changed since"):
        run(items, tmp_path / "out")


def test_torn_journal_line__is_ignored(tmp_path: Path) -> None:
    items = make_items(80)
    run(items, tmp_path / "whole")
    interrupted(tmp_path / "cut", items, after=40)
    with (tmp_path / "cut" / ".prepare" / "journal.jsonl").open("ab") as journal:
        journal.write(b'{"log": "part-0000')
    run(items, tmp_path / "cut")
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")


def test_missing_finished_shard__is_noticed(tmp_path: Path) -> None:
    interrupted(tmp_path, make_items(80), after=40)
    next(tmp_path.rglob("*.tar")).unlink()
    with pytest.raises(UsageError, match="missing or changed"):
        run(make_items(80), tmp_path)


def test_strangers_shards__are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "train-000000.tar").write_bytes(b"precious")
    with pytest.raises(UsageError, match="no journal"):
        run(make_items(20), tmp_path)
    assert (tmp_path / "train" / "train-000000.tar").read_bytes() == b"precious"


def test_clear__removes_our_files_only(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "mine.tar").write_bytes(b"precious")
    run(make_items(80), tmp_path)
    clear(tmp_path)
    assert list(digests(tmp_path)) == ["train/mine.tar"]


KILLED = '''
import os, random, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_data_prepare import digests, make_items, run
from d2v.data.files import WholeFile

dest, items = Path(sys.argv[1]), make_items(60, same=9, bad=13)

def child(name, kill_at=None, before=True):
    """Prepare in a process of its own, which kills itself at its n-th durable call."""
    pid = os.fork()
    if pid == 0:
        count = 0
        def deadly(call):
            def wrapped(*args, **kwargs):
                nonlocal count
                count += 1
                if count == kill_at and before:
                    os.kill(os.getpid(), signal.SIGKILL)
                result = call(*args, **kwargs)
                if count == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result
            return wrapped
        for call in ("fsync", "replace", "unlink", "rmdir"):
            setattr(os, call, deadly(getattr(os, call)))
        WholeFile.write = deadly(WholeFile.write)
        run(items, dest / name)
        os._exit(0)
    return os.waitpid(pid, 0)[1]

assert child("whole") == 0
whole = digests(dest / "whole")
number, survived, kills = 0, False, 0
while not survived:
    number += random.Random(number).randint(1, 12)
    survived = child(f"cut{number}", number, before=number % 2 == 0) == 0
    kills += not survived
    assert child(f"cut{number}") == 0
    assert digests(dest / f"cut{number}") == whole, number
again = 1
while child("often", again * 9) != 0:  # the same folder, killed again and again
    again += 1
assert digests(dest / "often") == whole
print(kills, again)
'''


def test_kill_9__at_any_moment_then_going_on_gives_the_bytes_of_an_undisturbed_run(
    tmp_path: Path,
) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": str(here.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(tmp_path / "out"), str(here)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kills, again = map(int, done.stdout.split())
    assert kills > 20
    assert again > 3


# Trouble


def test_all_rejected__says_why_and_leaves_nothing(tmp_path: Path) -> None:
    items = [SourceItem(name=f"{number}.txt", content=b"bad") for number in range(5)]
    with pytest.raises(UsageError, match=r"None of the 5 inputs.*0.txt: it is bad; 1.txt"):
        run(items, tmp_path / "new", PrepareSettings(val_fraction=0))
    assert not (tmp_path / "new").exists()


def test_empty_source__is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no items"):
        run([], tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_unreadable_file__is_rejected_with_its_reason(tmp_path: Path) -> None:
    gone = SourceItem(name="gone.txt", path=tmp_path / "gone.txt")
    summary = run([gone, *make_items(5)], tmp_path / "out")
    assert summary.reasons == {"cannot be read: No such file or directory": 1}


def test_full_disk__is_explained_and_leaves_whole_files_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = make_items(80)
    run(items, tmp_path / "whole")
    real, calls = os.fsync, iter(range(20))

    def filling_up(descriptor: int) -> None:
        if next(calls, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", filling_up)
        with pytest.raises(D2VError, match=r"train-.*No space left.* \d+ shards are complete") as caught:
            run(items, tmp_path / "cut")
    assert caught.value.exit_code == 1
    left = digests(tmp_path / "cut")
    whole = digests(tmp_path / "whole")
    assert all(whole[name] == digest for name, digest in left.items() if name.endswith(".tar"))
    assert not [name for name in left if name.endswith((".tmp", ".sqlite"))]
    run(items, tmp_path / "cut")
    assert digests(tmp_path / "cut") == whole


def test_second_writer__is_kept_out(tmp_path: Path) -> None:
    def intruding(item: SourceItem) -> dict[str, bytes]:
        with pytest.raises(UsageError, match="right now"):
            run(make_items(20), tmp_path)
        return encode(item)

    prepare(lambda: make_items(20), intruding, tmp_path, SMALL, seed=0)


def test_shards__are_not_written_into_their_source(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(UsageError, match="own source"):
        run([SourceItem(name="a", path=tmp_path / "a.txt")], tmp_path)
    assert list(digests(tmp_path)) == ["a.txt"]


def test_encoders_own_fault__is_not_hidden(tmp_path: Path) -> None:
    def broken(item: SourceItem) -> dict[str, bytes]:
        raise ZeroDivisionError(item.name)

    with pytest.raises(ZeroDivisionError):
        prepare(lambda: make_items(9), broken, tmp_path / "new", SMALL, seed=0)
    assert not (tmp_path / "new").exists()


def die(item: SourceItem) -> dict[str, bytes]:
    os._exit(9)


def test_dead_worker__is_explained(tmp_path: Path) -> None:
    settings = PrepareSettings(workers=1)
    with pytest.raises(D2VError, match="encoder process died"):
        prepare(lambda: make_items(9), die, tmp_path / "new", settings, seed=0)
    assert not (tmp_path / "new").exists()


# Size


def many(count: int) -> Iterator[SourceItem]:
    for number in range(count):
        yield SourceItem(name=f"folder/{number:08d}", content=b"%d" % (number % 997), label="a")


def peak_bytes(dest: Path, count: int) -> int:
    settings = PrepareSettings(shard_samples=500)
    tracemalloc.start()
    try:
        prepare(partial(many, count), encode, dest, settings, seed=0)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory__does_not_grow_with_the_source(tmp_path: Path) -> None:
    small, large = (peak_bytes(tmp_path / str(count), count) for count in (800, 8000))
    assert large < 1.2 * small + 100_000


def test_progress__tells_listing_and_encoding_and_ends_complete(tmp_path: Path) -> None:
    seen: list[PrepareProgress] = []
    summary = run(make_items(50, same=4, bad=5), tmp_path, progress=seen.append)
    assert seen[0].stage == "list"
    last = seen[-1]
    assert (last.stage, last.done, last.total) == ("encode", 50, 50)
    assert (last.rejected, last.duplicates) == (summary.rejected, summary.duplicates)
