"""Runs as pre-training leaves them, with weights drawn from a seed, and `d2v embed` of them."""

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from d2v.build import build_objective, identity, load_encoder
from d2v.commands import embed_parts
from d2v.commands.embed import Outcome, Request, run
from d2v.commands.embed_parts import Parts
from d2v.core.features import Pool
from d2v.core.schedules import Horizon
from d2v.data.prepare import PrepareSettings, prepare
from d2v.data.shards import Shards
from d2v.engine.checkpoint import save_checkpoint
from d2v.extract import encoder_features, extract
from d2v.modalities import Modality, build_modality
from d2v.recipe import Recipe
from d2v.samples import SourceItem
from tests.modality_cases import Case
from tests.model_case import BY_NAME, ENCODER, shake

Floats = NDArray[np.float32]
LABELS = ("cat", "dog")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run directory whose train split holds a case's samples, in the order of `files`."""

    folder: Path
    recipe: Recipe
    modality: Modality
    files: tuple[Path, ...]

    @property
    def shards(self) -> Path:
        return self.folder / "prepare" / "shards" / "common"

    def probed(self, *, pool: Pool = "mean", block: int | None = None, split: str = "train",
               network: Any = "student") -> Floats:  # fmt: skip
        """What `d2v probe` would read from the split."""
        frozen = load_encoder(self.recipe, self.folder, network)
        function = encoder_features(frozen, pool=pool, block=block)
        found = extract(Shards.open(self.shards / split), self.modality, function, batch_size=3)
        return found.features.numpy()


Runs = Callable[..., Run]


@pytest.fixture(name="runs")
def runs_fixture(tmp_path: Path) -> Runs:
    return partial(made_run, tmp_path)


def made_run(
    folder: Path, name: str, *, items: list[SourceItem] | None = None,
    modality: dict[str, Any] | None = None, probe: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None, **encoder: Any,
) -> Run:  # fmt: skip
    """The run of a case; `items` replace its own, `modality` and `encoder` change settings."""
    case: Case = BY_NAME[name]
    recipe = Recipe.model_validate({
        "name": "tiny", "device": "cpu", "modality": case.settings | (modality or {}),
        "encoder": ENCODER | encoder, "objective": {"top_k": 2}, "probe": probe or {},
        "data": data or {},
        "pretrain": {"steps": 1, "batch_size": 1, "precision": "float32"},
    })  # fmt: skip
    place = folder / "runs" / "tiny"
    learned = place / "prepare" / "learned"
    learned.mkdir(parents=True)
    named = [
        replace(item, label=LABELS[number % 2]) for number, item in enumerate(items or case.items())
    ]
    build_modality(recipe.modality).learn(lambda: named, learned)
    own = build_modality(recipe.modality, learned)
    settings = PrepareSettings(val_fraction=0, shard_samples=3)
    prepare(lambda: named, own.encode, place / "prepare" / "shards" / "common", settings, seed=0,
            about=own.about())  # fmt: skip
    _write_pretrained(place / "pretrain", recipe, own)
    return Run(folder=place, recipe=recipe, modality=own, files=_files(folder / "raw", named))


def _write_pretrained(stage: Path, recipe: Recipe, modality: Modality) -> None:
    model = build_objective(recipe, Horizon(total_steps=1, steps_per_epoch=1))
    shake(model)
    stage.mkdir(parents=True)
    (stage / "config.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    state = {"identity": identity(recipe), "about": modality.about()}
    save_checkpoint(stage / "checkpoints", 7, {"model": model.state_dict()}, state)


def _files(folder: Path, items: list[SourceItem]) -> tuple[Path, ...]:
    """The samples as files, in the order in which the shards have them."""
    folder.mkdir()
    paths = [folder / item.name for item in items]
    for path, item in zip(paths, items, strict=True):
        path.write_bytes(item.read())
    return tuple(paths)


def embedded(place: Run | Path | str, *inputs: Path | bytes, out: Path, **given: Any) -> Outcome:
    folder = place.folder if isinstance(place, Run) else place
    given = {"verbosity": -1, "batch_size": 3} | given
    return run(Request(run=str(folder), inputs=inputs, out=out, **given))


def npy(place: Run | Path | str, *inputs: Path | bytes, out: Path, **given: Any) -> Floats:
    """The features of the inputs, by way of a file."""
    embedded(place, *inputs, out=out / "f.npy", **given)
    found: Floats = np.load(out / "f.npy")
    return found


def index(out: Path) -> list[dict[str, Any]]:
    """What the rows of `f.npy` are of."""
    return lines(out / "f.npy.index.jsonl")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# Brakes, for a process of their own


def small_parts() -> None:
    """A part for each piece."""
    vars(embed_parts)["PART_SECONDS"] = 0.0


def stop_after(parts: int, number: int) -> None:
    """Once so many parts are there, the process sends itself a signal."""
    small_parts()
    original, left = Parts.end_part, iter(range(parts))

    def end_part(self: Parts) -> None:
        if next(left, None) is None:
            os.kill(os.getpid(), number)
            time.sleep(600)
        original(self)

    Parts.end_part = end_part  # type: ignore[method-assign]  # of a process of its own


KILLED = {signal.SIGKILL: -9, signal.SIGTERM: 75, signal.SIGINT: 130}
"""Signal -> exit code."""
