"""Proves: `d2v embed` that was stopped goes on, and ends with the same bytes."""

import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from d2v.commands import embed_out, embed_parts
from d2v.commands.embed_formats import FORMATS
from d2v.errors import D2VError, UsageError
from tests.embed_case import (
    KILLED,
    Run,
    Runs,
    contents,
    embedded,
    npy,
    runs_fixture,
    stop_after,
)
from tests.process_case import Started

__all__ = ["runs_fixture"]


def stopped(run: Run, out: Path, number: int, *asked: str) -> str:
    """A command that got a signal after two parts; what it said."""
    line = ["embed", str(run.folder), *map(str, run.files), "--out", str(out), *asked]
    log = out.with_name(f"log-{number}")
    code, said = Started(line, log, brake=partial(stop_after, 2, number)).wait()
    assert code == KILLED[signal.Signals(number)], said
    log.unlink(missing_ok=True)
    return said


@pytest.mark.parametrize(
    ("number", "name"),
    [(signal.SIGKILL, "f.npy"), (signal.SIGTERM, "f.parquet"), (signal.SIGINT, "shards")],
)
def test_stopped__the_same_command_ends_with_the_same_bytes(
    runs: Runs, tmp_path: Path, number: int, name: str
) -> None:
    run = runs("speech-convolution")
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    asked: dict[str, Any] = {"batch_size": 1, "per_token": name != "f.npy"}
    flags = ["--batch-size", "1", *["--per-token"] * asked["per_token"]]
    stopped(run, tmp_path / "two" / name, number, *flags)
    assert list(contents(tmp_path / "two" / f".{name}.partial"))[:2] == [
        "part-000000.floats", "part-000000.jsonl",
    ]  # fmt: skip
    assert not (tmp_path / "two" / name).exists()
    outcome = embedded(run, *run.files, out=tmp_path / "two" / name, **asked)
    assert "2 of them from an earlier start" in outcome.report.headline
    embedded(run, *run.files, out=tmp_path / "one" / name, **asked)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert [path for path in (tmp_path / "two").iterdir() if path.name[0] == "."] == []


@pytest.fixture(name="begun")
def begun_fixture(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose `f.npy` has one part of three samples: a fault ended it."""
    run = runs("vision")
    monkeypatch.setattr(embed_parts, "PART_SECONDS", 0.0)
    original, left = embed_parts.Parts.add, iter(range(1))

    def add(self: embed_parts.Parts, piece: Any) -> None:
        if next(left, None) is None:
            raise D2VError("a fault")
        original(self, piece)

    with monkeypatch.context() as patch:
        patch.setattr(embed_parts.Parts, "add", add)
        with pytest.raises(D2VError, match="a fault"):
            embedded(run, *run.files, out=tmp_path / "f.npy")
    assert (tmp_path / ".f.npy.partial" / "part-000000.jsonl").exists()
    return run


def test_begun__other_settings_are_refused(begun: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"begun with block 2, now it is 1.*--fresh"):
        embedded(begun, *begun.files, out=tmp_path / "f.npy", block=1)
    assert len(npy(begun, *begun.files, out=tmp_path, block=1, fresh=True)) == 4


def test_begun__other_or_changed_inputs_are_refused(begun: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"begun with inputs 4, now it is 3"):
        embedded(begun, *begun.files[1:], out=tmp_path / "f.npy")
    os.utime(begun.files[2], (1, 1))
    with pytest.raises(UsageError, match="begun with inputs_sha256"):
        embedded(begun, *begun.files, out=tmp_path / "f.npy")


def test_begun__another_process_is_refused(begun: Run, tmp_path: Path) -> None:
    settings = begun_settings(tmp_path)
    shape = {"fresh": False, "per_token": False, "ragged": False}
    with (
        embed_parts.opened(tmp_path / "f.npy", settings, **shape),
        pytest.raises(UsageError, match="Another process"),
    ):
        embedded(begun, *begun.files, out=tmp_path / "f.npy")


def begun_settings(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / ".f.npy.partial" / "settings.json").read_text())
    return found


def test_begun__is_not_embedded_again(begun: Run, tmp_path: Path) -> None:
    """Numbers of the first part, changed on disk, are those that come out."""
    path = tmp_path / ".f.npy.partial" / "part-000000.floats"
    np.full(3 * 16, 7, np.float32).tofile(path)
    found = npy(begun, *begun.files, out=tmp_path)
    assert (found[:3] == 7).all()
    assert (found[3:] != 7).all()


def test_half_a_part__is_done_again(begun: Run, tmp_path: Path) -> None:
    """A kill between the two files of a part leaves its numbers without its rows."""
    folder = tmp_path / ".f.npy.partial"
    (folder / "part-000001.floats").write_bytes(b"half")
    (folder / ".part-000001.jsonl.tmp").write_bytes(b"{")
    found = npy(begun, *begun.files, out=tmp_path)
    (tmp_path / "new").mkdir()
    assert np.array_equal(found, npy(begun, *begun.files, out=tmp_path / "new"))


@pytest.mark.parametrize("name", ["f.npy", "f.tar", "f.parquet", "shards"])
def test_failed_while_the_file_was_put_together__it_is_put_together_again(
    runs: Runs, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs("vision")

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(embed_out, "sync_folder", full)
        with pytest.raises(D2VError, match=r"cannot be written: No space.*it continues"):
            embedded(run, *run.files, out=tmp_path / name)
    outcome = embedded(run, *run.files, out=tmp_path / name)
    assert "4 of them from an earlier start" in outcome.report.headline
    (tmp_path / "new").mkdir()
    embedded(run, *run.files, out=tmp_path / "new" / name)
    made = {file: content for file, content in contents(tmp_path).items() if f"new/{file}" in
            contents(tmp_path)}  # fmt: skip
    assert made == contents(tmp_path / "new")


def test_parts__do_not_show_in_the_file(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs("text")
    one = npy(run, *run.files, out=tmp_path)
    monkeypatch.setattr(embed_parts, "_PART_BYTES", 1)
    for name in FORMATS:
        embedded(run, *run.files, out=tmp_path / f"g{name}", batch_size=3)
    assert np.array_equal(np.load(tmp_path / "g.npy"), one)


# Finished


def test_finished__the_same_command_does_nothing(runs: Runs, tmp_path: Path) -> None:
    run = runs("vision")
    embedded(run, *run.files, out=tmp_path / "f.npy")
    before = (tmp_path / "f.npy").stat().st_mtime_ns
    outcome = embedded(run, *run.files, out=tmp_path / "f.npy")
    assert "already finished; nothing was done" in outcome.report.headline
    assert (tmp_path / "f.npy").stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["f.npy", "shards"])
def test_finished__other_settings_need_fresh(runs: Runs, tmp_path: Path, name: str) -> None:
    run = runs("vision")
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    embedded(run, *run.files, bad, out=tmp_path / name)
    with pytest.raises(UsageError, match=r"was made with inputs 5, now it is 4.*--fresh"):
        embedded(run, *run.files, out=tmp_path / name)
    embedded(run, *run.files, out=tmp_path / name, fresh=True)
    assert [path for path in contents(tmp_path) if "errors" in path] == []
