"""Proves: what is frozen stays, what thaws moves, and the average is what is scored and kept.

Every update leaves a checkpoint; weights are compared bit by bit.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from d2v.commands.asking import Asker
from d2v.model_folder import load_model
from d2v.samples import SourceItem
from tests.finetune_case import (
    PRETRAINED,
    STAGE,
    TRIAL,
    desk_fixture,
    drawn_desk_fixture,
    finetune,
    listed,
    pretrained_desk_fixture,
    weights,
)
from tests.hostile_case import d2v, left, refused, worked
from tests.training_case import rows

__all__ = ["desk_fixture", "drawn_desk_fixture", "pretrained_desk_fixture"]

EVERY_STEP = ("finetune.checkpoint_every=1", "finetune.keep_checkpoints=9",
              "finetune.optimizer.schedule.warmup=0")  # fmt: skip
IDLE = {"encoder.norm.weight", "encoder.norm.bias", "frontend.mask_token"}
"""Have no part in the loss: the head has its own norm, and nothing is masked."""


def at(step: int) -> dict[str, Tensor]:
    return weights(STAGE / "trials" / TRIAL, step)


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def parts(names: Iterable[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def trained() -> set[str]:
    """Names of everything that learns where nothing is frozen."""
    model = load_model(STAGE).model
    return {name for name, _ in model.named_parameters()} - IDLE


# Frozen for good


@pytest.mark.parametrize(
    ("freeze", "frozen"),
    [("nothing", set()), ("frontend", {"frontend"}), ("encoder", {"frontend", "encoder"})],
)
def test_freeze__keeps_these_parts_and_moves_all_others(
    desk: Path, freeze: str, frozen: set[str]
) -> None:
    worked(finetune(*EVERY_STEP, f"finetune.task.freeze={freeze}"))
    student = weights(PRETRAINED, 2)
    learning = {name for name in trained() if parts([name]) <= {"frontend", "encoder", "head"}}
    learning -= {name for name in learning if parts([name]) <= frozen}
    for before, after in ((1, 2), (2, 4)):
        assert moved(at(before), at(after)) == learning
    for name, value in at(4).items():
        if parts([name]) <= frozen:
            assert torch.equal(value, student[name]), name


# Frozen at first


def test_freeze_steps__let_the_head_learn_alone_and_then_all(desk: Path) -> None:
    """Three updates with everything but the head frozen; weight decay does not move it either."""
    worked(finetune(*EVERY_STEP, "finetune.task.freeze_steps=3", "finetune.steps=6"))
    student = {name: value for name, value in weights(PRETRAINED, 2).items()
               if parts([name]) <= {"encoder", "frontend"}}  # fmt: skip
    assert moved(student, at(3)) == set()
    assert parts(moved(at(1), at(2))) == parts(moved(at(2), at(3))) == {"head"}
    assert moved(at(3), at(4)) == trained()
    assert moved(at(4), at(5)) == trained()


def test_freeze_steps__beside_a_frozen_frontend_thaw_the_blocks_alone(desk: Path) -> None:
    worked(finetune(*EVERY_STEP, "finetune.task={freeze: frontend, freeze_steps: 2}"))
    assert parts(moved(at(1), at(2))) == {"head"}
    assert parts(moved(at(2), at(3))) == {"head", "encoder"}


# The average


def test_average__is_the_loops_of_a_slow_twin_and_is_what_is_scored_and_kept(desk: Path) -> None:
    decay = 0.6
    numbers = ("data.label_kind=number", "data.label_column=number", "~prepare.subsets",
               "finetune.task={name: regress, low: -1, high: 2}")  # fmt: skip
    worked(d2v("prepare", "my.yaml", "--fresh", *numbers))
    worked(finetune(*numbers, *EVERY_STEP, f"finetune.task.average={decay}",
                    "finetune.init=scratch"))  # fmt: skip
    trial = STAGE / "trials" / TRIAL.replace("pretrained", "scratch")
    steps = [weights(trial, step) for step in range(1, 5)]
    names = [name for name in steps[0] if not name.startswith("averaged.")]
    assert len(steps[0]) == 2 * len(names)
    for name in names:
        if not steps[0][name].is_floating_point():
            continue
        # average_1 = d * start + (1 - d) * w_1, which gives the start back
        average = steps[0][f"averaged.{name}"].double().numpy().copy()
        for after in steps[1:]:
            weight = after[name].double().numpy()
            for place in np.ndindex(average.shape):
                average[place] = decay * average[place] + (1 - decay) * weight[place]
            np.testing.assert_allclose(
                after[f"averaged.{name}"].double().numpy(), average, rtol=1e-5, atol=1e-7
            )
    best = max((row for row in rows(trial) if "pearson" in row),
               key=lambda row: (row["pearson"], row["step"]))  # fmt: skip
    model = load_model(STAGE)
    kept = weights(trial, best["step"])
    for name, value in model.model.state_dict().items():
        assert torch.equal(value, kept[f"averaged.{name}"]), name
    assert moved({name: kept[name] for name in names},
                 {name: kept[f"averaged.{name}"] for name in names})  # fmt: skip
    shown = [pearson_on_val(load_model(STAGE).model.state_dict()),
             pearson_on_val({name: kept[name] for name in names})]  # fmt: skip
    assert best["pearson"] == pytest.approx(shown[0], abs=1e-5)
    assert abs(best["pearson"] - shown[1]) > 1e-4


def pearson_on_val(tensors: dict[str, Tensor]) -> float:
    """Of the model with these weights in the place of its own, on the raw pictures of val."""
    loaded = load_model(STAGE)
    loaded.model.load_state_dict(tensors)
    asker = Asker(loaded=loaded, device=torch.device("cpu"), precision="float32", batch_size=8)
    val = [row for row in listed()[1:] if row[3] == "val"]
    values = [
        row["value"] for row in asker.rows(SourceItem(name=v[0], path=Path(v[0])) for v in val)
    ]
    return float(np.corrcoef(values, [float(row[2]) for row in val])[0, 1])


# A learning rate on what is frozen


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["task.freeze=frontend", "optimizer.frontend_scale=0.1"],
         ["task.freeze is frontend", "optimizer.frontend_scale would change nothing"]),
        (["task.freeze=encoder", "optimizer.layer_decay=0.8"],
         ["task.freeze is encoder", "optimizer.layer_decay would change nothing"]),
        (["task.freeze=encoder", "optimizer.layer_decay=0.8", "optimizer.frontend_scale=2",
          "task.freeze_steps=1"],
         ["optimizer.frontend_scale and optimizer.layer_decay and task.freeze_steps"]),
        (["task.freeze_steps=4"], ["task.freeze_steps 4 leaves nothing of 4 steps", "head alone"]),
        (["task.freeze_steps=9", "steps=3 epochs"],
         ["task.freeze_steps 9 leaves nothing of 9 updates (3 epochs)"]),
        (["task.freeze_steps=2", "steps=1 epochs", "init=[scratch,pretrained]",
          "subset=[all,few]", "optimizer.schedule.warmup=0"],
         ["task.freeze_steps 2 leaves nothing of 1 updates (1 epochs)"]),
    ],
)  # fmt: skip
def test_vain_setting__is_refused_before_anything_is_made(
    desk: Path, overrides: list[str], words: list[str]
) -> None:
    refused(finetune(*(f"finetune.{override}" for override in overrides)), *words)
    assert left(STAGE) == []


@pytest.mark.parametrize(
    "overrides",
    [
        ["task.freeze=frontend", "optimizer.layer_decay=0.8"],
        ["task.freeze_steps=3", "optimizer.frontend_scale=0.1"],
        ["task.freeze_steps=8", "steps=3 epochs"],
    ],
)
def test_setting_that_has_an_effect__is_accepted(desk: Path, overrides: list[str]) -> None:
    worked(finetune("--dry-run", *(f"finetune.{override}" for override in overrides)))
