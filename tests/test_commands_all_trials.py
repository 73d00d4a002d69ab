"""Proves: a trial that a guard stops costs its learning rate, and the others are trained."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from d2v.commands.all_trials import Trained
from d2v.commands.scoring import Scorer
from d2v.commands.trials import Trial, best_rates
from d2v.engine.distributed import World
from d2v.errors import GuardError
from d2v.modalities import build_modality
from d2v.tasks import Classify, ClassifySettings
from tests.finetune_case import (
    STAGE,
    TRIAL,
    desk_fixture,
    drawn_desk_fixture,
    finetune,
    pretrained_desk_fixture,
    result,
)
from tests.hostile_case import worked
from tests.training_case import VISION, make_shards

__all__ = ["desk_fixture", "drawn_desk_fixture", "pretrained_desk_fixture"]

TOO_HIGH = 1e30
BROKEN = f"pretrained-all-lr{TOO_HIGH!r}-seed0"


def trial(rate: float, seed: int = 0, subset: str = "all") -> Trial:
    return Trial(init="scratch", subset=subset, learning_rate=rate, seed=seed)


def test_candidates__lack_a_learning_rate_with_which_one_seed_was_stopped() -> None:
    trials = [trial(rate, seed, subset) for rate in (1.0, 2.0) for seed in (0, 1)
              for subset in ("all", "few")]  # fmt: skip
    trained = Trained(stopped={trial(2.0, 1, "few").name: "NaN"})
    left = trained.candidates(trials)
    assert [one for one in trials if one not in left] == [
        trial(2.0, 0, "few"),
        trial(2.0, 1, "few"),
    ]
    val = {one.name: one.learning_rate for one in trials}
    assert best_rates(left, val) == {("scratch", "all"): 2.0, ("scratch", "few"): 1.0}


def test_learning_rate_that_diverges__is_out_of_the_choice_and_the_rest_goes_on(
    desk: Path,
) -> None:
    shown = worked(finetune(f"finetune.learning_rates=[{TOO_HIGH},0.003]"), BROKEN)
    assert "is out of the choice" in shown.output
    found = result()
    assert found["stopped"].keys() == {BROKEN}
    assert "not finite" in found["stopped"][BROKEN]
    assert [one["name"] for one in found["trials"]] == [BROKEN, TRIAL]
    assert found["trials"][0]["val"] is None
    assert math.isfinite(found["trials"][1]["val"])
    assert [one["learning_rate"] for one in found["chosen"]] == [0.003]
    assert json.loads((STAGE / "model/model.json").read_bytes())["figures"]


def test_learning_rate_that_diverges__ends_the_run_where_there_is_no_other(desk: Path) -> None:
    ended = finetune(f"finetune.optimizer.learning_rate={TOO_HIGH}", "finetune.seeds=[0,1]")
    assert ended.exit_code == 3, ended.output
    assert "not finite" in ended.output
    assert not (STAGE / "result.json").exists()


@dataclass(frozen=True, kw_only=True)
class Told(World):
    """A process that hears from the first one that it stops."""

    def sum(self, values: Tensor) -> Tensor:
        return values + 1


def test_guard_of_the_first_process__stops_the_others_too(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards")
    task = Classify(ClassifySettings(name="classify"), tuple(shards.classes))
    scorer = Scorer(
        modality=build_modality(VISION), task=task, device=torch.device("cpu"),
        precision="float32", max_bad_fraction=0.0,
    )  # fmt: skip
    model = object()  # not asked: the first process alone scores
    score = scorer.during_training(model, shards, tmp_path, Told(rank=1))  # type: ignore[arg-type]
    with pytest.raises(GuardError, match="first process"):
        score()
    assert scorer.during_training(model, shards, tmp_path, World(rank=1))() == {}  # type: ignore[arg-type]
