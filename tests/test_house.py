"""Proves: the house stands as drawn — floors, rooms, who may import what, and a frozen surface."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from d2v.cli import app

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "d2v").rglob("*.py"))
RECIPES = sorted(path for path in (ROOT / "recipes").rglob("[!_]*.yaml"))

FLOORS: tuple[tuple[str, ...], ...] = (
    ("settings", "errors", "types", "samples", "report"),
    ("core", "config"),
    ("data2vec", "modalities", "data", "tasks", "engine"),
    ("recipe",),
    ("build", "architecture", "model_folder"),
    ("extract", "exchange"),
    ("commands",),
    ("cli",),
)
"""From the ground up. Rooms on one floor do not know each other."""

SAME_ROOM = {
    "cli_parts": "cli",
    "cli_recipes": "cli",
    "parameters": "cli",
    "terminal": "cli",
    "__main__": "cli",
    "cli_predict": "cli",
    "cli_import": "cli",
    "cli_embed": "cli",
    "cli_export": "cli",
    "cli_ablate": "cli",
    "ablation": "recipe",
    "data2vec2": "data2vec",
    "hardware": "build",
    "suite": "recipe",
    "data_sets": "recipe",
}
"""Files that share a room with others."""

OPTIONS = {"--out", "--dry-run", "--print-config", "--fresh", "--quiet", "-q", "--verbose", "-v"}
SURFACE = {
    "d2v": {"--version", "--install-completion", "--show-completion"},
    "d2v prepare": {"recipe", "overrides", "--from", "--check"} | OPTIONS,
    "d2v pretrain": {"recipe", "overrides", "--from", "--nproc"} | OPTIONS,
    "d2v probe": {"recipe", "overrides", "--from"} | OPTIONS,
    "d2v finetune": {"recipe", "overrides", "--from", "--nproc"} | OPTIONS,
    "d2v import": {
        *("source", "dest", "--num-heads", "--tokenizer", "--fresh"),
        *("--quiet", "-q", "--verbose", "-v"),
    },
    "d2v predict": {
        *("run", "inputs", "--format", "--output", "--top", "--batch-size", "--no-lm"),
        *("--quiet", "-q", "--verbose", "-v"),
    },
    "d2v embed": {
        *("run", "inputs", "--out", "--pool", "--per-token", "--block", "--network", "--split"),
        *("--batch-size", "--runs", "--fresh", "--quiet", "-q", "--verbose", "-v"),
    },
    "d2v export": {
        *("run", "dest", "--to", "--encoder", "--teacher", "--licence", "--fresh"),
        *("--quiet", "-q", "--verbose", "-v"),
    },
    "d2v ablate": {"recipe", "overrides", "--jobs", "--slurm"} | OPTIONS,
    "d2v run": {"recipe", "overrides", "--from", "--nproc", "--stages"} | OPTIONS,
    "d2v recipes": set(),
    "d2v recipes copy": {"name", "dest"},
}
"""Commands in pipeline order, and what each accepts. A change here is a change for users: say so
in the CHANGELOG."""


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room_of(module: str) -> str | None:
    """`d2v.core.masking` -> `core`; None for the bare package, which holds only the version."""
    parts = module.split(".")
    return SAME_ROOM.get(parts[1], parts[1]) if len(parts) > 1 else None


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> Iterator[str]:
    """Every module a file imports, wherever in the file; `from d2v import x` counts as `d2v.x`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: write d2v imports in full"
            assert node.module is not None
            if node.module == "d2v":
                yield from (f"d2v.{alias.name}" for alias in node.names)
            else:
                yield node.module


def floor_of(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


# Floors


def test_floors__every_file_has_one() -> None:
    rooms = {room_of(module_of(path)) for path in FILES} - {None}
    assert rooms - {room for floor in FLOORS for room in floor} == set()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_floors__a_module_imports_only_lower_floors_or_its_own_room(path: Path) -> None:
    room = room_of(module_of(path))
    if room is None:
        assert not any(module.startswith("d2v") for module in imports_of(path))
        return
    for module in imports_of(path):
        other = room_of(module) if module.split(".")[0] == "d2v" else None
        if other in (None, "__version__", room):
            continue
        assert floor_of(other) < floor_of(room), f"{name_of(path)} imports {module}"


def test_modalities__do_not_know_each_other() -> None:
    folders = [path for path in (ROOT / "d2v/modalities").iterdir() if path.is_dir()]
    names = {folder.name for folder in folders}
    for folder in folders:
        for path in folder.rglob("*.py"):
            known = {module.split(".")[2] for module in imports_of(path) if module.count(".") > 1}
            assert known & (names - {folder.name}) == set(), name_of(path)


def test_hydra__is_known_to_config_alone() -> None:
    users = {
        room_of(module_of(path))
        for path in FILES
        for module in imports_of(path)
        if module.split(".")[0] in ("hydra", "omegaconf")
    }
    assert users == {"config"}


# What is not written anywhere


WORDS = {
    *("vision", "image", "images", "pixel", "pixels", "picture", "pictures"),
    *("speech", "audio", "waveform", "recording", "recordings", "speaker", "speakers"),
    *("transcript", "utterance", "sentence", "sentences", "tokenizer"),
}
"""Words of one modality. `text` is also a common variable: forbidden only as a quoted name."""


def spoken(path: Path) -> Iterator[str]:
    """Identifiers, and strings in quotes; not docstrings, nor what other packages are called."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = ""  # a docstring
        for field in ("id", "attr", "arg", "name"):
            word = getattr(node, field, None)
            if isinstance(word, str) and not isinstance(node, ast.alias):
                yield word
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield f'"{node.value}"'


def words_in(text: str) -> list[str]:
    """`loadImage_size` -> load, image, size; `context` stays one word."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", text)]


def test_modality_names__are_unknown_to_the_method() -> None:
    rooms = ("core", "engine", "data", "data2vec")
    found = [
        f"{name_of(path)}: {word}"
        for path in FILES
        if room_of(module_of(path)) in rooms
        for word in spoken(path)
        if word == '"text"' or WORDS & set(words_in(word))
    ]
    assert found == []


FOREIGN_PICKLES = "d2v/exchange/pickled.py"
"""The one file that may read them, of tensors and plain values alone."""


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_pickle__is_nowhere(path: Path) -> None:
    modules = {module.split(".")[0] for module in imports_of(path)}
    assert modules & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"} == set()
    tree = ast.parse(path.read_text())
    restricted = [node.func for node in ast.walk(tree) if is_restricted_load(node)]  # type: ignore[attr-defined]  # a call
    assert not restricted or name_of(path) == FOREIGN_PICKLES
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            named = (node.value.id, node.attr) in {("torch", "load"), ("torch", "save")}
            assert not named or node in restricted
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant)
            assert node.value.value is False


def is_restricted_load(node: ast.AST) -> bool:
    """`torch.load(..., weights_only=True)`, spelled out."""
    return (
        isinstance(node, ast.Call)
        and ast.unparse(node.func) == "torch.load"
        and any(
            word.arg == "weights_only" and ast.unparse(word.value) == "True"
            for word in node.keywords
        )
    )


def test_pickle__is_read_in_one_place_alone() -> None:
    users = [
        name_of(path)
        for path in FILES
        if any(map(is_restricted_load, ast.walk(ast.parse(path.read_text()))))
    ]
    assert users == [FOREIGN_PICKLES]


# Size


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_size__functions_and_files_stay_readable(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= (200 if path.name == "data2vec.py" else 250)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 60, f"{name_of(path)}: {node.name}"


# Recipes and README


def test_recipes__there_is_one() -> None:
    assert "recipes/vision/digits.yaml" in map(name_of, RECIPES)


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_recipes__open_with_what_they_show_and_what_to_expect(path: Path) -> None:
    lines = path.read_text().splitlines()
    header = lines[: next(number for number, line in enumerate(lines) if line[:1] != "#")]
    # So that another recipe can build on it: without this line Hydra files it under its folder.
    assert header[0] == "# @package _global_"
    assert 10 <= len(header[1].removeprefix("# ")) <= 80, "the purpose in one line"
    for word in ("Shows", "Expect", "Time", "Paper"):
        assert any(re.match(rf"# {word}: +\S", line) for line in header), word


@pytest.mark.parametrize("word", ["Expect", "Time"])
@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_recipes__say_in_figures_what_to_expect_or_that_nobody_measured(
    path: Path, word: str
) -> None:
    found = re.search(rf"^# {word}: +(.*(?:\n#  +.*)*)", path.read_text(), re.M)
    assert found is not None
    unknown = re.search(r"not run by us|not\s(#\s+)?measured", found[1])
    assert unknown or re.search(r"\d", found[1]), found[1]


def test_readme__its_tree_names_every_file_and_no_other() -> None:
    blocks = re.findall(r"^```.*?\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    tree = next(block for block in blocks if re.search(r"\bcli\.py\b", block))
    named = Counter(re.findall(r"[\w]+\.py\b", tree))
    files = Counter(path.name for path in FILES if path.name != "__init__.py")
    assert files - named == Counter(), "not in the README's tree"
    assert set(named) - set(files) - {"__init__.py"} == set(), "in the README's tree only"


# Surface


def surface(command: object, name: str) -> Iterator[tuple[str, set[str]]]:
    accepted: set[str] = set()
    for parameter in getattr(command, "params", []):
        accepted |= set(parameter.opts)
    yield name, accepted - {"-h", "--help"}
    for child, inner in getattr(command, "commands", {}).items():
        yield from surface(inner, f"{name} {child}")


def test_surface__is_frozen() -> None:
    actual = dict(surface(typer.main.get_command(app), "d2v"))
    assert actual == SURFACE
    assert list(actual) == list(SURFACE)
