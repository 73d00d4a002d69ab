"""Stand-ins for the commands, so that the command line is tested without them."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import d2v
import d2v.commands
from d2v.cli import app
from d2v.commands.options import Options
from d2v.config import Loaded
from d2v.report import Report
from tests.config_house import Recipe

COMMANDS = ("prepare", "pretrain", "probe", "run")


class Recorder:
    """A command that remembers what it was given."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Loaded[Recipe], Options]] = []
        self.error: BaseException | None = None

    def command(self, name: str) -> types.ModuleType:
        def run(loaded: Loaded[Recipe], options: Options, tell: object = None) -> Report:
            self.calls.append((name, loaded, options))
            if self.error is not None:
                raise self.error
            return Report(headline=f"{name} is done")

        module = types.ModuleType(f"d2v.commands.{name}")
        vars(module)["run"] = run
        return module


@pytest.fixture(name="recorder")
def recorder_fixture(house: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    recipe = types.ModuleType("d2v.recipe")
    vars(recipe)["Recipe"] = Recipe
    monkeypatch.setitem(sys.modules, "d2v.recipe", recipe)
    monkeypatch.setattr(d2v, "recipe", recipe, raising=False)
    for name in COMMANDS:
        module = recorder.command(name)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(d2v.commands, name, module, raising=False)
    monkeypatch.delenv("RANK", raising=False)
    return recorder


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments, prog_name="d2v")
