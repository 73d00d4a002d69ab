"""An ablation of cells of a second: generated pictures, a tiny recipe, warm processes."""

import copy
import csv
import os
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from d2v.commands import ablate_local
from d2v.commands.ablate_cells import Sweep, sweep_of
from d2v.commands.options import Options
from d2v.config import load_recipe
from d2v.recipe import Recipe
from tests.hostile_case import RECIPE as PLAIN
from tests.hostile_case import photos
from tests.process_case import command, server

RECIPE = (
    PLAIN.replace("depth: 1", "depth: 2").replace("top_k: 1", "top_k: 2")
    + """\
ablate:
  axes:
    objective.top_k: [1, 2]
    objective.target_feature: [ffn, end_of_block]
  seeds: [0, 1]
  score: probe.linear.1
"""
)
ABLATE = Path("runs/my/ablate")
ONE_AXIS = "ablate.axes.objective.target_feature=null"


class Warm:
    """What `Popen` would be, forked from a server that has imported everything."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        given = (list(arguments), log, dict(environment))
        self.process = server().Process(target=command, args=given)
        self.process.start()

    def poll(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        if self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.process.kill()

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode


@pytest.fixture(name="desk")
def desk_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with pictures and a recipe; trainings start at once."""
    set_up(tmp_path, monkeypatch)
    return tmp_path


def set_up(desk: Path, patch: pytest.MonkeyPatch) -> None:
    """Sit down at a desk; pictures and recipe come where there are none."""
    patch.chdir(desk)
    patch.delenv("RANK", raising=False)
    if not Path("my.yaml").exists():
        Path("my.yaml").write_text(RECIPE)
        photos(desk / "photos", "cat", "dog")

    def start(given: Sequence[str], environment: Mapping[str, str], log: Path, lock: Path) -> Warm:
        return Warm(given, environment, log.absolute())

    patch.setattr(ablate_local, "start_process", start)


def swept(*overrides: str) -> Sweep:
    """The cells of my.yaml."""
    return copy.deepcopy(_swept(Path("my.yaml").read_text(), overrides))


@cache
def _swept(text: str, overrides: tuple[str, ...]) -> Sweep:
    """Loading is what takes long; `text` is that of my.yaml."""
    return sweep_of(load_recipe("my.yaml", overrides, Recipe), Options())


def scores(folder: Path = ABLATE) -> list[list[str]]:
    """cells.csv without its times."""
    rows = list(csv.reader((folder / "cells.csv").read_text().splitlines()))
    at = rows[0].index("train_seconds")
    return [row[:at] + row[at + 2 :] for row in rows]


def wait_until(reached: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
