"""What three code bases call the tensors of a pre-norm picture transformer (reference 5.2).

The official code and timm's BEiT share their names, fairseq's port has its own, and timm's ViT is
what d2v's blocks are made of.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from d2v.core.encoder import EncoderSettings
from d2v.exchange.links import KeylessBias, Link, Same, both
from d2v.modalities.vision.frontend import FrontendSettings

TABLE = "relative_position_bias_table"
QkvBias = Literal["whole", "keyless", "none"]
"""whole: one vector for query, key and value; keyless: one for query and one for value."""


@dataclass(frozen=True, kw_only=True)
class Names:
    """What a code base calls the parts.

    Args:
        stem: stands before blocks, norm and shared table, its dot included.
        cls_token: the CLS vector.
        mask_token: what replaces a masked patch.
        patch_embed: the convolution over pixels.
        fc1: first linear layer of the feed-forward part, within a block.
        fc2: second one.
        scales: the two learned scales of a block.
    """

    stem: str = ""
    cls_token: str = "cls_token"
    mask_token: str = "mask_token"
    patch_embed: str = "patch_embed.proj"
    fc1: str = "mlp.fc1"
    fc2: str = "mlp.fc2"
    scales: tuple[str, str] = ("gamma_1", "gamma_2")


BEIT = Names()
PORT = Names(
    stem="encoder.", cls_token="cls_emb", mask_token="mask_emb", patch_embed="patch_embed.conv",
    fc1="mlp.0", fc2="mlp.2",
)  # fmt: skip
VIT = Names(scales=("ls1.gamma", "ls2.gamma"))


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Which of the parts that not every file has are there."""

    mask_token: bool
    qkv_bias: QkvBias


def vit_links(
    names: Names,
    frontend: FrontendSettings,
    encoder: EncoderSettings,
    kept: Kept,
    *,
    ours: str = "",
    prefix: str = "",
) -> list[Link]:
    """Of frontend and encoder, without a head.

    Args:
        names: of the code base.
        frontend: settings.
        encoder: settings.
        kept: what there is.
        ours: "teacher." for the teacher.
        prefix: of all their names.
    """
    own, stem = f"{ours}frontend", f"{prefix}{names.stem}"
    links: list[Link] = [*both(f"{own}.patch_embed.proj", f"{prefix}{names.patch_embed}")]
    if frontend.cls_token:
        links.append(Same(f"{own}.cls_token", (f"{prefix}{names.cls_token}",), leading=2))
    if kept.mask_token:
        links.append(Same(f"{own}.mask_token", (f"{prefix}{names.mask_token}",), leading=2))
    if frontend.positions == "learned":
        links.append(Same(f"{own}.positions", (f"{prefix}pos_embed",), leading=1))
    if frontend.positions == "relative":
        links.append(Same(f"{own}.relative.{TABLE}", (f"{stem}rel_pos_bias.{TABLE}",)))
    for number in range(encoder.depth):
        block = f"{stem}blocks.{number}"
        if frontend.positions == "relative_per_block":
            links.append(Same(f"{own}.relative.{number}.{TABLE}", (f"{block}.attn.{TABLE}",)))
        links += _block(names, f"{ours}encoder.blocks.{number}", block, kept.qkv_bias)
        if encoder.layer_scale is not None:
            links += [
                Same(f"{ours}encoder.blocks.{number}.{scale}.gamma", (f"{block}.{theirs}",))
                for scale, theirs in zip(("ls1", "ls2"), names.scales, strict=True)
            ]
    if encoder.final_norm:
        links += both(f"{ours}encoder.norm", f"{stem}norm")
    return links


def anew(encoder: EncoderSettings, kept: Kept, *, ours: str = "") -> dict[str, str]:
    """Our names that the file has nothing for -> why."""
    found = {} if kept.mask_token else {f"{ours}frontend.mask_token": "the file has no mask vector"}
    if kept.qkv_bias == "none":
        for number in range(encoder.depth):
            name = f"{ours}encoder.blocks.{number}.attn.qkv.bias"
            found[name] = "the model has no such bias; ours starts at zero, which changes nothing"
    return found


def _block(names: Names, ours: str, theirs: str, bias: QkvBias) -> Iterator[Link]:
    yield Same(f"{ours}.attn.qkv.weight", (f"{theirs}.attn.qkv.weight",))
    if bias == "whole":
        yield Same(f"{ours}.attn.qkv.bias", (f"{theirs}.attn.qkv.bias",))
    elif bias == "keyless":
        parts = (f"{theirs}.attn.q_bias", f"{theirs}.attn.v_bias")
        yield KeylessBias(f"{ours}.attn.qkv.bias", parts)
    for own, other in (("norm1", "norm1"), ("attn.proj", "attn.proj"), ("norm2", "norm2"),
                       ("mlp.fc1", names.fc1), ("mlp.fc2", names.fc2)):  # fmt: skip
        yield from both(f"{ours}.{own}", f"{theirs}.{other}")
