"""Which stock model of timm holds a picture model of ours, and what its tensors are called there.

timm's VisionTransformer has our own names; its Beit has the relative tables and keeps no key bias.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from d2v.core.encoder import EncoderSettings
from d2v.errors import UsageError
from d2v.exchange.huggingface.hidden_cls import TableWithCls, with_cls_position
from d2v.exchange.links import KeylessBias, Layout, Link, Same
from d2v.modalities import ModalitySettings
from d2v.modalities.vision.frontend import FrontendSettings, sincos_table
from d2v.modalities.vision.modality import VisionSettings
from d2v.tasks import ClassifySettings, RegressSettings, TaskSettings
from d2v.tasks.heads import HeadSettings

_BOTH = ("weight", "bias")
_TABLE = "relative_position_bias_table"


@dataclass(frozen=True, kw_only=True)
class TimmStock:
    """A stock model.

    Args:
        architecture: registered name of a model whose arguments all can be changed.
        arguments: for `create_model`, JSON.
        layout: of `frontend.*`, `encoder.*`, and `head.*` where it has a task's.
    """

    architecture: str
    arguments: dict[str, Any]
    layout: Layout


def timm_model(
    modality: ModalitySettings, encoder: EncoderSettings, task: TaskSettings | None, outputs: int
) -> TimmStock:
    """The model.

    Args:
        modality: settings.
        encoder: settings.
        task: of the head; None for the bare encoder.
        outputs: of the head; 0 without one.

    Raises:
        UsageError: no stock model can express it; says why.
    """
    if not isinstance(modality, VisionSettings):
        raise _refusal(f"it reads {modality.name}, and timm reads pictures")
    head = None
    if task is not None:
        if not isinstance(task, ClassifySettings | RegressSettings):
            raise _refusal(f"the task is {task.name}")
        head = task.head
    _check(modality, encoder, head)
    arguments = {
        "img_size": modality.frontend.image_size,
        "patch_size": modality.frontend.patch_size,
        "in_chans": modality.frontend.channels,
        "num_classes": outputs,
        "embed_dim": encoder.dim,
        "depth": encoder.depth,
        "num_heads": encoder.num_heads,
        "mlp_ratio": encoder.mlp_ratio,
        "init_values": encoder.layer_scale,
        "global_pool": "token" if head is not None and head.pool == "first" else "avg",
    }
    if modality.frontend.positions.startswith("relative"):
        return _beit(modality.frontend, encoder, head, arguments)
    return _vision_transformer(modality.frontend, encoder, head, arguments)


def _check(modality: VisionSettings, encoder: EncoderSettings, head: HeadSettings | None) -> None:
    if encoder.norm_position == "post":
        raise _refusal("encoder.norm_position is post")
    if encoder.input_norm:
        raise _refusal("encoder.input_norm is true")
    if head is None:
        if not encoder.final_norm and modality.frontend.positions.startswith("relative"):
            raise _refusal("encoder.final_norm is false, and timm's Beit always ends in a norm")
        return
    if head.hidden:
        raise _refusal("task.head.hidden is true")
    if head.pool == "first" and not modality.frontend.cls_token:
        raise _refusal("task.head.pool is first, and there is no CLS token")
    if not head.norm and not encoder.final_norm:
        raise _refusal("neither encoder nor head has a norm")


def _vision_transformer(
    frontend: FrontendSettings,
    encoder: EncoderSettings,
    head: HeadSettings | None,
    arguments: dict[str, Any],
) -> TimmStock:
    normed_after = head is not None and head.norm
    links = [*_patches(frontend), *_blocks(encoder, scale="ls{}.gamma")]
    links += [Same(f"encoder.blocks.{n}.attn.qkv.bias", (f"blocks.{n}.attn.qkv.bias",))
              for n in range(encoder.depth)]  # fmt: skip
    constants: dict[str, Tensor] = {}
    if frontend.positions == "learned":
        links.append(Same("frontend.positions", ("pos_embed",), leading=1))
    elif frontend.positions == "sincos_2d":
        table = sincos_table(frontend.grid_side, encoder.dim)
        shown = with_cls_position(table) if frontend.cls_token else table.unsqueeze(0)
        constants["pos_embed"] = shown
    return TimmStock(
        architecture="vit_base_patch16_224",
        arguments={
            **arguments,
            "class_token": frontend.cls_token,
            "pos_embed": "none" if frontend.positions == "none" else "learn",
            "final_norm": normed_after or encoder.final_norm,
            "fc_norm": normed_after,
        },
        layout=Layout(links=(*links, *_ending(encoder, head)), constants=constants),
    )


def _beit(
    frontend: FrontendSettings,
    encoder: EncoderSettings,
    head: HeadSettings | None,
    arguments: dict[str, Any],
) -> TimmStock:
    """It always has CLS; where ours has none, the relative tables hide it (see hidden_cls)."""
    links = [*_patches(frontend), *_blocks(encoder, scale="gamma_{}")]
    for number in range(encoder.depth):
        attention = f"blocks.{number}.attn"
        bias = (f"{attention}.q_bias", f"{attention}.v_bias")
        links.append(KeylessBias(f"encoder.{attention}.qkv.bias", bias))
    tables = {"relative": {"rel_pos_bias": "relative"}}.get(
        frontend.positions,
        {f"blocks.{number}.attn": f"relative.{number}" for number in range(encoder.depth)},
    )
    for theirs, ours in tables.items():
        names = f"frontend.{ours}.{_TABLE}", (f"{theirs}.{_TABLE}",)
        links.append(Same(*names) if frontend.cls_token else TableWithCls(*names))
    hidden = {} if frontend.cls_token else {"cls_token": torch.zeros(1, 1, encoder.dim)}
    normed_after = head is not None and head.norm
    pooled_by_default = arguments["global_pool"] == "avg"
    return TimmStock(
        architecture="beit_base_patch16_224",
        arguments={
            **arguments,
            "use_abs_pos_emb": False,
            "use_rel_pos_bias": frontend.positions == "relative_per_block",
            "use_shared_rel_pos_bias": frontend.positions == "relative",
            # Older versions know only their own default.
            **({} if normed_after == pooled_by_default else {"use_fc_norm": normed_after}),
        },
        layout=Layout(links=(*links, *_ending(encoder, head)), constants=hidden),
    )


def _patches(frontend: FrontendSettings) -> Iterator[Link]:
    for kind in _BOTH:
        yield Same(f"frontend.patch_embed.proj.{kind}", (f"patch_embed.proj.{kind}",))
    if frontend.cls_token:
        yield Same("frontend.cls_token", ("cls_token",), leading=2)


def _blocks(encoder: EncoderSettings, scale: str) -> Iterator[Link]:
    """All of the blocks but the bias of query, key and value; `scale` names the layer scales."""
    parts = ("norm1", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    for number in range(encoder.depth):
        block = f"blocks.{number}"
        names = [f"{part}.{kind}" for part in parts for kind in _BOTH] + ["attn.qkv.weight"]
        yield from (Same(f"encoder.{block}.{name}", (f"{block}.{name}",)) for name in names)
        if encoder.layer_scale is not None:
            for place in (1, 2):
                ours = f"encoder.{block}.ls{place}.gamma"
                yield Same(ours, (f"{block}.{scale.format(place)}",))


def _ending(encoder: EncoderSettings, head: HeadSettings | None) -> Iterator[Link]:
    """The norm, before or after pooling, and the last layer."""
    if head is not None and head.norm:
        yield from (Same(f"head.norm.{kind}", (f"fc_norm.{kind}",)) for kind in _BOTH)
    elif encoder.final_norm:
        yield from (Same(f"encoder.norm.{kind}", (f"norm.{kind}",)) for kind in _BOTH)
    if head is not None:
        yield from (Same(f"head.last.{kind}", (f"head.{kind}",)) for kind in _BOTH)


def _refusal(reason: str) -> UsageError:
    return UsageError(
        f"No model of timm can express this one: {reason}",
        remedy="--to onnx and --to torch take any model"
        + ("; --encoder leaves the head out." if "head" in reason or "task" in reason else "."),
    )
