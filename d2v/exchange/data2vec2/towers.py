"""The part of a data2vec 2.0 file that belongs to one modality: its section, tensors and masks.

Source: reference sections 4.3 to 4.5 and 5.6. Letters: T patches, D width.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from d2v.errors import UsageError
from d2v.exchange.data2vec2.look import Second
from d2v.exchange.data2vec2.names import POSITIONS, picture_links, speech_links
from d2v.exchange.data2vec2.published import Published, published
from d2v.exchange.fairseq.names import text_frontend_links
from d2v.exchange.fairseq.settings import conv_strides, number
from d2v.exchange.fairseq.text import text_section
from d2v.exchange.links import Link
from d2v.exchange.pictures.vit_settings import IMAGENET
from d2v.modalities.speech.convolution import ConvolutionSettings
from d2v.modalities.text.tokenizer import TokenizerSettings
from d2v.modalities.vision.frontend import FrontendSettings, sincos_table

_HALF_PRECISION = 1e-3
"""Files are half precision: numbers up to one are off by up to 0.0005."""
_COMPUTED = "sines and cosines of row and column, which d2v computes"
_NO_MASK = "2.0 masks with nothing; zero, as while fine-tuning (reference section 4.10)"


@dataclass(frozen=True, kw_only=True)
class Tower:
    """What d2v makes of it.

    Args:
        modality: the `modality` section.
        usual: the published model next to it.
        links: from "frontend" or "teacher.frontend", and what stands before the parts there.
        has_mask: whether ours has a vector for masked places, which 2.0 has not.
        is_grid: whether its tokens lie in rows and columns.
        computed: parts there that d2v computes.
        ids: of a tokenizer; None where there is none.
        notes: what a user should know.
    """

    modality: dict[str, Any]
    usual: Published
    links: Callable[[str, str], list[Link]]
    has_mask: bool = True
    is_grid: bool = False
    computed: tuple[str, ...] = ()
    ids: TokenizerSettings | None = None
    notes: list[str] = field(default_factory=list)

    def left_out(self, tower: str) -> dict[str, str]:
        """Patterns of names behind `tower` that d2v needs not -> why."""
        return {re.escape(tower + name): _COMPUTED for name in self.computed}

    def anew(self, ours: str) -> dict[str, str]:
        """Of our names those that 2.0 never has -> why."""
        return {f"{ours}.mask_token": _NO_MASK} if self.has_mask else {}


def tower_of(found: Second) -> Tower:
    """Whatever modality it is. Raises UsageError where d2v cannot express it."""
    if found.kind == "IMAGE":
        return _pictures(found)
    return _speech(found) if found.kind == "AUDIO" else _text(found)


def _pictures(found: Second) -> Tower:
    patches = found.weight(f"{found.tower}local_encoder.proj.weight")
    if patches.ndim != 4 or patches.shape[2] != patches.shape[3] or patches.shape[1] not in (1, 3):
        raise UsageError(
            f"{found.place} has patches of shape {list(patches.shape)}",
            expected="square patches of one or three channels: (D, 1 or 3, side, side)",
        )
    dim, channels, patch = patches.shape[0], patches.shape[1], patches.shape[2]
    kind, side = _positions(found, dim)
    mean, std = (values[:channels] for values in IMAGENET)
    frontend = FrontendSettings(
        image_size=side * patch,
        patch_size=patch,
        channels=channels,
        positions=kind,
        cls_token=f"{found.tower}extra_tokens" in found.tensors,
        pixel_mean=mean,
        pixel_std=std,
    )
    usual = published("IMAGE", dim, patch)
    mask, notes = _masks(found, usual, wanted={"inverse_mask": True}, length="size")
    return Tower(
        modality={"name": "vision", "frontend": frontend.model_dump(mode="json"), **mask},
        usual=usual,
        links=lambda ours, tower: picture_links(ours, tower, frontend),
        is_grid=True,
        computed=(POSITIONS,) if kind == "sincos_2d" else (),
        notes=notes,
    )


def _positions(found: Second, dim: int) -> tuple[str, int]:
    """How they enter, and patches along one side. Raises UsageError."""
    table = found.tensors.get(f"{found.tower}{POSITIONS}")
    if table is None:
        size, patch = found.own.get("input_size", 224), found.own.get("patch_size", 16)
        return "none", int(size) // int(patch)
    count = table.shape[1] if table.ndim == 3 else 0
    side = math.isqrt(count)
    if count == 0 or side * side != count or tuple(table.shape) != (1, count, dim):
        raise UsageError(
            f"{found.place} has positions of shape {list(table.shape)}",
            expected=f"those of a square grid, (1, T, {dim})",
        )
    if dim % 4 == 0:
        computed = sincos_table(side, dim)
        if torch.allclose(table[0], computed, rtol=0, atol=_HALF_PRECISION):
            return "sincos_2d", side
    return "learned", side


def _speech(found: Second) -> Tower:
    layers = found.several(f"{found.tower}local_encoder.conv_layers.{{}}.0.weight")
    positions = found.several(f"{found.tower}relative_positional_encoder.{{}}.0.weight", first=1)
    if not layers or not positions:
        lacking = "relative_positional_encoder.1.0" if layers else "local_encoder.conv_layers.0.0"
        raise UsageError(
            f"{found.place} has no {found.tower}{lacking}.weight", expected="a whole model"
        )
    spec = "feature_encoder_spec"
    kernels = tuple(weight.shape[2] for weight in layers)
    strides = conv_strides(found.own, kernels, found.place, spec)
    dim = positions[0].shape[0]
    frontend = ConvolutionSettings(
        normalise=bool(found.told.get("normalize", True)),
        layers=tuple(
            (weight.shape[0], kernel, stride)
            for weight, kernel, stride in zip(layers, kernels, strides, strict=True)
        ),
        bias=f"{found.tower}local_encoder.conv_layers.0.0.bias" in found.tensors,
        # Padding is zero before every layer: a recording gives what it gives there alone.
        positions={
            "num_layers": len(positions),
            "kernel": positions[0].shape[2],
            "groups": dim // positions[0].shape[1],
            "alibi": f"{found.tower}alibi_scale" in found.tensors,
        },
    )
    usual = published("AUDIO", dim)
    mask, notes = _masks(found, usual, wanted={"inverse_mask": False}, length="length")
    return Tower(
        modality={"name": "speech", "frontend": frontend.model_dump(mode="json"), **mask},
        usual=usual,
        links=lambda ours, tower: speech_links(ours, tower, frontend),
        notes=notes,
    )


def _text(found: Second) -> Tower:
    stem = f"{found.tower}local_encoder."
    table = found.weight(f"{stem}embed_tokens.weight")
    found.weight(f"{stem}embed_positions.weight")
    section, ids = text_section(found.tensors, stem)
    usual = published("TEXT", table.shape[1])
    mask, notes = _masks(found, usual, wanted={"mask_length": 1}, length=None)
    return Tower(
        modality={**section, **mask},
        usual=usual,
        links=lambda ours, tower: text_frontend_links(
            ours, f"{tower}local_encoder.", "layernorm_embedding"
        ),
        has_mask=False,
        ids=ids,
        notes=notes,
    )


def _masks(
    found: Second, usual: Published, *, wanted: dict[str, Any], length: str | None
) -> tuple[dict[str, Any], list[str]]:
    """`modality.mask` of pre-training, and a note where d2v draws none like those of the file.

    Args:
        found: the file.
        usual: the published model next to it.
        wanted: settings that d2v's masks of that kind stand for.
        length: what d2v calls `mask_length`; None where there is no choice.
    """
    if found.prefix:
        return {}, []
    own = found.own
    odd = [f"{name} {own[name]}" for name, value in wanted.items() if own.get(name, value) != value]
    if length is not None and number(own, "mask_length", 2) <= 1:
        odd.append(f"mask_length {own['mask_length']}")
    if odd:
        return {"mask": usual.mask}, [
            f"It was trained with {' and '.join(odd)}, and d2v draws no such masks: pre-training "
            f"goes on with those of {usual.name}."
        ]
    mask = {**usual.mask, "ratio": number(own, "mask_prob", usual.mask["ratio"])}
    if length is not None:
        mask["adjust"] = number(own, "mask_prob_adjust", usual.mask["adjust"])
        mask[length] = round(number(own, "mask_length", usual.mask[length]))
    return {"mask": mask}, []
