"""What a folder in timm's own format says of its model: timm builds it, d2v looks at it.

Nothing is downloaded and no weight is made: the model is built without memory behind its tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.models import beit, vision_transformer
from torch import nn

from d2v.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Stock:
    """What no tensor tells.

    Args:
        architecture: as timm calls it.
        num_heads: of attention.
        norm_eps: of every norm.
        image_size: of the picture, in pixels.
        pool: what the classifier reads; None where there is none.
    """

    architecture: str
    num_heads: int
    norm_eps: float
    image_size: int
    pool: Literal["mean", "first"] | None


def read_stock(folder: Path, config: Mapping[str, Any]) -> Stock:
    """The model of a folder.

    Args:
        folder: with timm's config.json.
        config: what that says.

    Raises:
        UsageError: timm does not know it, or it computes something that d2v cannot.
    """
    name = str(config["architecture"])
    if not name.startswith(("vit_", "beit", "deit")):
        raise UsageError(
            f"{folder} is timm's {name}", expected="a BEiT or ViT: beit_*, beitv2_*, vit_*, deit_*"
        )
    try:
        with torch.device("meta"):
            model = timm.create_model(f"local-dir:{folder}", pretrained=False)
    except Exception as error:  # whatever its arguments make of timm's constructors
        raise UsageError(
            f"timm cannot build the {name} of {folder}: {error}",
            expected="a config.json as timm writes it",
        ) from error
    if type(model) not in (vision_transformer.VisionTransformer, beit.Beit):
        raise UsageError(
            f"{folder} is a {type(model).__name__} of timm", expected="a VisionTransformer or Beit"
        )
    return _looked_at(model, name, folder)


def _looked_at(model: Any, name: str, folder: Path) -> Stock:
    """Refuse what tensors cannot show, and take what d2v needs to be told."""
    block: Any = model.blocks[0]
    activation: Any = getattr(block.mlp, "act", None)
    norms = {module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)}
    size = model.patch_embed.img_size
    wrong = None
    if type(block) not in (vision_transformer.Block, beit.Block):
        wrong = f"its blocks are {type(block).__name__}"
    elif not isinstance(activation, nn.GELU) or activation.approximate != "none":
        wrong = f"its activation is {activation}, not the exact GELU"
    elif len(norms) != 1 or not isinstance(block.norm1, nn.LayerNorm):
        wrong = f"its norms are {type(block.norm1).__name__} with epsilons {sorted(norms)}"
    elif model.num_classes and model.global_pool not in ("avg", "token"):
        wrong = f"its classifier pools by {model.global_pool or 'nothing'}"
    elif model.global_pool == "avg" and getattr(model, "pool_include_prefix", False):
        wrong = "its classifier averages over CLS, too"
    elif getattr(model, "no_embed_class", False) and getattr(model, "has_class_token", True):
        wrong = "its CLS token has no position (no_embed_class)"
    elif size is None or size[0] != size[1]:
        wrong = f"its pictures are of {size} pixels, not square"
    if wrong is not None:
        raise UsageError(
            f"d2v cannot express the {name} of {folder}: {wrong}", expected="a plain BEiT or ViT"
        )
    pools: dict[str, Literal["mean", "first"]] = {"avg": "mean", "token": "first"}
    return Stock(
        architecture=name,
        num_heads=block.attn.num_heads,
        norm_eps=next(iter(norms)),
        image_size=size[0],
        pool=pools[model.global_pool] if model.num_classes else None,
    )
