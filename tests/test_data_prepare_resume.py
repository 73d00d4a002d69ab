"""After a kill, preparing goes on as if there had been none; a finished one is left alone."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest

from d2v.data.prepare import (
    PrepareProgress,
    PrepareSettings,
    PrepareSummary,
    clear,
    prepare,
)
from d2v.errors import UsageError
from d2v.samples import SourceItem
from tests.prepare_case import SMALL, digests, encode, interrupted, make_items, run


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

    prepare(partial(make_items, 9), encode, tmp_path / "a", SMALL, seed=0, identity={"n": 9})
    with pytest.raises(UsageError, match="another source"):
        prepare(partial(make_items, 8), encode, tmp_path / "a", SMALL, seed=0, identity={"n": 8})


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
import os, random, shutil, signal, sys
from pathlib import Path

from tests.prepare_case import digests, encode_several, make_items, run
from d2v.data.files import WholeFile
from d2v.data.journal import PartWriter, has_parts

dest, items = Path(sys.argv[1]), make_items(45, same=9, bad=13)

def child(name, kill_at=None, before=True, first_samples=None):
    """Prepare in a process of its own, which kills itself at its n-th durable call.

    Or when it has stored the first of several samples of its n-th item that gives several.
    """
    pid = os.fork()
    if pid == 0:
        count = 0
        def deadly(call):
            def wrapped(*args, **kwargs):
                nonlocal count
                count += 1
                if count == kill_at and before:
                    os.kill(os.getpid(), signal.SIGKILL)
                try:
                    return call(*args, **kwargs)
                finally:
                    if count == kill_at:
                        os.kill(os.getpid(), signal.SIGKILL)
            return wrapped
        for call in ("fsync", "replace", "unlink", "rmdir"):
            setattr(os, call, deadly(getattr(os, call)))
        WholeFile.write = deadly(WholeFile.write)
        store, left = PartWriter.store, first_samples
        def deadly_store(part, key, *arguments):
            nonlocal left
            store(part, key, *arguments)
            if left is not None and key.endswith("-00000"):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        PartWriter.store = deadly_store
        files = lambda totals: {"totals.json": repr(totals).encode()}
        run(items, dest / name, encoder=encode_several, about={"a": 1}, summarise=files)
        os._exit(0)
    return os.waitpid(pid, 0)[1]

assert child("whole") == 0
whole = digests(dest / "whole")
number, survived, kills = 0, False, 0
while not survived:
    number += random.Random(number).randint(1, 24)
    survived = child(f"cut{number}", number, before=number % 2 == 0) == 0
    kills += not survived
    assert child(f"cut{number}") == 0
    assert digests(dest / f"cut{number}") == whole, number
inside = [child(f"inside{number}", first_samples=number) for number in (1, 9, 20, 26)]
assert inside == [signal.SIGKILL] * 4, inside
for number in (1, 9, 20, 26):
    assert child(f"inside{number}") == 0
    assert digests(dest / f"inside{number}") == whole, number
again = 1
while child("often", again * 16) != 0:  # the same folder, killed again and again
    again += 1
assert digests(dest / "often") == whole
moment, state = 0, dest / "state"
while not (list(state.glob("*/*.tar")) and not has_parts(state / ".prepare")):
    shutil.rmtree(state, ignore_errors=True)
    moment += 1
    assert child("state", moment, before=False) == signal.SIGKILL
for second in range(1, 13):  # a shard has its name and no line yet, and a second kill comes early
    shutil.copytree(state, dest / f"twice{second}")
    assert child(f"twice{second}", second, before=False) == signal.SIGKILL
    assert child(f"twice{second}") == 0, second
    assert digests(dest / f"twice{second}") == whole, second
print(kills, again)
'''


def test_kill_9__at_any_moment_then_going_on_gives_the_bytes_of_an_undisturbed_run(
    tmp_path: Path,
) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kills, again = map(int, done.stdout.split())
    assert kills > 20
    assert again > 3
