"""What fairseq calls the tensors of its data2vec 2.0 models (reference section 5.6).

Student and teacher bear the same names, the teacher's behind `_ema.`; a teacher that is the shared
blocks alone has nothing else between. Letters: T patches, D width, H heads, W width of the decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Size, Tensor

from d2v.exchange.fairseq.names import convolution_links
from d2v.exchange.links import Link, Same, both
from d2v.modalities.speech.convolution import ConvolutionSettings
from d2v.modalities.vision.frontend import FrontendSettings

POSITIONS = "fixed_positional_encoder.positions"
_PARTS = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")


@dataclass(frozen=True)
class BehindCls(Link):
    """Positions of tokens, (T + 1, D) with that of CLS first; theirs, (1, T, D), has none of it."""

    ours: str
    theirs: tuple[str, ...]

    def to_ours(self, theirs: Sequence[Tensor], shape: Size) -> Tensor:
        """Nothing is added to CLS there: zero."""
        (tensor,) = theirs
        return torch.cat([torch.zeros_like(tensor[0, :1]), tensor[0]])

    def to_theirs(self, ours: Tensor) -> list[Tensor]:
        """Without CLS."""
        return [ours[1:].unsqueeze(0)]


@dataclass(frozen=True)
class OnLine(Link):
    """A convolution along a line, (W, D, kernel) there; ours has an axis of height 1."""

    ours: str
    theirs: tuple[str, ...]

    def to_ours(self, theirs: Sequence[Tensor], shape: Size) -> Tensor:
        """(W, D, 1, kernel)."""
        (tensor,) = theirs
        return tensor.unsqueeze(2)

    def to_theirs(self, ours: Tensor) -> list[Tensor]:
        """(W, D, kernel)."""
        return [ours.squeeze(2)]


@dataclass(frozen=True)
class ScaleOfHeads(Link):
    """One number a head, (H,); theirs (1, 1, H, 1, 1)."""

    ours: str
    theirs: tuple[str, ...]

    def to_ours(self, theirs: Sequence[Tensor], shape: Size) -> Tensor:
        """Raises RuntimeError where there is one a block besides."""
        (tensor,) = theirs
        if tensor.numel() != max(tensor.shape):
            raise RuntimeError("more than one axis, and d2v has a scale a head for all blocks")
        return tensor.flatten()

    def to_theirs(self, ours: Tensor) -> list[Tensor]:
        """With axes of one."""
        return [ours[None, None, :, None, None]]


def block_links(ours: str, theirs: str) -> list[Link]:
    """Of one block: names are the same.

    Args:
        ours: "encoder.blocks.0".
        theirs: the same there.
    """
    return [link for part in _PARTS for link in both(f"{ours}.{part}", f"{theirs}.{part}")]


def picture_links(ours: str, tower: str, settings: FrontendSettings) -> list[Link]:
    """Patches, CLS, and positions where these were learned.

    Args:
        ours: "frontend" or "teacher.frontend".
        tower: what stands before `local_encoder.`, its dot included.
        settings: of the frontend.
    """
    links: list[Link] = [*both(f"{ours}.patch_embed.proj", f"{tower}local_encoder.proj")]
    if settings.cls_token:
        links.append(Same(f"{ours}.cls_token", (f"{tower}extra_tokens",), leading=2))
    if settings.positions == "learned":
        names = f"{ours}.positions", (f"{tower}{POSITIONS}",)
        links.append(BehindCls(*names) if settings.cls_token else Same(*names, leading=1))
    return links


def speech_links(ours: str, tower: str, settings: ConvolutionSettings) -> list[Link]:
    """Convolutions, projection, positions and the scale of attention's distance."""
    layers, positions = f"{tower}local_encoder.conv_layers", f"{tower}relative_positional_encoder"
    links = convolution_links(ours, layers, positions, settings, first=1)
    links += both(f"{ours}.extractor.norm", f"{tower}project_features.1")
    links += both(f"{ours}.projection", f"{tower}project_features.2")
    if settings.positions.alibi:
        links.append(ScaleOfHeads(f"{ours}.alibi.scale", (f"{tower}alibi_scale",)))
    return links


def decoder_links(tower: str, layers: int, projections: int, *, is_grid: bool) -> list[Link]:
    """Of `head.*`.

    Args:
        tower: what stands before `decoder.`, its dot included.
        layers: convolutions.
        projections: linear layers; a lone one has no number there.
        is_grid: whether the convolutions see rows and columns.
    """
    links: list[Link] = []
    for number in range(layers):
        own, theirs = f"head.convolutions.{number}", f"{tower}decoder.blocks.{number}.0"
        weight = f"{own}.weight", (f"{theirs}.weight",)
        links.append(Same(*weight) if is_grid else OnLine(*weight))
        links.append(Same(f"{own}.bias", (f"{theirs}.bias",)))
    for number in range(projections):
        place = f".{2 * number}" if projections > 1 else ""
        links += both(f"head.projections.{number}", f"{tower}decoder.proj{place}")
    return links
