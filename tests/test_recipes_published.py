"""Proves: the paper recipes hold the published figures, and a dry run tells what follows of them.

Figures: data2vec's released configurations (fairseq `base_librispeech.yaml`, text `base.yaml`; the
official vision commands).
"""

from typing import Any

import pytest

from d2v.commands.options import Options
from d2v.commands.plan import pretrain_plan
from d2v.config import flat, load_recipe
from d2v.recipe import Recipe

CONVOLUTIONS = [[512, 10, 5]] + [[512, 3, 2]] * 4 + [[512, 2, 2]] * 2
POST: dict[str, Any] = {
    "encoder.mlp_ratio": 4.0,
    "encoder.norm_position": "post",
    "encoder.norm_eps": 1e-5,
    "encoder.layer_scale": None,
    "encoder.dropout": 0.1,
    "encoder.attention_dropout": 0.1,
    "encoder.activation_dropout": 0.0,
    "encoder.init": "normal",
    "encoder.init_std": 0.02,
    "objective.target_feature": "ffn",
    "objective.mean_norm": "none",
    "objective.teacher_averages": "encoder",
    "objective.tau.schedule": "linear",
    "objective.tau.tau_0": 0.999,
    "objective.tau.tau_e": 0.9999,
    "pretrain.optimizer.betas": [0.9, 0.98],
    "pretrain.optimizer.eps": 1e-6,
    "pretrain.optimizer.weight_decay": 0.01,
    "pretrain.optimizer.decayed": "all",
}
SPEECH: dict[str, Any] = POST | {
    "encoder.input_norm": True,
    "encoder.layerdrop": 0.05,
    "modality.frontend.layers": CONVOLUTIONS,
    "modality.frontend.normalise": True,
    "modality.frontend.gradient_scale": 1.0,
    "modality.frontend.positions": {"num_layers": 5, "kernel": 19, "groups": 16},
    "modality.mask": {"ratio": 0.65, "length": 10, "min_spans": 1, "same_count": True},
    "modality.store.min_seconds": 2.0,
    "objective.top_k": 8,
    "objective.target_norm": "instance",
    "objective.beta": 0.0,
    "objective.channel_reduction": "inv_sqrt_dim",
    "objective.head_layers": 1,
    "objective.tau.tau_n": "30000 steps",
    "pretrain.steps": "400000 steps",
    "pretrain.batch_length": 3800.0,
    "pretrain.max_length": 20.0,
    "pretrain.length_mode": "crop",
    "pretrain.optimizer.learning_rate": 5e-4,
    "pretrain.optimizer.clip_norm": None,
    "pretrain.optimizer.schedule": {
        "schedule": "tri_stage_exponential",
        "warmup": "3 %",
        "hold": "90 %",
        "warmup_start_scale": 0.01,
        "final_scale": 0.01,
    },
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "speech/librispeech-base": SPEECH
    | {"encoder.dim": 768, "encoder.depth": 12, "encoder.num_heads": 12},
    "speech/librilight-large": SPEECH
    | {"encoder.dim": 1024, "encoder.depth": 24, "encoder.num_heads": 16},
    "text/books-wiki-base": POST
    | {
        "encoder.dim": 768,
        "encoder.depth": 12,
        "encoder.num_heads": 12,
        "encoder.input_norm": False,
        "encoder.layerdrop": 0.0,
        "modality.frontend.max_tokens": 512,
        "modality.tokenizer.size": 50_265,
        "modality.tokenizer.mask_id": 50_264,
        "modality.mask": {"ratio": 0.35, "span": 4, "random_rate": 0.0, "keep_rate": 0.0},
        "modality.store": {"blocks": "sentences", "block_tokens": 512},
        "objective.top_k": 10,
        "objective.target_norm": "layer",
        "objective.beta": 4.0,
        "objective.channel_reduction": "sum",
        "objective.head_layers": 2,
        "objective.tau.tau_n": "300000 steps",
        "pretrain.steps": "1000000 steps",
        "pretrain.batch_length": 131_072.0,
        "pretrain.optimizer.learning_rate": 2e-4,
        "pretrain.optimizer.clip_norm": 5.0,
        "pretrain.optimizer.schedule.schedule": "cosine",
        "pretrain.optimizer.schedule.warmup": "10000 steps",
        "pretrain.optimizer.schedule.final_scale": 0.0,
    },
}
PLANS = {
    # 85,056,000 encoder and input norm; 4,204,032 convolutions and norms; 395,008 norm and
    # projection, 768 mask vector, 3,508,480 positions.
    "speech/librispeech-base": [
        "parameters     93,164,288 in frontend and encoder",
        "16 device(s) x 1 micro-batch(es) x 237.5 seconds",
        "steps          400,000",
    ],
    "speech/librilight-large": ["parameters     313,276,416 in frontend and encoder"],
    # 85,054,464 encoder; 38,603,520 token and 394,752 position embeddings, 1,536 norm.
    "text/books-wiki-base": [
        "parameters     124,054,272 in frontend and encoder; 126,415,872 trained",
        "16 device(s) x 1 micro-batch(es) x 8,192 tokens",
        "steps          1,000,000",
    ],
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipe__holds_the_published_figures(name: str) -> None:
    recipe = load_recipe(name, [], Recipe).settings
    found = dict(flat(recipe.model_dump(mode="json")))
    for key, expected in PUBLISHED[name].items():
        parts = expected if isinstance(expected, dict) else {"": expected}
        for part, figure in parts.items():
            assert found[f"{key}.{part}".rstrip(".")] == figure, f"{key}.{part}"


@pytest.mark.parametrize("name", PLANS)
def test_dry_run__of_a_published_recipe_tells_what_follows(name: str) -> None:
    recipe = load_recipe(name, [], Recipe).settings
    assert recipe.pretrain is not None
    text = pretrain_plan(recipe, recipe.pretrain, Options(nproc=16), None)
    for words in PLANS[name]:
        assert words in text


def test_text_recipe__can_be_masked_as_the_paper_says() -> None:
    line = "modality.mask.ratio=0.15 modality.mask.span=1 modality.mask.random_rate=0.1"
    recipe = load_recipe("text/books-wiki-base", [*line.split(), "modality.mask.keep_rate=0.1"],
                         Recipe).settings  # fmt: skip
    assert recipe.modality.mask.model_dump() == {
        "kind": "spans", "ratio": 0.15, "span": 1, "random_rate": 0.1, "keep_rate": 0.1
    }  # fmt: skip
