"""timm's BEiT and ViT: a file of weights, or a folder with timm's config.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from d2v.errors import UsageError
from d2v.exchange.foreign import Foreign
from d2v.exchange.huggingface.config import CONFIG
from d2v.exchange.links import Layout
from d2v.exchange.pictures.timm_config import Stock, read_stock
from d2v.exchange.pictures.vit_heads import classifier
from d2v.exchange.pictures.vit_names import BEIT, VIT, anew, vit_links
from d2v.exchange.pictures.vit_settings import HALF, INDEX, INDEX_REASON, Pixels, Untold, look

_EPS = 1e-6
_FIRST = "blocks.0.attn.qkv.weight"
_UNTOLD = (
    "A file of weights alone does not tell activation, epsilon of the norms and pooling: those of "
    "timm's plain models are assumed (GELU, 1e-6, the mean where there is fc_norm, else CLS)."
)
_NO_PIXELS = (
    "Nothing tells the mean and deviation of its pixels: one half was assumed. If that is wrong, "
    "set modality.frontend.pixel_mean and pixel_std."
)


def is_timm(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of a BEiT or ViT."""
    return _FIRST in tensors and f"{VIT.patch_embed}.weight" in tensors


def read_timm(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    config: Mapping[str, Any] | None,
    num_heads: int | None,
) -> Foreign:
    """A picture model of timm.

    Args:
        path: of the file or folder.
        tensors: all of it.
        config: of the folder's config.json; None for a file alone.
        num_heads: where the user says.

    Raises:
        UsageError: d2v cannot express it, or nothing tells its attention heads.
    """
    stock = None if config is None else read_stock(path, config)
    if stock is not None and num_heads is not None:
        raise UsageError(
            f"--num-heads {num_heads} is not needed: {path / CONFIG} tells it",
            remedy="Leave it out.",
        )
    is_beit = f"blocks.0.{BEIT.scales[0]}" in tensors or "blocks.0.attn.q_bias" in tensors
    names = BEIT if is_beit else VIT
    pixels, told = _pixels(config)
    found = look(str(path), tensors, names, _untold(stock, pixels, num_heads))
    left_out = {INDEX: INDEX_REASON}
    head = classifier(
        tensors, left_out, pool=None if stock is None else stock.pool,
        classes=_labels(config, tensors),
    )  # fmt: skip
    links = vit_links(names, found.frontend, found.encoder, found.kept)
    notes = [_UNTOLD] * (stock is None) + [_NO_PIXELS] * (not told)
    return Foreign(
        kind=_kind(stock, is_beit=is_beit),
        modality={"name": "vision", "frontend": found.frontend.model_dump(mode="json")},
        encoder=found.encoder.model_dump(mode="json"),
        objective={},
        layout=Layout(
            links=(*links, *([] if head is None else head.links)),
            left_out=left_out,
            anew=anew(found.encoder, found.kept),
        ),
        tensors=tensors,
        task=None if head is None else head.task,
        about=None if head is None else head.about,
        notes=tuple(notes),
    )


def _untold(stock: Stock | None, pixels: Pixels, num_heads: int | None) -> Untold:
    """From the folder's config.json where there is one."""
    if stock is None:
        return Untold(norm_eps=_EPS, pixels=pixels, num_heads=num_heads)
    return Untold(
        norm_eps=stock.norm_eps, pixels=pixels, num_heads=stock.num_heads,
        image_size=stock.image_size, heads_from_user=False,
    )  # fmt: skip


def _kind(stock: Stock | None, *, is_beit: bool) -> str:
    if stock is not None:
        return f"timm {stock.architecture}"
    return "timm " + ("BEiT" if is_beit else "ViT")


def _settings(config: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The part of a config.json that is about data; old ones have no parts."""
    inner = {} if config is None else config.get("pretrained_cfg", config)
    return inner if isinstance(inner, Mapping) else {}


def _pixels(config: Mapping[str, Any] | None) -> tuple[Pixels, bool]:
    """Mean and deviation of pixels, and whether something told them."""
    said = [_settings(config).get(name) for name in ("mean", "std")]
    found = [
        tuple(float(one) for one in value)
        for value in said
        if isinstance(value, list | tuple)
        and value
        and all(isinstance(one, int | float) for one in value)
    ]
    if len(found) < 2:
        return HALF, False
    return (found[0], found[1]), True


def _labels(config: Mapping[str, Any] | None, tensors: Mapping[str, Tensor]) -> list[str] | None:
    """Names of the classes where there are as many as outputs, each once."""
    if config is None or "head.weight" not in tensors:
        return None
    names = config.get("label_names", _settings(config).get("label_names"))
    if not isinstance(names, list) or len(set(map(str, names))) != tensors["head.weight"].shape[0]:
        return None
    return list(map(str, names))
