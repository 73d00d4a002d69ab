"""Proves: the ImageNet recipes fine-tune with the published settings (reference 3.1)."""

from typing import Any

import pytest

from d2v.config import flat, load_recipe
from d2v.recipe import Recipe

BOTH: dict[str, Any] = {
    "finetune.task.name": "classify",
    "finetune.task.freeze": "nothing",
    "finetune.task.average": None,
    "finetune.task.label_smoothing": 0.1,
    "finetune.task.score": "accuracy",
    "finetune.task.head.pool": "mean",
    "finetune.task.head.norm": True,
    "finetune.task.head.hidden": False,
    "finetune.task.head.dropout": 0.0,
    "finetune.task.head.weight_scale": 0.001,
    "finetune.task.mix.mixup_alpha": 0.8,
    "finetune.task.mix.cutmix_alpha": 1.0,
    "finetune.task.mix.prob": 1.0,
    "finetune.task.mix.switch_prob": 0.5,
    "finetune.batch_size": 1024,
    "finetune.optimizer.betas": [0.9, 0.999],
    "finetune.optimizer.eps": 1e-8,
    "finetune.optimizer.layer_decay": 0.65,
    "finetune.optimizer.clip_norm": None,
    "finetune.optimizer.schedule.schedule": "cosine",
    "finetune.optimizer.schedule.warmup_start_scale": 0.0,
    "modality.augment.crop": "resized",
    "modality.augment.crop_scale": [0.08, 1.0],
    "modality.augment.hflip": 0.5,
    "modality.augment.color_jitter": [0.0, 0.0, 0.0],
    "modality.augment.auto_augment": "rand-m9-mstd0.5-inc1",
    "modality.augment.erasing": 0.25,
    "modality.augment.evaluation_scale": 0.875,
    "modality.frontend.pixel_mean": [0.5, 0.5, 0.5],
    "modality.frontend.pixel_std": [0.5, 0.5, 0.5],
    "encoder.dropout": 0.0,
    "encoder.attention_dropout": 0.0,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "vision/imagenet-base": BOTH
    | {
        "finetune.steps": "100 epochs",
        "finetune.max_batch_per_device": 128,
        "finetune.optimizer.learning_rate": 4e-3,
        "finetune.optimizer.weight_decay": 0.0,
        "finetune.optimizer.schedule.warmup": "10 epochs",
        "encoder.drop_path": 0.2,
        "encoder.depth": 12,
    },
    "vision/imagenet-large": BOTH
    | {
        "finetune.steps": "50 epochs",
        "finetune.max_batch_per_device": 64,
        "finetune.optimizer.learning_rate": 5e-3,
        "finetune.optimizer.weight_decay": 0.05,
        "encoder.drop_path": 0.25,
        "encoder.depth": 24,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipe__fine_tunes_with_the_published_settings(name: str) -> None:
    recipe = load_recipe(name, [], Recipe).settings.while_finetuning()
    found = dict(flat(recipe.model_dump(mode="json")))
    assert {key: found[key] for key in PUBLISHED[name]} == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipe__learning_rate_ends_at_a_millionth(name: str) -> None:
    settings = load_recipe(name, [], Recipe).settings.finetune
    assert settings is not None
    end = settings.optimizer.learning_rate * settings.optimizer.schedule.final_scale
    assert end == pytest.approx(1e-6, rel=1e-12)


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipe__pre_trains_without_what_fine_tuning_adds(name: str) -> None:
    recipe = load_recipe(name, [], Recipe).settings
    found = dict(flat(recipe.model_dump(mode="json")))
    assert found["modality.augment.auto_augment"] is None
    assert found["modality.augment.erasing"] == 0.0
    assert found["modality.augment.color_jitter"] == [0.4, 0.4, 0.4]
    assert found["modality.frontend.pixel_mean"] == [0.485, 0.456, 0.406]


@pytest.mark.parametrize("name", ["vision/cifar10", "vision/digits"])
def test_recipe__compares_with_scratch_at_equal_steps(name: str) -> None:
    """A number of steps, not of epochs: these would be fewer where labels are few."""
    recipe = load_recipe(name, [], Recipe).settings
    assert recipe.finetune is not None
    assert recipe.prepare is not None
    assert recipe.finetune.init == ("pretrained", "scratch")
    assert recipe.finetune.steps.endswith(" steps")
    assert set(recipe.finetune.subset) == {*recipe.prepare.subsets, "all"}
