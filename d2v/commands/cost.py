"""What a sample costs an update: multiplications, and numbers that are kept.

Letters: T tokens, V visible tokens of a view, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

from d2v.core.decoder import Decoder, DecoderSettings
from d2v.core.encoder import EncoderSettings
from d2v.data2vec import Distillation
from d2v.data2vec2 import Data2Vec2Settings
from d2v.modalities import ModalityPlan
from d2v.recipe import Recipe

_ACTIVATION_BYTES_PER_CHANNEL = 34
"""A block's stored activations in bytes for each token and channel in 16 bit, attention weights
aside (Korthikanti et al. 2022, section 4)."""


@dataclass(frozen=True, kw_only=True)
class SampleCost:
    """What one sample takes.

    Args:
        teacher: floating-point operations of the teacher's one pass.
        student: of the student's forward pass, over all views.
        decoder: the part of `student` that its decoder takes.
        kept_bytes: what the student keeps for its backward pass, in 16 bit.
    """

    teacher: float
    student: float
    decoder: float = 0.0
    kept_bytes: float

    @property
    def flops(self) -> float:
        """Of an update: a backward pass counts as two forward passes."""
        return self.teacher + 3 * self.student


def sample_cost(recipe: Recipe, plan: ModalityPlan, model: Distillation) -> SampleCost:
    """What the recipe's objective makes of one sample.

    Args:
        recipe: encoder and objective.
        plan: of the modality, for a sample of mean length.
        model: the objective, on any device.
    """
    encoder, objective = recipe.encoder, recipe.objective
    teacher = forward_flops(encoder, plan.num_tokens) + plan.frontend_flops
    if objective.teacher_averages != "all":  # it reads the student's features
        teacher -= plan.feature_flops
    if isinstance(objective, Data2Vec2Settings):
        return _of_views(encoder, objective, plan, model, teacher)
    return SampleCost(
        teacher=teacher,
        student=forward_flops(encoder, plan.num_tokens) + plan.frontend_flops,
        kept_bytes=_kept_bytes(encoder, plan.num_tokens) + 2 * plan.kept_values,
    )


def forward_flops(encoder: EncoderSettings, num_tokens: int) -> float:
    """One row through the encoder: two for each multiply-add of linear layers and attention."""
    linear = 2 * num_tokens * encoder.dim**2 * (4 + 2 * encoder.mlp_ratio)
    attention = 4 * num_tokens**2 * encoder.dim
    return encoder.depth * (linear + attention)


def memory_bytes(
    trained: int, teacher: int, samples: float, cost: SampleCost, precision: str
) -> float:
    """Weights, gradients, AdamW's averages, the teacher, and the student's activations.

    Args:
        trained: numbers that the optimiser changes.
        teacher: numbers of the teacher.
        samples: of the largest micro-batch.
        cost: of one of them.
        precision: that the student computes in.
    """
    width = 1 if precision == "bfloat16" else 2
    return 4 * (4 * trained + teacher) + samples * cost.kept_bytes * width


def _of_views(
    encoder: EncoderSettings,
    objective: Data2Vec2Settings,
    plan: ModalityPlan,
    model: Distillation,
    teacher: float,
) -> SampleCost:
    """The encoder sees V tokens of each view, the decoder all T places (reference section 4.1)."""
    views, num_places = objective.masks_per_sample, plan.num_tokens - plan.num_prefix
    num_seen = plan.num_tokens - plan.num_masked
    assert isinstance(model.head, Decoder)
    decoder = views * model.head.flops(num_places, encoder.dim)
    frontend = plan.frontend_flops + (views - 1) * plan.view_flops
    kept = plan.kept_values + (views - 1) * plan.view_kept_values
    kept += views * _decoder_kept_values(objective.decoder, num_places, encoder.dim)
    return SampleCost(
        teacher=teacher,
        student=frontend + views * forward_flops(encoder, num_seen) + decoder,
        decoder=decoder,
        kept_bytes=views * _kept_bytes(encoder, num_seen) + 2 * kept,
    )


def _kept_bytes(encoder: EncoderSettings, num_tokens: int) -> float:
    return num_tokens * encoder.dim * encoder.depth * _ACTIVATION_BYTES_PER_CHANNEL


def _decoder_kept_values(settings: DecoderSettings, num_tokens: int, dim: int) -> float:
    """Numbers kept of one view: what convolution, norm and GELU of each layer read, and linears."""
    width = settings.width or dim
    layers = dim + (settings.layers - 1) * width + 2 * settings.layers * width
    return num_tokens * (layers + width + 4.0 * width * (settings.projection_layers - 1))
