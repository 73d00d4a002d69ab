"""Proves: an installed wheel is the whole program, recipes and groups included."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LOAD = """
import pathlib, pydantic, d2v
from d2v.config import load_recipe, shipped_recipes
from d2v.settings import Settings
class Anything(Settings):
    model_config = pydantic.ConfigDict(extra="allow")
    name: str
for shipped in shipped_recipes():
    loaded = load_recipe(shipped.name, [], Anything)
    assert loaded.path.is_relative_to(pathlib.Path(d2v.__file__).parent), loaded.path
    print(loaded.name)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpacked as pip would: a wheel of pure Python is a folder in a zip."""
    folder = tmp_path_factory.mktemp("site-packages")
    (folder / "conf").mkdir()  # another package's folder of the same name must not be taken
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def python(installed: Path, *arguments: str) -> str:
    """Output of a Python that finds the installed d2v first, from a folder without a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd="/", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel__holds_every_file_and_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    expected = {
        *(f"d2v/{path.relative_to(ROOT / 'd2v')}" for path in (ROOT / "d2v").rglob("*.py")),
        *(f"d2v/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")),
        *(f"d2v/{path.relative_to(ROOT)}" for path in (ROOT / "recipes").rglob("*.yaml")),
    }
    assert expected - names == set()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("entry_points.txt") for name in names)


def test_installed__lists_its_recipes(installed: Path) -> None:
    assert "vision/digits" in python(installed, "-m", "d2v", "recipes")


def test_installed__composes_every_recipe_from_its_own_files(installed: Path) -> None:
    assert "vision/digits" in python(installed, "-c", LOAD).split()
