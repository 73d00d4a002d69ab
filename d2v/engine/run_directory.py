"""One stage's folder: its settings, its place in the world, its result, and one owner at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from d2v.engine.checkpoint import replace_durably
from d2v.errors import D2VError, UsageError

_PACKAGES = (
    "d2v",
    "torch",
    "torchvision",
    "torchaudio",
    "timm",
    "numpy",
    "pillow",
    "soundfile",
    "tokenizers",
    "espeakng-loader",
    "webdataset",
)
"""Those that decide what data and results come out; one that is not installed has version null."""


class RunDirectory:
    """The folder of one stage of one run. Made by `opened`, which holds its lock."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def plots(self) -> Path:
        """Folder for PNG files."""
        folder = self.path / "plots"
        folder.mkdir(exist_ok=True)
        return folder

    def result(self) -> dict[str, Any] | None:
        """What a finished stage left; None where it is not finished."""
        return _read_json(self.path / "result.json")

    def has_progress(self) -> bool:
        """Whether starting over would lose anything: shards, checkpoints or a result."""
        return any(
            path.name == "result.json" or path.suffix in (".tar", ".safetensors")
            for path in self.path.rglob("*.*")
        )

    def check_same(
        self,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Any],
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        """Refuse to go on with other settings or other inputs than the stage was started with.

        Args:
            settings: dotted key -> value, those that decide the result.
            inputs: fingerprints of what the stage reads.
            defaults: what a setting was in a d2v that did not have it yet; without one, a setting
                that the start does not name has changed.

        Raises:
            UsageError: names every difference and the ways out.
        """
        started = _read_json(self.path / "started.json")
        if started is None or not self.has_progress():
            return
        for kind, now in (("settings", settings), ("inputs", inputs)):
            before = started.get(kind, {})
            if kind == "settings":
                before = _unsaid(before, defaults or {}) | before
            now = json.loads(json.dumps(now))  # tuples become lists, as in the file
            differing = [
                f"{key} {before.get(key)!r}, now it is {now.get(key)!r}"
                for key in sorted({*before, *now})
                if before.get(key) != now.get(key)
            ]
            if differing:
                raise UsageError(
                    f"{self.path} was started with {'; '.join(differing)}",
                    remedy=f"Start this stage over (d2v {self.path.name} RECIPE --fresh), or "
                    "choose another --out or name.",
                )

    def start(
        self, settings: Mapping[str, Any], inputs: Mapping[str, Any], config: str, device: str
    ) -> None:
        """Write what the stage is about to do."""
        replace_durably(self.path / "config.yaml", config.encode())
        environment = {
            "python": platform.python_version(),
            "system": platform.platform(),
            "device": device,
            "versions": {name: _version(name) for name in _PACKAGES},
            "git_commit": _git_commit(),
            "inputs": dict(inputs),
        }
        replace_durably(self.path / "environment.json", _json(environment))
        replace_durably(self.path / "started.json", _json({"settings": settings, "inputs": inputs}))

    def is_started(self) -> bool:
        """Whether the stage was ever begun here."""
        return (self.path / "started.json").exists()

    def forget_start(self) -> None:
        """Take back `start`: what was wrong with the recipe must not bind the next try."""
        for name in ("started.json", "config.yaml", "environment.json"):
            (self.path / name).unlink(missing_ok=True)
        with suppress(OSError):
            self.path.rmdir()  # only where nothing else is in it

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the result; from now on the stage is finished."""
        replace_durably(self.path / "result.json", _json(result))


def _unsaid(before: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of settings that stand beside what `before` names.

    Not those of a section that it does not know, or that was null or empty when it was written; nor
    of one that has settings there and none now.
    """
    paths = [said.split(".")[:-1] for said in before]
    sections = {".".join(path[:depth]) for path in paths for depth in range(len(path) + 1)}
    return {
        key: value
        for key, value in defaults.items()
        if key.rpartition(".")[0] in sections and key not in sections
    }


@contextmanager
def opened(path: Path, *, fresh: bool) -> Iterator[RunDirectory]:
    """Own a stage's folder for the time of the block.

    Args:
        path: made where it is missing.
        fresh: empty it first.

    Raises:
        UsageError: another process owns it, or it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path.parent / f".{path.name}.lock").open("w")
    except OSError as error:
        raise UsageError(
            f"The run directory {path} cannot be made: {error.strerror}",
            remedy="Choose another --out.",
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise UsageError(
                    f"Another process is using {path}",
                    remedy="Wait for it, stop it, or choose another --out.",
                ) from error
            # Some network file systems know no locks: go on without one.
        os.register_at_fork(after_in_child=lock.close)  # a worker must not outlive us as owner
        if fresh:
            _empty(path)
        yield RunDirectory(path)


def stage_result(path: Path) -> dict[str, Any] | None:
    """The result of a finished stage, without owning its folder."""
    return _read_json(path / "result.json")


def _empty(path: Path) -> None:
    # The result goes first: a kill in between must not leave a folder that looks finished.
    (path / "result.json").unlink(missing_ok=True)
    for child in path.iterdir():
        shutil.rmtree(child) if child.is_dir() else child.unlink()


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise D2VError(
            f"{path} is damaged: {error}", remedy="Pass --fresh to start this stage over."
        ) from error
    return content


def _json(value: object) -> bytes:
    return (json.dumps(_sayable(value), indent=1, sort_keys=True, default=str) + "\n").encode()


def _sayable(value: object) -> object:
    """JSON knows no NaN and no infinity: null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _sayable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_sayable(part) for part in value]
    return value


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Commit of the checkout that this code runs from; None for an installed wheel.

    A file that git does not track lies in `site-packages`; a repository around it is not ours.
    """
    here = Path(__file__)
    tracked = _git(here.parent, "ls-files", "--error-unmatch", here.name)
    return _git(here.parent, "rev-parse", "HEAD") if tracked else None


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None where it fails or is not there."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
