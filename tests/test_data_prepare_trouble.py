"""What can go wrong while preparing is explained, and large sources need no more memory."""

import errno
import os
import tracemalloc
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from d2v.data.prepare import (
    PrepareProgress,
    PrepareSettings,
    prepare,
)
from d2v.errors import D2VError, UsageError
from d2v.samples import SourceItem, StoredSample
from tests.prepare_case import SMALL, digests, encode, make_items, run


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
        with pytest.raises(
            D2VError, match=r"\.tar: No space left.* 3 shards are complete"
        ) as caught:
            run(items, tmp_path / "cut")
    assert caught.value.exit_code == 1
    left = digests(tmp_path / "cut")
    whole = digests(tmp_path / "whole")
    assert all(whole[name] == digest for name, digest in left.items() if name.endswith(".tar"))
    assert not [name for name in left if name.endswith((".tmp", ".sqlite"))]
    run(items, tmp_path / "cut")
    assert digests(tmp_path / "cut") == whole


def test_second_writer__is_kept_out(tmp_path: Path) -> None:
    def intruding(item: SourceItem) -> list[StoredSample]:
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
    def broken(item: SourceItem) -> list[StoredSample]:
        raise ZeroDivisionError(item.name)

    with pytest.raises(ZeroDivisionError):
        prepare(lambda: make_items(9), broken, tmp_path / "new", SMALL, seed=0)
    assert not (tmp_path / "new").exists()


def die(item: SourceItem) -> list[StoredSample]:
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
    settings = PrepareSettings(shard_samples=200)
    tracemalloc.start()
    try:
        prepare(partial(many, count), encode, dest, settings, seed=0)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory__does_not_grow_with_the_source(tmp_path: Path) -> None:
    small, large = (peak_bytes(tmp_path / str(count), count) for count in (500, 4000))
    assert large < 1.2 * small + 100_000


def test_progress__tells_listing_and_encoding_and_ends_complete(tmp_path: Path) -> None:
    seen: list[PrepareProgress] = []
    summary = run(make_items(50, same=4, bad=5), tmp_path, progress=seen.append)
    assert seen[0].stage == "list"
    last = seen[-1]
    assert (last.stage, last.done, last.total) == ("encode", 50, 50)
    assert (last.rejected, last.duplicates) == (summary.rejected, summary.duplicates)
