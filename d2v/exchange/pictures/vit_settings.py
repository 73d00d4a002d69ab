"""Settings of a picture transformer out of the shapes of its tensors.

Letters: D width, P patches, S patches along one side.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from d2v.core.encoder import EncoderSettings
from d2v.errors import UsageError
from d2v.exchange.huggingface.config import mlp_ratio
from d2v.exchange.pictures.vit_names import TABLE, Kept, Names, QkvBias
from d2v.modalities.vision.frontend import FrontendSettings

Pixels = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and deviation of pixels in 0..1, a value a channel."""
INDEX = r".*relative_position_index"
INDEX_REASON = "computed from the grid, not learned (and wrong where it was averaged)"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_USUAL_SIZE = 224
_REFUSED = {
    r"(reg_token|storage_tokens)": "register tokens",
    r"(dist_token|head_dist\..*)": "a second CLS token for distillation",
    r"norm_pre\..*": "a norm before the blocks",
    r"patch_embed\.norm\..*": "a norm of the patches",
    r"attn_pool\..*": "pooling by attention",
    r".*\.attn\.(q_norm|k_norm)\..*": "norms of query and key",
    r".*\.attn\.(norm|gate)\..*": "norms or gates inside attention",
    r".*\.attn\.(q_proj|k_proj|v_proj)\..*": "separate query, key and value",
    r".*\.mlp\.(norm|fc1_g|fc1_x|w1|w2|w3|w12)\..*": "SwiGLU, or a norm within it",
    r".*\.(scale1|scale2|norm3)\b.*": "another kind of block",
}
"""What d2v cannot express: pattern of a name -> what it belongs to."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What shapes and names tell of a model.

    Args:
        frontend: settings.
        encoder: settings.
        kept: which of the optional parts there are.
        prefix: of all names.
    """

    frontend: FrontendSettings
    encoder: EncoderSettings
    kept: Kept
    prefix: str = ""


@dataclass(frozen=True, kw_only=True)
class Untold:
    """What no shape tells.

    Args:
        norm_eps: of every layer norm.
        pixels: mean and deviation of pixels, three values or one a channel.
        num_heads: of attention; None where neither the user nor a setting says.
        image_size: of the picture in pixels, for models without positions.
        heads_from_user: whether `num_heads` is the user's.
    """

    norm_eps: float
    pixels: Pixels
    num_heads: int | None = None
    image_size: int = _USUAL_SIZE
    heads_from_user: bool = True


def look(
    place: str, tensors: Mapping[str, Tensor], names: Names, untold: Untold, prefix: str = ""
) -> Found:
    """Settings of a model.

    Args:
        place: names the file, for errors.
        tensors: of the file.
        names: of its code base.
        untold: what no shape tells.
        prefix: of all names.

    Raises:
        UsageError: d2v cannot express it, or does not know its attention heads.
    """
    _refuse(place, tensors)
    stem = f"{prefix}{names.stem}"
    patches = _weight(place, tensors, f"{prefix}{names.patch_embed}.weight")
    first = _weight(place, tensors, f"{stem}blocks.0.{names.fc1}.weight")
    if patches.ndim != 4 or patches.shape[2] != patches.shape[3] or patches.shape[1] not in (1, 3):
        raise UsageError(
            f"{place} has patches of shape {list(patches.shape)}",
            expected="square patches of one or three channels: (D, 1 or 3, side, side)",
        )
    positions, side = _positions(place, tensors, stem, prefix, names)
    dim, channels, patch = patches.shape[0], patches.shape[1], patches.shape[2]
    side = untold.image_size // patch if side is None else side
    scaled = f"{stem}blocks.0.{names.scales[0]}" in tensors
    mean, std = (values[:channels] for values in untold.pixels)
    frontend = FrontendSettings(
        image_size=side * patch,
        patch_size=patch,
        channels=channels,
        positions=positions,
        cls_token=f"{prefix}{names.cls_token}" in tensors,
        pixel_mean=mean,
        pixel_std=std,
    )
    encoder = EncoderSettings(
        dim=dim,
        depth=_depth(tensors, f"{stem}blocks.{{}}.{names.fc1}.weight"),
        num_heads=_heads(place, tensors, dim, untold),
        mlp_ratio=mlp_ratio(dim, first.shape[0]),
        final_norm=f"{stem}norm.weight" in tensors,
        norm_eps=untold.norm_eps,
        layer_scale=(1e-4 if dim < 1024 else 1e-5) if scaled else None,
    )
    kept = Kept(
        mask_token=f"{prefix}{names.mask_token}" in tensors,
        qkv_bias=_qkv_bias(tensors, f"{stem}blocks.0.attn"),
    )
    return Found(frontend=frontend, encoder=encoder, kept=kept, prefix=prefix)


def _refuse(place: str, tensors: Mapping[str, Tensor]) -> None:
    for name in tensors:
        for what, why in _REFUSED.items():
            if re.fullmatch(what, name):
                raise UsageError(
                    f"{place} has {name}: {why}, which d2v has no counterpart of",
                    expected="a plain BEiT or ViT",
                )
    for name, weight in tensors.items():
        second = tensors.get(name.replace("mlp.fc1.", "mlp.fc2."))
        if name.endswith("mlp.fc1.weight") and second is not None:
            if weight.shape[0] != second.shape[1]:
                raise UsageError(
                    f"{place} has a gated feed-forward part (SwiGLU): {name} {list(weight.shape)}",
                    expected="a plain BEiT or ViT",
                )
            return


def _positions(
    place: str, tensors: Mapping[str, Tensor], stem: str, prefix: str, names: Names
) -> tuple[str, int | None]:
    """How positions enter, and S; None where nothing tells it."""
    kinds = {
        "learned": tensors.get(f"{prefix}pos_embed"),
        "relative": tensors.get(f"{stem}rel_pos_bias.{TABLE}"),
        "relative_per_block": tensors.get(f"{stem}blocks.0.attn.{TABLE}"),
    }
    told = [name for name, tensor in kinds.items() if tensor is not None]
    if len(told) > 1:
        raise UsageError(
            f"{place} has positions of several kinds ({', '.join(told)}), and d2v has one at a time"
        )
    if not told:
        return "none", None
    (kind,) = told
    has_cls = f"{prefix}{names.cls_token}" in tensors
    tensor = kinds[kind]
    assert tensor is not None
    if kind == "learned":
        count = tensor.shape[-2]
        if has_cls and math.isqrt(count) ** 2 == count:
            raise UsageError(
                f"{place} has a CLS token without a position (no_embed_class), which d2v has not",
                expected="a position for CLS and for every patch",
            )
        side = math.isqrt(count - has_cls)
        whole = side * side + has_cls == count
    else:
        span = math.isqrt(tensor.shape[0] - 3 * has_cls)  # 2 S - 1
        side = (span + 1) // 2
        whole = span * span + 3 * has_cls == tensor.shape[0] and span % 2 == 1
    if not whole:
        raise UsageError(
            f"{place} has positions of shape {list(tensor.shape)}",
            expected="those of a square grid",
        )
    return kind, side


def _heads(place: str, tensors: Mapping[str, Tensor], dim: int, untold: Untold) -> int:
    """From a table of biases, which has a column a head; else as somebody says."""
    table = next((one for name, one in tensors.items() if name.endswith(TABLE)), None)
    told = None if table is None else table.shape[1]
    asked = untold.num_heads
    if told is not None and asked is not None and told != asked:
        whose = "--num-heads" if untold.heads_from_user else "config.json"
        raise UsageError(f"{whose} says {asked} attention heads, and the tables of {place} {told}")
    heads = told or asked
    if heads is None:
        raise UsageError(
            f"Nothing in {place} tells its attention heads",
            expected=f"a number that divides its width {dim}; mostly there are 64 channels a head",
            remedy="Pass --num-heads, or name a folder with timm's config.json.",
        )
    if dim % heads:
        raise UsageError(f"{heads} attention heads do not divide the width {dim} of {place}")
    return heads


def _qkv_bias(tensors: Mapping[str, Tensor], attention: str) -> QkvBias:
    if f"{attention}.qkv.bias" in tensors:
        return "whole"
    return "keyless" if f"{attention}.q_bias" in tensors else "none"


def _weight(place: str, tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise UsageError(f"{place} has no {name}", expected="a whole picture transformer")
    return tensors[name]


def _depth(tensors: Mapping[str, Tensor], name: str) -> int:
    depth = 0
    while name.format(depth) in tensors:
        depth += 1
    return depth
