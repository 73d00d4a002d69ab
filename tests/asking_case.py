"""Models that were saved, asked through `d2v predict`, and asked directly."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from d2v.commands.predict import Outcome, Request, run
from d2v.samples import SourceItem
from d2v.tasks import Answer
from tests.model_case import BY_NAME, Made, make

Saved = Callable[..., tuple[Made, Path]]
"""Case and task -> a model and the folder that it was saved into."""


@pytest.fixture(name="saved")
def saved_fixture(tmp_path: Path) -> Saved:
    def saved(case: str, task: str, **given: Any) -> tuple[Made, Path]:
        made = make(BY_NAME[case], task, tmp_path / "learned", **given)
        return made, made.save(tmp_path / "run" / "finetune" / "model")

    return saved


Rows = list[dict[str, Any]]


def asked(folder: Path, *inputs: Path | bytes, **given: Any) -> tuple[Rows, Outcome]:
    out = io.StringIO()
    outcome = run(Request(run=folder, inputs=inputs, **given), out)
    return [json.loads(line) for line in out.getvalue().splitlines()], outcome


def direct(made: Made, item: SourceItem) -> list[Tensor]:
    """What the model says of an item's samples, each by itself."""
    outputs = []
    for sample in made.modality.encode(item):
        example = made.modality.decode(sample.members, None)
        outputs.append(made.model.predict(made.modality.collate([example])).values[0])
    return outputs


def described(made: Made, output: Tensor) -> dict[str, Any]:
    answer = Answer(sample=0, output=output)
    said: dict[str, Any] = json.loads(
        json.dumps(made.task.describe(answer, made.modality.seconds_per_token))
    )
    return said


def close(one: Any, two: Any) -> bool:
    """Equal but for the last digits, which depend on what a sample is batched with."""
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(close(one[name], two[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(close, one, two))
    return bool(one == (pytest.approx(two, abs=1e-4) if isinstance(two, float) else two))


def written(made: Made, case: str, folder: Path) -> list[Path]:
    """The case's samples as files; a text's is one line."""
    folder.mkdir()
    paths = []
    for item in BY_NAME[case].items():
        (folder / item.name).write_bytes(item.read())
        paths.append(folder / item.name)
    return paths
