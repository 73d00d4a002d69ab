"""Proves: collapse and overflow end a run with their cause and remedy; a healthy run passes."""

import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from d2v.core.monitors import regression_monitors
from d2v.core.schedules import Horizon
from d2v.core.seeding import generator_for
from d2v.data.shards import Shards
from d2v.engine.checkpoint import load_checkpoint, load_latest
from d2v.engine.guards import Guards, GuardSettings
from d2v.errors import GuardError
from d2v.modalities.vision.augment import AugmentSettings
from d2v.modalities.vision.modality import Vision
from d2v.types import Guard, Mask
from tests.training_case import VISION, make_job, make_shards, rows, run

FLOOR = Guard(monitor="spread", minimum=0.1, cause="All alike.", remedy="Do otherwise.")
HORIZON = Horizon(total_steps=100, steps_per_epoch=10)


@pytest.fixture(scope="module", name="shards")
def shards_fixture(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return make_shards(tmp_path_factory.mktemp("pictures"), 42)


def grey(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (8, 8), 128).save(out, "PNG")
    return out.getvalue()


def fired_at(values: list[float], **settings: Any) -> list[int]:
    """Logged steps 10, 20, ... at which the guard answers."""
    asked = {"action": "warn", "after": "0 steps", "patience": 1} | settings
    guards = Guards(GuardSettings.model_validate(asked), [FLOOR], HORIZON)
    steps = [10 * number for number in range(1, len(values) + 1)]
    return [
        step
        for step, value in zip(steps, values, strict=True)
        if guards.check_collapse(step, {"spread": value})
    ]


# The rule


@pytest.mark.parametrize(
    ("values", "settings", "expected"),
    [
        ([0.1, 0.2, 5.0], {}, []),
        ([0.2, 0.09, 0.2], {}, [20]),
        ([0.0] * 5, {"patience": 3}, [30]),
        ([0.0] * 7, {"patience": 3}, [30, 60]),
        ([0.0, 0.0, 0.2, 0.0, 0.0, 0.0], {"patience": 3}, [60]),
        ([0.0, 0.0, math.nan, 0.0], {"patience": 3}, [40]),
        ([math.nan] * 5, {}, []),
        ([0.0] * 4, {"after": "30 %"}, [30, 40]),
        ([0.0] * 4, {"action": "off"}, []),
    ],
)
def test_collapse__is_so_many_logged_steps_in_a_row_below_the_floor(
    values: list[float], settings: dict[str, Any], expected: list[int]
) -> None:
    assert fired_at(values, **settings) == expected


def test_collapse__names_monitor_value_cause_floor_and_remedy() -> None:
    guards = Guards(GuardSettings(after="0 steps", patience=1), [FLOOR], HORIZON)
    with pytest.raises(GuardError) as caught:
        guards.check_collapse(40, {"spread": 0.0125})
    assert str(caught.value) == (
        "Collapse at step 40: spread is 0.0125, below its floor for 1 logged steps in a row. "
        "All alike. Expected: spread of at least 0.1. Do otherwise. "
        "The last good checkpoint is kept."
    )
    assert caught.value.exit_code == 3


# Each guard of the objective, alone


def collapsed(name: str) -> tuple[Tensor, Tensor, Tensor, Mask]:
    """Tokens, targets and predictions that are sound but for what guard `name` looks at."""
    mask = Mask.of(torch.rand(16, 9, generator=generator_for("mask", 0)) < 0.6)
    places = mask.positions % 9
    by_position = torch.randn(9, 8, generator=generator_for("position", 0))
    line = torch.randn(1, 8, generator=generator_for("line", 0))
    seen, target, prediction = (
        torch.randn(*shape, 8, generator=generator_for("sound", number))
        for number, shape in enumerate([(16, 9), (len(places),), (len(places),)])
    )
    if name == "target_std":
        target *= 0.05
    if name == "prediction_std":
        prediction *= 1e-3
    if name == "target_spread":
        target = by_position[places] + 1e-3 * target
    if name == "frontend_spread":
        seen = by_position + 1e-3 * seen
    if name == "target_rank":
        target = target[:, :1] * line
    return seen, target, prediction, mask


GUARDS = ["target_std", "prediction_std", "target_spread", "frontend_spread", "target_rank"]


def test_guards__are_these_five(shards: Shards, tmp_path: Path) -> None:
    guards = make_job(shards, tmp_path).objective.guards()
    assert [guard.monitor for guard in guards] == GUARDS


@pytest.mark.parametrize("name", ["", *GUARDS])
def test_guard__fires_alone_where_only_its_monitor_is_bad(
    shards: Shards, tmp_path: Path, name: str
) -> None:
    floors = make_job(shards, tmp_path).objective.guards()
    figures = {key: float(v) for key, v in regression_monitors(*collapsed(name)).items()}
    assert [floor.monitor for floor in floors if figures[floor.monitor] < floor.minimum] == (
        [name] if name else []
    )
    guards = Guards(GuardSettings(after="0 steps", patience=1), floors, HORIZON)
    if not name:
        assert guards.check_collapse(10, figures) is None
        return
    with pytest.raises(GuardError, match=rf"Collapse at step 10: {name} is [\d.e-]+, below"):
        guards.check_collapse(10, figures)


# Real runs


LONG: dict[str, Any] = {"steps": 40, "log_every": 2, "checkpoint_every": 10}
STILL = {"learning_rate": 1e-12}


@pytest.mark.parametrize(
    ("name", "encoder", "objective"),
    [
        ("target_std", {"init_std": 1e-2}, {"target_feature": "ffn", "target_norm": "none",
                                            "mean_norm": "none"}),
        ("prediction_std", {"init_std": 1e-4}, {}),
        ("target_rank", {"dim": 2, "num_heads": 1}, {}),  # two normalised channels: x and -x
    ],
)  # fmt: skip
def test_guard__fires_in_a_run_that_has_its_fault(
    shards: Shards, tmp_path: Path, name: str, encoder: dict[str, Any], objective: dict[str, Any]
) -> None:
    job = make_job(shards, tmp_path, encoder=encoder, objective=objective, optimizer=STILL, **LONG)
    with pytest.raises(GuardError, match=rf"Collapse at step 6: {name} is"):
        run(job)


def test_healthy_run__passes_every_guard(shards: Shards, tmp_path: Path) -> None:
    guards = {"action": "stop", "after": "0 steps", "patience": 1}
    job = make_job(shards, tmp_path, guards=guards, **LONG)
    assert len(job.objective.guards()) >= 5
    figures = run(job)
    for guard in job.objective.guards():
        assert figures[guard.monitor] > 1.5 * guard.minimum


def test_constant_pictures__are_a_collapse_of_the_spread_across_samples(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "grey", 42, content=grey)
    unmoved = VISION.model_copy(
        update={"augment": AugmentSettings(crop="none", color_jitter=(0, 0, 0))}
    )
    job = make_job(shards, tmp_path / "run", reader=Vision(unmoved), **LONG)
    with pytest.raises(GuardError, match=r"Collapse at step 6: target_spread is") as caught:
        run(job)
    assert "All samples look alike" in str(caught.value)
    assert rows(tmp_path / "run")[-1]["frontend_spread"] < 0.01  # its guard is further down
    assert rows(tmp_path / "run")[-1]["step"] == 6  # the step that fired can be looked at
    assert rows(tmp_path / "run")[-1]["target_std"] > 0.1  # which the plain deviation had missed


def test_unnormalised_targets__collapse_to_a_constant(shards: Shards, tmp_path: Path) -> None:
    # The student's own fresh output is the target: predicting zero everywhere is the solution.
    objective = {"target_feature": "ffn", "target_norm": "none", "mean_norm": "none", "beta": 0,
                 "tau": {"tau_e": 0.5}}  # fmt: skip
    optimizer = {"learning_rate": 3e-2, "weight_decay": 1.0, "schedule": {"warmup": 0}}
    job = make_job(shards, tmp_path, encoder={"init_std": 0.5}, objective=objective,
                   optimizer=optimizer, **{**LONG, "steps": 200, "log_every": 5})  # fmt: skip
    with pytest.raises(GuardError, match=r"Collapse at step \d+: target_std is") as caught:
        run(job)
    fired = int(str(caught.value).split("step ")[1].split(":")[0])
    assert "Check that target_norm is not none" in str(caught.value)
    assert rows(tmp_path)[0]["target_std"] > 0.2, "it did not get there by learning"
    checkpoint, _ = load_latest(tmp_path / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.step <= fired
    assert all(tensor.isfinite().all() for tensor in checkpoint.tensors["model"].values())


@pytest.mark.parametrize("log_every", [1, 7, 1000])
def test_overflow__names_its_step_and_keeps_the_last_good_checkpoint(
    shards: Shards, tmp_path: Path, log_every: int
) -> None:
    short = {**LONG, "steps": 10}
    run(make_job(shards, tmp_path, **short))
    kept = tmp_path / "checkpoints" / "step-000000010"
    before = kept.stat().st_mtime_ns
    optimizer = {"learning_rate": 1e30, "schedule": {"warmup": 0}}
    with pytest.raises(GuardError, match=r"Step 12: loss and gradient_norm not finite") as caught:
        run(make_job(shards, tmp_path, **{**LONG, "log_every": log_every}, optimizer=optimizer))
    assert "Lower the learning rate" in str(caught.value)
    assert load_checkpoint(kept).step == 10
    assert kept.stat().st_mtime_ns == before


def test_overflow__with_action_warn_is_told_once_and_the_run_goes_on(
    shards: Shards, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    optimizer = {"learning_rate": 1e30, "schedule": {"warmup": 0}}
    job = make_job(shards, tmp_path, optimizer=optimizer, guards={"action": "warn"})
    figures = run(job)
    assert math.isnan(figures["loss"])
    assert capsys.readouterr().out.count("not finite") == 1
    assert rows(tmp_path)[-1]["loss"] is None
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    saved = [path.name for path in (tmp_path / "checkpoints").glob("step-*")]
    assert "step-000000012" not in saved  # spoilt weights replace no good ones


def test_overflow__with_action_off_is_not_looked_at(
    shards: Shards, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    optimizer = {"learning_rate": 1e30, "schedule": {"warmup": 0}}
    run(make_job(shards, tmp_path, optimizer=optimizer, guards={"action": "off"}))
    assert capsys.readouterr().out == ""


def test_single_sample_micro_batches__are_no_collapse(shards: Shards, tmp_path: Path) -> None:
    # Nothing can be spread across one sample.
    job = make_job(shards, tmp_path, max_batch_per_device=1, guards={"after": "0 steps"}, **LONG)
    run(job)
    assert rows(tmp_path)[-1]["frontend_spread"] is None
