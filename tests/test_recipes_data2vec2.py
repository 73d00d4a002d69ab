"""Proves: the paper recipes of data2vec 2.0 hold the published figures; its group fits all.

Figures: the released configurations (fairseq `examples/data2vec/config/v2`), written down by hand.
"""

import math
from typing import Any

import pytest

from d2v.commands.options import Options
from d2v.commands.plan import pretrain_plan
from d2v.config import ShippedRecipe, flat, load_recipe, shipped_recipes
from d2v.core.schedules import Horizon, ema_decay
from d2v.data2vec2 import Data2Vec2Settings
from d2v.errors import UsageError
from d2v.recipe import Recipe

ALL: dict[str, Any] = {
    "objective.name": "data2vec2",
    "objective.target_feature": "ffn",
    "objective.beta": 0.0,
    "objective.tau.schedule": "linear",
    "objective.decoder.noise_std": 0.01,
    "encoder.mlp_ratio": 4.0,
    "encoder.norm_position": "post",
    "encoder.layer_scale": None,
    "encoder.activation_dropout": 0.0,
    "encoder.drop_path": 0.0,
    "encoder.init": "normal",
    "encoder.init_std": 0.02,
    "pretrain.optimizer.decayed": "all",
    "pretrain.optimizer.weight_decay_end": None,
    "pretrain.optimizer.layer_decay": 1.0,
    "pretrain.optimizer.frontend_scale": 1.0,
    "pretrain.optimizer.schedule.schedule": "cosine",
    "pretrain.optimizer.schedule.warmup_start_scale": 0.0,
    "pretrain.optimizer.schedule.final_scale": 0.0,
}
IMAGE = ALL | {
    "objective.target_norm": "instance",
    "objective.mean_norm": "layer",
    "objective.channel_reduction": "inv_sqrt_dim",
    "objective.teacher_averages": "all",
    "objective.masks_per_sample": 16,
    "objective.decoder.residual": True,
    "objective.decoder.groups": 16,
    "objective.decoder.projection_layers": 1,
    "objective.decoder.input_dropout": 0.0,
    "objective.tau.tau_0": 0.9998,
    "encoder.norm_eps": 1e-6,
    "encoder.input_norm": True,
    "encoder.dropout": 0.0,
    "encoder.attention_dropout": 0.0,
    "encoder.layerdrop": 0.0,
    "modality.frontend.image_size": 224,
    "modality.frontend.positions": "sincos_2d",
    "modality.frontend.patch_init": "xavier",
    "modality.frontend.cls_token": True,
    "modality.frontend.pixel_mean": [0.485, 0.456, 0.406],
    "modality.mask.kind": "inverse_block",
    "modality.mask.size": 3,
    "modality.augment.crop": "resized",
    "modality.augment.crop_scale": [0.2, 1.0],
    "modality.augment.hflip": 0.5,
    "modality.augment.color_jitter": [0.0, 0.0, 0.0],
    "modality.augment.auto_augment": None,
    "modality.augment.erasing": 0.0,
    "pretrain.optimizer.betas": [0.9, 0.95],
    "pretrain.optimizer.eps": 1e-8,
    "pretrain.optimizer.weight_decay": 0.05,
    "pretrain.optimizer.clip_norm": 4.0,
    "pretrain.optimizer.schedule.warmup": "50040 steps",
}
IMAGE_LARGE = IMAGE | {
    "encoder.num_heads": 16,
    "modality.mask.ratio": 0.75,
    "modality.mask.adjust": 0.1,
    "objective.prenet_depth": 0,
    "objective.prefix_weight": 1.28,
    "objective.decoder.width": 1024,
    "objective.decoder.kernel": 5,
    "objective.decoder.layers": 3,
    "pretrain.optimizer.learning_rate": 4e-4,
    "pretrain.max_batch_per_device": 8,
}
IMAGE_HUGE = IMAGE_LARGE | {"encoder.dim": 1280, "encoder.depth": 32, "objective.top_k": 24}
AUDIO = ALL | {
    "objective.target_norm": "instance",
    "objective.mean_norm": "none",
    "objective.channel_reduction": "inv_sqrt_dim",
    "objective.teacher_averages": "after_features",
    "objective.prefix_weight": 0.0,
    "objective.decoder.residual": True,
    "objective.decoder.groups": 16,
    "objective.decoder.kernel": 7,
    "objective.decoder.layers": 4,
    "objective.decoder.projection_layers": 1,
    "objective.decoder.input_dropout": 0.1,
    "encoder.norm_eps": 1e-5,
    "encoder.input_norm": True,
    "encoder.dropout": 0.1,
    "encoder.attention_dropout": 0.1,
    "modality.frontend.kind": "convolution",
    "modality.frontend.normalise": True,
    "modality.frontend.layers": [[512, 10, 5]] + [[512, 3, 2]] * 4 + [[512, 2, 2]] * 2,
    "modality.frontend.positions.num_layers": 5,
    "modality.frontend.positions.kernel": 19,
    "modality.frontend.positions.groups": 16,
    "modality.frontend.positions.alibi": True,
    "modality.mask.kind": "blocks",
    "modality.mask.length": 5,
    "pretrain.guards.after": "5000 steps",
    "pretrain.optimizer.betas": [0.9, 0.98],
    "pretrain.optimizer.eps": 1e-6,
    "pretrain.optimizer.weight_decay": 0.01,
}
TEXT = ALL | {
    "objective.channel_reduction": "sum",
    "objective.teacher_averages": "encoder",
    "objective.masks_per_sample": 8,
    "objective.prenet_depth": 0,
    "objective.prefix_weight": 0.0,
    "objective.decoder.residual": False,
    "objective.decoder.groups": 1,
    "objective.decoder.kernel": 9,
    "objective.decoder.layers": 5,
    "objective.decoder.width": 768,
    "objective.decoder.projection_layers": 2,
    "objective.decoder.projection_std": 0.02,
    "objective.decoder.input_dropout": 0.1,
    "objective.tau.tau_0": 0.9999,
    "objective.tau.tau_e": 0.99999,
    "objective.tau.tau_n": "100000 steps",
    "encoder.norm_eps": 1e-5,
    "encoder.input_norm": False,
    "encoder.dropout": 0.1,
    "encoder.attention_dropout": 0.1,
    "encoder.layerdrop": 0.0,
    "modality.frontend.max_tokens": 512,
    "modality.frontend.first_position": 2,
    "modality.mask.kind": "random",
    "modality.store.blocks": "contiguous",
    "modality.store.block_tokens": 512,
    "pretrain.guards.after": "5000 steps",
    "pretrain.batch_length": 32_768.0,
    "pretrain.optimizer.betas": [0.9, 0.98],
    "pretrain.optimizer.eps": 1e-6,
    "pretrain.optimizer.weight_decay": 0.01,
    "pretrain.optimizer.clip_norm": 1.0,
    "pretrain.optimizer.schedule.warmup": "4000 steps",
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "vision/data2vec2-base": IMAGE
    | {
        "encoder.dim": 768,
        "encoder.depth": 12,  # prenet 2, and 10
        "encoder.num_heads": 12,
        "modality.frontend.patch_size": 16,
        "modality.mask.ratio": 0.8,
        "modality.mask.adjust": 0.07,
        "objective.top_k": 10,
        "objective.prenet_depth": 2,
        "objective.prefix_weight": 2.56,
        "objective.decoder.width": 768,
        "objective.decoder.kernel": 3,
        "objective.decoder.layers": 6,
        "objective.tau.tau_e": 0.99999,
        "objective.tau.tau_n": "100000 steps",
        "pretrain.steps": "375300 steps",
        "pretrain.batch_size": 256,
        "pretrain.max_batch_per_device": 16,
        "pretrain.optimizer.learning_rate": 1e-3,
    },
    "vision/data2vec2-large": IMAGE_LARGE
    | {
        "encoder.dim": 1024,
        "encoder.depth": 24,
        "modality.frontend.patch_size": 16,
        "objective.top_k": 18,
        "objective.tau.tau_e": 0.99999,
        "objective.tau.tau_n": "150000 steps",
        "pretrain.steps": "375300 steps",
        "pretrain.batch_size": 128,
    },
    "vision/data2vec2-huge16": IMAGE_HUGE
    | {
        "modality.frontend.patch_size": 16,
        "objective.tau.tau_e": 0.99995,
        "objective.tau.tau_n": "150000 steps",
        "pretrain.steps": "375300 steps",
        "pretrain.batch_size": 128,
    },
    "vision/data2vec2-huge14": IMAGE_HUGE
    | {
        "modality.frontend.patch_size": 14,
        "objective.tau.tau_e": 1.0,
        "objective.tau.tau_n": "300000 steps",
        "pretrain.steps": "500000 steps",
        "pretrain.batch_size": 256,
    },
    "speech/data2vec2-base": AUDIO
    | {
        "encoder.dim": 768,
        "encoder.depth": 12,
        "encoder.num_heads": 12,
        "encoder.layerdrop": 0.05,
        "modality.mask.ratio": 0.5,
        "modality.mask.adjust": 0.05,
        "objective.top_k": 8,
        "objective.masks_per_sample": 8,
        "objective.prenet_depth": 0,
        "objective.decoder.width": 384,
        "objective.tau.tau_0": 0.999,
        "objective.tau.tau_e": 0.99999,
        "objective.tau.tau_n": "75000 steps",
        "pretrain.steps": "400000 steps",
        "pretrain.batch_length": 8 * 1_000_000 / 16_000,
        "pretrain.optimizer.learning_rate": 7.5e-4,
        "pretrain.optimizer.clip_norm": None,
        "pretrain.optimizer.schedule.warmup": "8000 steps",
    },
    "speech/data2vec2-large": AUDIO
    | {
        "encoder.dim": 1024,
        "encoder.depth": 24,  # prenet 8, and 16
        "encoder.num_heads": 16,
        "encoder.layerdrop": 0.0,
        "modality.mask.ratio": 0.55,
        "modality.mask.adjust": 0.1,
        "objective.top_k": 16,
        "objective.masks_per_sample": 12,
        "objective.prenet_depth": 8,
        "objective.decoder.width": 768,
        "objective.tau.tau_0": 0.9997,
        "objective.tau.tau_e": 1.0,
        "objective.tau.tau_n": "300000 steps",
        "pretrain.steps": "600000 steps",
        "pretrain.batch_length": 48 * 320_000 / 16_000,
        "pretrain.optimizer.learning_rate": 4e-4,
        "pretrain.optimizer.clip_norm": 1.0,
        "pretrain.optimizer.schedule.warmup": "10000 steps",
    },
    "text/data2vec2-base": TEXT
    | {
        "encoder.dim": 768,
        "encoder.depth": 12,
        "encoder.num_heads": 12,
        "modality.mask.ratio": 0.48,
        "objective.top_k": 12,
        "objective.target_norm": "instance",
        "objective.mean_norm": "none",
        "pretrain.steps": "1000000 steps",
        "pretrain.optimizer.learning_rate": 2e-4,
    },
    "text/data2vec2-large": TEXT
    | {
        "encoder.dim": 1024,
        "encoder.depth": 24,
        "encoder.num_heads": 16,
        "modality.mask.ratio": 0.5,
        "objective.top_k": 24,
        "objective.target_norm": "layer",
        "objective.mean_norm": "instance",
        "pretrain.steps": "600000 steps",
        "pretrain.optimizer.learning_rate": 1e-4,
    },
}
FINETUNED: dict[str, dict[str, Any]] = {
    "vision/data2vec2-base": {
        "steps": "250200 steps",
        "optimizer.learning_rate": 1e-3,
        "optimizer.clip_norm": None,
        "optimizer.layer_decay": 0.65,
        "encoder.drop_path": 0.1,
    },
    **dict.fromkeys(
        ("vision/data2vec2-large", "vision/data2vec2-huge16", "vision/data2vec2-huge14"),
        {
            "steps": "125200 steps",
            "optimizer.learning_rate": 5e-4,
            "optimizer.clip_norm": 4.0,
            "optimizer.layer_decay": 0.75,
            "encoder.drop_path": 0.2,
        },
    ),
}
FINETUNED_ALIKE: dict[str, Any] = {
    "task.mix.mixup_alpha": 0.7,
    "task.mix.cutmix_alpha": 1.0,
    "task.mix.prob": 0.9,
    "task.mix.switch_prob": 0.5,
    "task.label_smoothing": 0.1,
    "task.head.pool": "mean",
    "task.head.norm": True,
    "task.head.weight_scale": 1.0,
    "modality.augment.auto_augment": "rand-m9-mstd0.5-inc1",
    "modality.augment.erasing": 0.25,
    "batch_size": 512,
    "optimizer.betas": [0.9, 0.95],
    "optimizer.weight_decay": 0.05,
    "optimizer.schedule.warmup": "16000 steps",
}
LAST_RATE = {"base": 1e-6, "large": 1e-7, "huge16": 1e-20, "huge14": 1e-20}
# devices, parameters of frontend and encoder, visible, of so many, views, decoder
PLANS = {
    # 85,056,000 encoder and input norm; 590,592 patches; 768 mask vector, 768 CLS.
    "vision/data2vec2-base": (16, "85,648,128", "39 of 196 patches", 16, "6 convolutions of 3 x 3"),
    "vision/data2vec2-large": (16, "303,100,928", "49 of 196 patches", 16, "3 convolutions of 5"),
    "vision/data2vec2-huge16": (16, "630,667,520", "49 of 196 patches", 16, "3 convolutions of 5"),
    "vision/data2vec2-huge14": (32, "630,437,120", "64 of 256 patches", 16, "3 convolutions of 5"),
    # As the first data2vec's 93,164,288, and 12 scales of ALiBi.
    "speech/data2vec2-base": (8, "93,164,300", "307 of 614 tokens", 8, "4 convolutions of 7"),
    "speech/data2vec2-large": (48, "313,276,432", "450 of 999 tokens", 12, "4 convolutions of 7"),
    "text/data2vec2-base": (16, "124,054,272", "266 of 512 tokens", 8, "5 convolutions of 9"),
    "text/data2vec2-large": (32, "354,309,120", "256 of 512 tokens", 8, "5 convolutions of 9"),
}
TRAINING = [shipped for shipped in shipped_recipes() if shipped.name != "text/glue"]


def loaded(name: str, *overrides: str) -> Recipe:
    return load_recipe(name, list(overrides), Recipe).settings


def leaves(recipe: Recipe) -> dict[str, Any]:
    return dict(flat(recipe.model_dump(mode="json")))


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipe__holds_the_published_figures(name: str) -> None:
    found = leaves(loaded(name))
    assert {key: found[key] for key in PUBLISHED[name]} == PUBLISHED[name]


@pytest.mark.parametrize("name", FINETUNED)
def test_recipe__fine_tunes_with_the_published_settings(name: str) -> None:
    recipe = loaded(name)
    assert recipe.finetune is not None
    own = dict(flat(recipe.finetune.model_dump(mode="json")))
    expected = FINETUNED_ALIKE | FINETUNED[name]
    assert {key: own[key] for key in expected} == expected
    optimizer = recipe.finetune.optimizer
    assert optimizer.learning_rate * optimizer.schedule.final_scale == pytest.approx(
        LAST_RATE[name.rpartition("-")[2]]
    )
    # Published: the layer decay touches blocks alone, so that patches learn at the full rate.
    first = optimizer.layer_decay ** (recipe.encoder.depth + 1) * optimizer.frontend_scale
    assert first == pytest.approx(1, rel=1e-3)
    tuned = leaves(recipe.while_finetuning())
    assert tuned["modality.frontend.pixel_mean"] == [0.485, 0.456, 0.406]
    assert tuned["modality.augment.color_jitter"] == [0.0, 0.0, 0.0]


def test_prefix_weight__is_the_published_one_of_the_views_of_a_device() -> None:
    for name in FINETUNED:
        recipe = loaded(name)
        assert recipe.pretrain is not None
        assert recipe.pretrain.max_batch_per_device is not None
        assert isinstance(recipe.objective, Data2Vec2Settings)
        views = recipe.pretrain.max_batch_per_device * recipe.objective.masks_per_sample
        assert math.isclose(recipe.objective.prefix_weight, 0.01 * views)


@pytest.mark.parametrize("name", PLANS)
def test_dry_run__of_a_published_recipe_tells_what_follows(name: str) -> None:
    devices, parameters, visible, views, decoder = PLANS[name]
    recipe = loaded(name)
    assert recipe.pretrain is not None
    text = pretrain_plan(recipe, recipe.pretrain, Options(nproc=devices), None)
    for words in (
        f"parameters     {parameters} in frontend and encoder",
        f"views          {views} a sample, {visible} visible in each\n",
        f"decoder        {decoder}",
        f"{devices} device(s) x 1 micro-batch(es)",
        f"for its {views} views",
    ):
        assert words in text


@pytest.mark.parametrize("shipped", TRAINING, ids=lambda shipped: shipped.name)
def test_group__fits_every_shipped_recipe(shipped: ShippedRecipe) -> None:
    recipe = loaded(shipped.name, "objective=data2vec2")
    assert isinstance(recipe.objective, Data2Vec2Settings)
    if recipe.pretrain is None:
        return
    text = pretrain_plan(recipe, recipe.pretrain, Options(nproc=1), None)
    assert "\nviews          " in text


@pytest.mark.parametrize("name", ["vision/digits", "vision/cifar10", "speech/fsdd", "text/pydoc"])
def test_group__leaves_the_recipe_its_own_settings(name: str) -> None:
    first, second = loaded(name).objective, loaded(name, "objective=data2vec2").objective
    assert (first.name, second.name) == ("data2vec", "data2vec2")
    for setting in ("top_k", "target_norm", "mean_norm", "tau"):
        assert getattr(first, setting) == getattr(second, setting), setting


@pytest.mark.parametrize(
    "name", ["vision/imagenet-base", "vision/imagenet-large", "speech/librispeech-base",
             "text/books-wiki-base"],
)  # fmt: skip
def test_group__gives_a_teacher_and_blocks_to_recipes_that_leave_them_to_it(name: str) -> None:
    objective = loaded(name, "objective=data2vec2").objective
    assert (objective.top_k, objective.tau.schedule, objective.tau.tau_n) == (8, "linear", "25 %")


@pytest.mark.parametrize(
    ("override", "told"),
    [("objective.decoder.kernel=4", "odd"), ("objective.decoder.groups=3", "does not divide"),
     ("objective.decoder.width=30", "does not divide")],
)  # fmt: skip
def test_decoder__of_no_possible_shape_is_refused_with_the_recipe(override: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        loaded("vision/digits", "objective=data2vec2", override)


@pytest.mark.parametrize(
    ("name", "other", "kind"),
    [("vision/digits", "block", "inverse_block"), ("speech/spoken", "spans", "blocks"),
     ("text/pydoc", "spans", "random")],
)  # fmt: skip
def test_dry_run__names_the_masks_that_pad_nothing(name: str, other: str, kind: str) -> None:
    def views(*overrides: str) -> str:
        mask = f"modality.mask.kind={other}"
        recipe = loaded(name, "objective=data2vec2", mask, *overrides)
        assert recipe.pretrain is not None
        lines = pretrain_plan(recipe, recipe.pretrain, Options(nproc=1), None).splitlines()
        return next(line for line in lines if line.startswith("views"))

    assert f"exactly as many with modality.mask.kind={kind}" in views()
    assert views(f"modality.mask.kind={kind}").endswith("visible in each")


def test_horizon__teacher_of_the_largest_models_stands_still_at_the_end() -> None:
    for name in ("vision/data2vec2-huge14", "speech/data2vec2-large"):
        recipe = loaded(name)
        assert recipe.pretrain is not None
        steps = int(recipe.pretrain.steps.split()[0])
        horizon = Horizon(total_steps=steps, steps_per_epoch=1000)
        assert ema_decay(299_999, recipe.objective.tau, horizon) < 1
        assert ema_decay(300_000, recipe.objective.tau, horizon) == 1


@pytest.mark.parametrize(
    ("recipe", "setting", "told"),
    [
        ("text/pydoc", "modality.mask.random_rate=0.1", "modality.mask.random_rate"),
        ("text/pydoc", "modality.mask.keep_rate=0.1", "modality.mask.keep_rate"),
        ("speech/spoken", "modality.mask.channel_ratio=0.2", "modality.mask.channel_ratio"),
        ("vision/digits", "objective.prefix_weight=1", "objective.prefix_weight"),
    ],
)
def test_settings__that_visible_only_students_cannot_use_are_refused(
    recipe: str, setting: str, told: str
) -> None:
    load_recipe(recipe, ["objective=data2vec2"], Recipe)
    with pytest.raises(UsageError, match=f"{told} would do nothing"):
        load_recipe(recipe, ["objective=data2vec2", setting], Recipe)
