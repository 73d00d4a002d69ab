"""A tiny data2vec over token ids, ragged samples, float64."""

from typing import Any

import torch
from torch import Tensor

from d2v.core.encoder import Encoder, EncoderSettings
from d2v.core.schedules import Horizon
from d2v.data2vec import Data2Vec, Data2VecSettings
from d2v.modalities.text.frontend import FrontendSettings, TextFrontend
from d2v.modalities.text.tokenizer import TokenizerSettings
from d2v.types import Batch
from tests.maths_case import seeded, shaken, tail_padding, tiny_settings

TOKENIZER = TokenizerSettings(size=300)
MAX_TOKENS = 20
LENGTHS = [13, 20, 3, 8]


def encoder_settings(**changes: Any) -> EncoderSettings:
    """The reference's kind: post-norm, no layer scale."""
    return tiny_settings(**{"norm_position": "post", "layer_scale": None, "init": "normal",
                            "norm_eps": 1e-5, **changes})  # fmt: skip


def build_frontend(**encoder: Any) -> TextFrontend:
    """Float64, every weight arbitrary but the padding rows."""
    settings = FrontendSettings(max_tokens=MAX_TOKENS)
    frontend = TextFrontend(settings, TOKENIZER, encoder_settings(**encoder))
    frontend.initialise(seeded(0))
    shaken(frontend)
    return frontend.double()


def build(encoder: dict[str, Any] | None = None, **changes: Any) -> Data2Vec:
    """The text objective; the teacher's weights differ from the student's."""
    torch.manual_seed(0)  # timm draws from the global generator when it builds its parts
    text = {"top_k": 2, "target_feature": "ffn", "target_norm": "layer", "mean_norm": "none",
            "beta": 4.0, "channel_reduction": "sum", "head_layers": 2,
            "teacher_averages": "encoder"}  # fmt: skip
    settings = Data2VecSettings.model_validate({**text, **changes})
    core = Encoder(encoder_settings(**(encoder or {})))
    horizon = Horizon(total_steps=10, steps_per_epoch=10)
    frontend = build_frontend(**(encoder or {}))
    model = Data2Vec(frontend.float(), core, settings, horizon)
    model.initialise(seeded(0))
    shaken(model)
    return model.double().train()


def texts(lengths: list[int], seed: int = 1) -> Batch:
    """Random ids, special ones among them, as `collate` puts them together."""
    num_tokens = max(lengths)
    ids = torch.randint(TOKENIZER.size, (len(lengths), num_tokens), generator=seeded(seed))
    padding = tail_padding(lengths, num_tokens)
    ids = ids.masked_fill(padding, TOKENIZER.pad_id)
    return Batch(inputs=ids, padding=padding if bool(padding.any()) else None)


def alone(batch: Batch, row: int, length: int) -> Batch:
    """One sample of a batch without its padding."""
    return Batch(inputs=batch.inputs[row : row + 1, :length])


def slow_norm(x: Tensor, eps: float) -> Tensor:
    """(D,) -> (D,), without parameters."""
    return (x - x.mean()) / (x.var(correction=0) + eps).sqrt()
