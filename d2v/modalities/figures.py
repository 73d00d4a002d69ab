"""What a dry run must know of a modality."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ModalityPlan:
    """What a dry run tells of a modality.

    Args:
        num_tokens: tokens of one sample, prefix tokens included.
        num_masked: how many of them the model predicts, about.
        frontend_flops: multiply-adds times two, one sample through the frontend.
        text: one line.
        feature_flops: the part of `frontend_flops` that a teacher without a frontend of its own
            saves, because it reads the student's features.
        kept_values: numbers that the frontend keeps for its backward pass, of one sample.
        num_prefix: tokens in front that are never masked (CLS).
        token_name: what people call the others, plural.
        view_flops: the part of `frontend_flops` that every further view of a sample costs again,
            for a student that reads only what is visible.
        view_kept_values: likewise of `kept_values`.
        exact_kind: the kind of masks that hides as many tokens in every view; None where the kind
            that is set does.
    """

    num_tokens: int
    num_masked: int
    frontend_flops: float
    text: str
    feature_flops: float = 0.0
    kept_values: float = 0.0
    num_prefix: int = 0
    token_name: str = "tokens"
    view_flops: float = 0.0
    view_kept_values: float = 0.0
    exact_kind: str | None = None
