"""Proves: a dry run tells how much an update takes, in the modality's unit, from what is known."""

import numpy as np
import pytest

from d2v.commands.batches import batch_plan
from d2v.commands.options import Options
from d2v.commands.plan import pretrain_plan
from d2v.config import load_recipe
from d2v.data.index import Ints
from d2v.engine.job import TrainSettings
from d2v.errors import UsageError
from d2v.modalities.base import LengthUnit
from d2v.recipe import Recipe


def plan_text(lengths: Ints | None, *overrides: str, devices: int = 1) -> list[str]:
    recipe = load_recipe("vision/digits", overrides, Recipe).settings
    assert recipe.pretrain is not None
    return pretrain_plan(recipe, recipe.pretrain, Options(nproc=devices), lengths).splitlines()


MEASURED = ("pretrain.batch_size=null", "pretrain.batch_length=1200", "pretrain.steps=40")


def test_dry_run__tells_the_batch_in_the_modalitys_unit() -> None:
    lengths = np.arange(10, 70).repeat(100)
    lines = plan_text(lengths, *MEASURED, "pretrain.max_length_per_device=300", devices=2)
    plan = batch_plan(
        TrainSettings(batch_length=1200), lengths, LengthUnit(name="", size=1), seed=0
    )
    steps, samples = plan.steps_per_epoch, plan.samples_per_step
    assert "data           6,000 training samples, 39.5 pictures each on average" in lines
    assert (
        "global batch   1,200 pictures = 2 device(s) x 3 micro-batch(es) x 200 pictures, about "
        f"{samples:.0f} samples"
    ) in lines
    assert f"steps          40 ({steps:,} an epoch)" in lines
    assert f"samples seen   {40 * samples:,.0f} ({40 / steps:.1f} epochs)" in lines


def test_dry_run__before_the_data_is_there_believes_the_recipe() -> None:
    known = ("data.num_train_samples=6000", "data.mean_train_length=40")
    lines = plan_text(None, *MEASURED, *known)
    (data,) = [line for line in lines if line.startswith("data ")]
    assert data.endswith("(the recipe says so: nothing is prepared yet)")
    assert "steps          40 (200 an epoch)" in lines
    assert "samples seen   1,200 (0.2 epochs)" in lines
    with pytest.raises(UsageError, match="data.mean_train_length"):
        plan_text(None, *MEASURED)
    with pytest.raises(UsageError, match="data.num_train_samples"):
        plan_text(None, "data.num_train_samples=null")


def test_dry_run__by_count_is_told_as_ever() -> None:
    lines = plan_text(np.ones(1258, dtype=np.int64), "pretrain.max_batch_per_device=8", devices=2)
    assert "data           1,258 training samples" in lines
    assert "global batch   32 = 2 device(s) x 2 micro-batch(es) x 8" in lines
    assert "steps          5,500 (39 an epoch)" in lines
    assert "samples seen   176,000 (141.0 epochs)" in lines
