"""The real `d2v` in processes of its own, to be stopped, killed and started again.

Forked from a server that has imported everything once, so that a start costs little.
"""

import json
import multiprocessing.forkserver
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing import resource_tracker
from multiprocessing.context import ForkServerContext
from pathlib import Path

from d2v.cli import main
from d2v.data.journal import Journal, Part
from d2v.engine.tracking import Tracker
from d2v.modalities.text import learn
from d2v.modalities.text.items import read_texts
from d2v.modalities.text.tokenizer import TOKENIZER_FILE
from d2v.samples import SourceItem

Brake = Callable[[], None]
"""Makes a process wait, from a certain point on, until it is killed: no test may depend on how far
a process gets before a signal reaches it."""


def server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    names = ("tests.fork_server", "tests.training_case", "tests.process_case",
             "d2v.commands.pretrain", "d2v.commands.prepare", "d2v.commands.run")  # fmt: skip
    context.set_forkserver_preload(list(names))
    return context


# Brakes, for a process of their own


def after_steps(steps: int) -> None:
    """Once so many steps are logged."""
    original, logged = Tracker.log, iter(range(steps))

    def log(self: Tracker, step: int, figures: Mapping[str, float]) -> None:
        if next(logged, None) is None:
            time.sleep(600)
        original(self, step, figures)

    Tracker.log = log  # type: ignore[method-assign]  # of a process of its own


def after_parts(parts: int) -> None:
    """Once so many parts are prepared."""
    original, finished = Journal.append, iter(range(parts))

    def append(self: Journal, part: Part) -> None:
        if next(finished, None) is None:
            time.sleep(600)
        original(self, part)

    Journal.append = append  # type: ignore[method-assign]  # of a process of its own


def after_learning_from(documents: int) -> None:
    """Once a tokenizer has been trained on so many documents."""
    read = iter(range(documents))

    def braked(item: SourceItem) -> list[str]:
        if next(read, None) is None:
            time.sleep(600)
        return read_texts(item)

    vars(learn)["read_texts"] = braked


def while_the_tokenizer_is_written() -> None:
    """Before its temporary file gets its name."""
    original = Path.replace

    def replace(path: Path, target: Path) -> Path:
        if Path(target).name == TOKENIZER_FILE:
            time.sleep(600)
        return original(path, target)

    Path.replace = replace  # type: ignore[method-assign, assignment]  # of a process of its own


# Commands


def command(
    arguments: list[str], output: Path, environment: dict[str, str], brake: Brake | None = None
) -> None:
    """The whole `d2v` in this process, which must not have done anything before."""
    if brake is not None:
        brake()
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # as in a process that a shell started
    os.environ.update(environment)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = ["d2v", *arguments]
    main()


def with_lent_server(
    arguments: list[str], output: Path, environment: dict[str, str], brake: Brake | None
) -> None:
    """The command, whose encoder processes come from the tests' fork server: it is warm."""
    lent = multiprocessing.forkserver._forkserver
    vars(lent)["ensure_running"] = lambda: None  # it would start what is there: our parent
    vars(resource_tracker._resource_tracker)["_fd"] = None  # its own, told of what a kill leaves
    command(arguments, output, environment, brake)


class Started:
    """A `d2v` command under way in a process of its own."""

    def __init__(
        self,
        arguments: list[str],
        output: Path,
        *,
        environment: dict[str, str] | None = None,
        brake: Brake | None = None,
        lent_server: bool = False,
    ) -> None:
        self.output = output
        given = (arguments, output, environment or {}, brake)
        target = with_lent_server if lent_server else command
        self.process = server().Process(target=target, args=given)
        self.process.start()

    def wait(self, timeout: float = 60) -> tuple[int | None, str]:
        """Exit code, and what it wrote to stdout and stderr."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, f"still running: {self.output.read_text()}"
        return self.process.exitcode, self.output.read_text() if self.output.exists() else ""

    def send(self, number: int) -> None:
        if self.process.is_alive() and self.process.pid is not None:
            os.kill(self.process.pid, number)

    def wait_until(self, reached: Callable[[], bool]) -> None:
        """Until something is so, or the process has ended."""
        while self.process.is_alive() and not reached():
            time.sleep(0.002)

    def wait_for_step(self, folder: Path, step: int) -> None:
        """Until so many steps are logged."""
        self.wait_until(lambda: last_step(folder) >= step)


class Preparing:
    """`d2v prepare` of a recipe called `tiny` under way, and what it has done so far."""

    def __init__(
        self, recipe: Path, out: Path, *arguments: str, brake: Brake | None = None
    ) -> None:
        self.stage = out / "tiny" / "prepare"
        self.dest = self.stage / "shards" / "common"
        output = out.with_name(f"{out.name}-{time.monotonic_ns()}")
        line = ["prepare", str(recipe), "--out", str(out), *arguments]
        self.started = Started(line, output, brake=brake, lent_server=True)

    def finished_parts(self) -> int:
        journal = self.dest / ".prepare" / "journal.jsonl"
        try:
            return journal.read_bytes().count(b"\n") - 1
        except FileNotFoundError:
            return 0

    def wait_for(self, parts: int) -> None:
        self.started.wait_until(lambda: self.finished_parts() >= parts)

    def kill(self) -> None:
        """With SIGKILL, which must be what ends it."""
        self.started.send(signal.SIGKILL)
        code, text = self.started.wait()
        assert code == -signal.SIGKILL, f"ended by itself with {code}: {text}"


def last_step(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    whole = path.read_text().splitlines()[:-1] if path.exists() else []
    return int(json.loads(whole[-1])["step"]) if whole else 0
