"""What a recipe computes with: device, precision, attention kernel."""

from typing import Any, Literal

import torch

from d2v.core.encoder import Encoder, EncoderSettings
from d2v.errors import UsageError
from d2v.recipe import Recipe

_MIN_BFLOAT16_DIM = 128
"""Narrower encoders are slower in bfloat16 on a CPU."""


def resolve_device(recipe: Recipe) -> str:
    """Where to compute: "cuda" or "cpu".

    Raises:
        UsageError: a GPU is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if recipe.device == "cuda" and not available:
        raise UsageError(
            "device is cuda and this machine has no usable GPU", remedy="Set device=auto."
        )
    return "cuda" if available and recipe.device != "cpu" else "cpu"


def resolve_precision(
    asked: Literal["auto", "float32", "bfloat16"], encoder: EncoderSettings, device: str
) -> Literal["float32", "bfloat16"]:
    """auto: bfloat16 on a GPU or CPU that multiplies it in hardware, from a width where it pays."""
    if asked != "auto":
        return asked
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    in_hardware = any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16"))
    return "bfloat16" if in_hardware and encoder.dim >= _MIN_BFLOAT16_DIM else "float32"


def choose_attention(student: Encoder, device: str, precision: str) -> None:
    """Pick the attention kernel of an encoder that is about to be trained.

    auto is fused, but matmul in bfloat16 on a CPU, where the fused kernel's backward is several
    times slower. The teacher has no backward and stays fused.
    """
    kind = student.settings.attention
    slow = device == "cpu" and precision == "bfloat16"
    student.use_fused_attention(kind == "fused" or (kind == "auto" and not slow))
