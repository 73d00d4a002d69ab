"""Proves: the speech recognition recipes hold the published figures.

Figures: fairseq's `examples/wav2vec/config/finetuning/base_*.yaml` (reference section 3.2).
"""

from typing import Any

import pytest

from d2v.config import flat, load_recipe
from d2v.recipe import Recipe

COMMON: dict[str, Any] = {
    "finetune.task.name": "ctc",
    "finetune.task.dropout": 0.0,
    "finetune.task.zero_infinity": True,
    "finetune.optimizer.betas": [0.9, 0.98],
    "finetune.optimizer.eps": 1e-8,
    "finetune.optimizer.weight_decay": 0.0,
    "finetune.optimizer.clip_norm": None,
    "finetune.optimizer.schedule.schedule": "tri_stage_exponential",
    "finetune.optimizer.schedule.warmup": "10 %",
    "finetune.optimizer.schedule.hold": "40 %",
    "finetune.optimizer.schedule.warmup_start_scale": 0.01,
    "finetune.optimizer.schedule.final_scale": 0.05,
    "finetune.batch_length": 1600.0,  # 8 times 3.2 million samples at 16 kHz
}
ROWS = {
    "10m": ("10min", 13_000, 5e-5, 10_000, 0.65, 0.25, 0.1),
    "1h": ("1h", 13_000, 5e-5, 10_000, 0.65, 0.25, 0.1),
    "10h": ("10h", 20_000, 5e-5, 10_000, 0.65, 0.5, 0.05),
    "100h": ("100h", 80_000, 3e-5, 0, 0.65, 0.5, 0.1),
    "960h": ("all", 320_000, 1e-4, 0, 0.5, 0.1, 0.1),
}
"""Subset, updates, learning rate, frozen updates, time and channel masks, layerdrop."""


@pytest.mark.parametrize("hours", list(ROWS))
def test_recipe__holds_the_published_row(hours: str) -> None:
    recipe = load_recipe(f"speech/librispeech/base-{hours}", [], Recipe).settings
    subset, updates, rate, frozen, time, channel, layerdrop = ROWS[hours]
    found = dict(flat(recipe.model_dump(mode="json")))
    expected = COMMON | {
        "finetune.subset": [subset],
        "finetune.steps": f"{updates} steps",
        "finetune.optimizer.learning_rate": rate,
        "finetune.task.freeze_steps": frozen,
    }
    assert {key: found[key] for key in expected} == expected
    tuned = recipe.while_finetuning()
    own = dict(flat(tuned.model_dump(mode="json")))
    changed = {
        "modality.mask.ratio": time,
        "modality.mask.length": 10,
        "modality.mask.channel_ratio": channel,
        "modality.mask.channel_length": 64,
        "modality.frontend.gradient_scale": 0.0,
        "modality.frontend.normalise": True,
        "encoder.layerdrop": layerdrop,
        "encoder.dropout": 0.0,
        "encoder.attention_dropout": 0.0,
        "encoder.activation_dropout": 0.1,
    }
    assert {key: own[key] for key in changed} == changed
    amounts = {"10min": 600, "1h": 3600, "10h": 36_000, "100h": 360_000}
    assert recipe.prepare is not None
    assert recipe.prepare.subsets == {name: f"{n} seconds" for name, n in amounts.items()}
