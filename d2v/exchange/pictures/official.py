"""Checkpoints of the code that made the published picture models (reference sections 2.1 to 5.2).

Pre-trained: one table of relative positions for all blocks, `lm_head`, and the average as
`model_ema`. Fine-tuned: a table a block, `fc_norm` and `head` (reference P10).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from d2v.exchange.foreign import Foreign
from d2v.exchange.links import Layout, Link, both
from d2v.exchange.pickled import as_plain
from d2v.exchange.pictures.vit_heads import classifier
from d2v.exchange.pictures.vit_names import BEIT, anew, vit_links
from d2v.exchange.pictures.vit_settings import (
    HALF,
    IMAGENET,
    INDEX,
    INDEX_REASON,
    Found,
    Untold,
    look,
)

TEACHER = "model_ema."
_EPS = 1e-6
_STATISTICS = "imagenet_default_mean_and_std"
_LAST_BLOCKS = "target_layers"
_TOP_K = 6


def is_official(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bool:
    """Whether timm cannot have written these tensors of a BEiT."""
    if f"blocks.0.{BEIT.scales[0]}" not in tensors and "blocks.0.attn.q_bias" not in tensors:
        return False
    signs = (BEIT.mask_token, "lm_head.weight")
    return (
        any(name in tensors for name in signs)
        or any(name.startswith(TEACHER) or name.endswith("_position_index") for name in tensors)
        or _STATISTICS in _arguments(content)
    )


def read_official(
    path: Path, content: Mapping[str, Any], tensors: Mapping[str, Tensor], *, num_heads: int | None
) -> Foreign:
    """A picture model of the official code, pre-trained or fine-tuned.

    Args:
        path: of the file, for errors.
        content: of the file.
        tensors: of its model, flat; those of the average behind `model_ema.`.
        num_heads: where the user says.

    Raises:
        UsageError: d2v cannot express it.
    """
    said = _arguments(content)
    fine_tuned = "head.weight" in tensors
    usual = IMAGENET if said.get(_STATISTICS, not fine_tuned) else HALF  # reference P11
    untold = Untold(norm_eps=_EPS, pixels=usual, num_heads=num_heads)
    found = look(str(path), tensors, BEIT, untold)
    links = vit_links(BEIT, found.frontend, found.encoder, found.kept)
    left_out = {INDEX: INDEX_REASON}
    task, regression = classifier(tensors, left_out), _regression(tensors, found, left_out)
    return Foreign(
        kind=_kind(tensors, fine_tuned=fine_tuned, regresses=bool(regression)),
        modality={"name": "vision", "frontend": found.frontend.model_dump(mode="json")},
        encoder=found.encoder.model_dump(mode="json"),
        objective=_objective(said, found.encoder.depth),
        layout=Layout(
            links=(*links, *(regression if task is None else task.links)),
            left_out=left_out,
            anew=anew(found.encoder, found.kept),
        ),
        tensors=tensors,
        teacher=_teacher(tensors, found, with_head=task is not None),
        task=None if task is None else task.task,
        about=None if task is None else task.about,
        notes=(
            f"Pixels are taken to have mean {list(found.frontend.pixel_mean)} and deviation "
            f"{list(found.frontend.pixel_std)}, as "
            + ("its settings say." if _STATISTICS in said else "in the published models."),
        ),
    )


def _kind(tensors: Mapping[str, Tensor], *, fine_tuned: bool, regresses: bool) -> str:
    """Both were made with the same code; only what was predicted tells them apart."""
    if fine_tuned:
        return "official data2vec vision or BEiT, fine-tuned"
    is_beit = "lm_head.weight" in tensors and not regresses
    return f"official {'BEiT' if is_beit else 'data2vec vision'}, pre-trained"


def _arguments(content: Mapping[str, Any]) -> dict[str, Any]:
    said = as_plain(content.get("args"))
    return said if isinstance(said, dict) else {}


def _regression(
    tensors: Mapping[str, Tensor], found: Found, left_out: dict[str, str]
) -> list[Link]:
    """The head of pre-training where it regresses. Adds to `left_out` where it does not."""
    head = tensors.get("lm_head.weight")
    if head is None:
        return []
    dim = found.encoder.dim
    if tuple(head.shape) == (dim, dim) and "head.weight" not in tensors:
        return list(both("head.0", "lm_head"))
    left_out[r"lm_head\..*"] = "of another pre-training: it does not predict averaged features"
    return []


def _teacher(tensors: Mapping[str, Tensor], found: Found, *, with_head: bool) -> Layout | None:
    """The average; its index buffers went wrong in averaging (reference P20)."""
    if not any(name.startswith(TEACHER) for name in tensors):
        return None
    links = vit_links(
        BEIT, found.frontend, found.encoder, found.kept, ours="teacher.", prefix=TEACHER
    )
    left_out = {
        rf"{TEACHER}{INDEX}": INDEX_REASON,
        rf"{TEACHER}lm_head\..*": "the teacher has no head",
    }
    if with_head:
        left_out[rf"{TEACHER}(fc_norm|head)\..*"] = "the average of the head; the student's is kept"
    return Layout(
        links=tuple(links), left_out=left_out, anew=anew(found.encoder, found.kept, ours="teacher.")
    )


def _objective(said: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """As published, with what the command line changed."""
    blocks = _as_list(said.get(_LAST_BLOCKS))
    is_top = blocks == list(range(depth - len(blocks), depth)) and bool(blocks)
    beta = 0.0 if said.get("l2_loss") else said.get("l1_beta")
    decay = said.get("ema_decay")
    return {
        "top_k": len(blocks) if is_top else min(_TOP_K, depth),
        "target_feature": "ffn" if said.get("layer_results") == "fc" else "end_of_block",
        "target_norm": "none" if said.get("no_target_layer_norm_last") else "layer",
        "mean_norm": "layer" if said.get("post_target_layer_norm", True) else "none",
        "beta": float(beta) if isinstance(beta, int | float) and beta >= 0 else 2.0,
        "tau": {
            "schedule": "constant",
            "tau_e": float(decay) if isinstance(decay, float) and 0 < decay <= 1 else 0.9998,
        },
    }


def _as_list(value: Any) -> list[Any]:
    """`[6, 7, 8]`, written as text on the command line."""
    if isinstance(value, list):
        return value
    if not isinstance(value, str):
        return []
    parts = [part.strip() for part in value.strip("[] ").split(",")]
    return [int(part) for part in parts if part.isdecimal()]
