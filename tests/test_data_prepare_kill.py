"""Proves: preparing recordings that are cut and texts of many blocks, killed, ends the same.

Killed between shards, and while the tokenizer is learned and written.
"""

import random
import time
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import pytest

from tests.modality_cases import LOGMEL, TEXT, hum
from tests.prepare_case import digests, lines
from tests.process_case import (
    Brake,
    Preparing,
    after_learning_from,
    after_parts,
    while_the_tokenizer_is_written,
)
from tests.ragged_case import document, write_tiny
from tests.recording_case import recorded, write

COUNT = 40
SMALL_BLOCKS = TEXT | {"store": {"block_tokens": 24}}
SEGMENTS = LOGMEL | {"store": {"max_seconds": 0.25}}
PREPARE = {"val_fraction": 0.2, "test_fraction": 0.1, "shard_samples": 5}
Recipes = Callable[[str], tuple[Path, dict[str, str]]]


def write_recordings(source: Path) -> None:
    """Of one to four segments; every 8th is the same one, every 11th is no recording."""
    for number in range(COUNT):
        again = 0 if number % 8 == 0 else number
        content = recorded(hum(again, 0.1 + 0.15 * (again % 6)))
        write(source / f"{number}.wav", b"not a recording" if number % 11 == 1 else content)


def write_documents(source: Path) -> None:
    """Of three to five blocks; every 8th is the same one, every 11th is empty."""
    for number in range(COUNT):
        again = 0 if number % 8 == 0 else number
        write(source / f"{number}.txt", " " if number % 11 == 1 else document(again, 4))


SOURCES = {"speech": (SEGMENTS, write_recordings), "text": (SMALL_BLOCKS, write_documents)}


@pytest.fixture(scope="module", name="recipes")
def recipes_fixture(tmp_path_factory: pytest.TempPathFactory) -> Recipes:
    """Modality -> a recipe, and name and hash of every file of a run that nobody disturbed."""

    @lru_cache
    def made(name: str) -> tuple[Path, dict[str, str]]:
        folder = tmp_path_factory.mktemp(name)
        modality, write_source = SOURCES[name]
        write_source(folder / "source")
        data = {"source": str(folder / "source")}
        sections = {"encoder": {"dim": 8, "depth": 1, "num_heads": 2}, "objective": {"top_k": 1}}
        recipe = write_tiny(folder, modality=modality, data=data, prepare=PREPARE, **sections)
        run = Preparing(recipe, folder / "out")
        code, text = run.started.wait()
        assert (code, f"{COUNT} inputs" in text) == (0, True), text
        assert len(lines(run.dest / "rejected.jsonl")) == 4
        assert len(lines(run.dest / "duplicates.jsonl")) == 4
        return recipe, digests(run.stage)

    return made


def finished(recipe: Path, out: Path, *arguments: str) -> dict[str, str]:
    """What is there after the command was allowed to end."""
    run = Preparing(recipe, out, *arguments)
    code, text = run.started.wait()
    assert code == 0, text
    return digests(run.stage)


def same_data(found: dict[str, str], undisturbed: dict[str, str]) -> bool:
    """Whether all but the run's own notes is equal."""
    data = [
        {name: digest for name, digest in files.items() if name.startswith(("shards/", "learned/"))}
        for files in (found, undisturbed)
    ]
    assert len([name for name in data[1] if name.endswith(".tar")]) > 12
    return data[0] == data[1]


@pytest.mark.parametrize(("name", "workers"), [("speech", 0), ("speech", 2), ("text", 2)])
def test_killed_between_shards__the_command_ends_with_the_same_bytes(
    recipes: Recipes, tmp_path: Path, name: str, workers: int
) -> None:
    recipe, undisturbed = recipes(name)
    draws, killed_at = random.Random(workers), [0]
    for _ in range(3):
        # Three times three of its parts: however fast the machine, it is never done before.
        brake = partial(after_parts, 3)
        run = Preparing(recipe, tmp_path / "out", f"prepare.workers={workers}", brake=brake)
        run.wait_for(killed_at[-1] + 1 + draws.randrange(3))
        time.sleep(draws.uniform(0, 0.02))
        run.kill()
        killed_at.append(run.finished_parts())
    assert killed_at == sorted(set(killed_at)), "finished shards were done again"
    found = finished(recipe, tmp_path / "out", f"prepare.workers={workers}")
    assert same_data(found, undisturbed)


@pytest.mark.parametrize(
    "brake",
    [partial(after_learning_from, 9), while_the_tokenizer_is_written],
    ids=["read", "write"],
)
def test_killed_while_a_tokenizer_is_learned__it_is_learned_again(
    recipes: Recipes, tmp_path: Path, brake: Brake
) -> None:
    recipe, undisturbed = recipes("text")
    run = Preparing(recipe, tmp_path / "out", brake=brake)
    learned = run.stage / "learned"
    run.started.wait_until(learned.exists)
    if brake is while_the_tokenizer_is_written:
        run.started.wait_until(lambda: any(learned.iterdir()))
    run.kill()
    assert not (learned / "tokenizer.json").exists()
    assert not run.dest.exists()
    found = finished(recipe, tmp_path / "out")
    assert same_data(found, undisturbed)
    assert not [name for name in found if "tmp" in name]


def test_killed_after_a_tokenizer_was_learned__it_is_kept(recipes: Recipes, tmp_path: Path) -> None:
    recipe, undisturbed = recipes("text")
    run = Preparing(recipe, tmp_path / "out", brake=partial(after_parts, 2))
    run.wait_for(2)
    run.kill()
    tokenizer = run.stage / "learned" / "tokenizer.json"
    before = tokenizer.stat().st_mtime_ns
    assert same_data(finished(recipe, tmp_path / "out"), undisturbed)
    assert tokenizer.stat().st_mtime_ns == before
