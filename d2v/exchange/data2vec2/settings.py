"""Encoder and objective of a data2vec 2.0 file: out of shapes, its settings, else as published.

Source: reference sections 4.2, 4.6 to 4.9. Letters: D width, W width of the decoder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from d2v.core.encoder import EncoderSettings
from d2v.errors import UsageError
from d2v.exchange.data2vec2.look import Second
from d2v.exchange.data2vec2.names import block_links
from d2v.exchange.data2vec2.published import HEADS, Published
from d2v.exchange.fairseq.settings import check_told, number, objective_of
from d2v.exchange.huggingface.config import mlp_ratio
from d2v.exchange.links import Link, both

_PICTURES_EPS, _EPS = 1e-6, 1e-5
_WANTED = {"layer_norm_first": False, "norm_affine": True}
_WANTED_OWN = {
    "extractor_mode": "layer_norm",
    "conv_pos_pre_ln": False,
    "no_scale_embedding": True,
    "no_token_positional_embeddings": False,
    "learned_pos": True,
    "keep_masked_pct": 0,
    "mask_dropout": 0,
}
_WANTED_DECODER = {
    "add_positions_masked": False,
    "add_positions_all": False,
    "projection_ratio": 2,
}


class Blocks(NamedTuple):
    """How many there are, and what stands around them.

    Args:
        prenet: that never give targets; first.
        shared: the others.
        input_norm: whether the tokens are normalised in front.
    """

    prenet: int
    shared: int
    input_norm: bool


def check_settings(found: Second) -> None:
    """Refuse what d2v has no counterpart of. Raises UsageError."""
    check_told(found.told, _WANTED, found.place)
    check_told(found.own, _WANTED_OWN, found.place)
    check_told(found.decoder, _WANTED_DECODER, found.place)


def blocks_of(found: Second) -> Blocks:
    """Count them, and refuse a file that has fewer than it says. Raises UsageError."""
    prenet = len(found.several(f"{found.tower}context_encoder.blocks.{{}}.norm1.weight"))
    shared = len(found.several(f"{found.prefix}blocks.{{}}.norm1.weight"))
    for count, said, name in (
        (prenet, found.own.get("prenet_depth"), "prenet_depth"),
        (shared, found.told.get("depth"), "depth"),
    ):
        if said is not None and said != count:
            raise UsageError(
                f"{found.place} says {name} {said}, and holds {count} such blocks",
                expected="a whole data2vec 2.0 model",
            )
    if shared == 0:
        raise UsageError(f"{found.place} has no {found.prefix}blocks.0", expected="a whole model")
    norm = f"{found.tower}context_encoder.norm.weight"
    return Blocks(prenet, shared, norm in found.tensors)


def encoder_links(ours: str, tower: str, stem: str, blocks: Blocks) -> list[Link]:
    """The prenet's blocks first, then the shared ones, with the norm in front.

    Args:
        ours: "encoder" or "teacher.encoder".
        tower: what stands before `context_encoder.`, its dot included.
        stem: what stands before the number of a shared block, its dot included.
        blocks: counted.
    """
    links: list[Link] = []
    if blocks.input_norm:
        links += both(f"{ours}.input_norm", f"{tower}context_encoder.norm")
    for place in range(blocks.prenet):
        links += block_links(f"{ours}.blocks.{place}", f"{tower}context_encoder.blocks.{place}")
    for place in range(blocks.shared):
        links += block_links(f"{ours}.blocks.{blocks.prenet + place}", f"{stem}{place}")
    return links


def encoder_of(
    found: Second, blocks: Blocks, usual: Published
) -> tuple[EncoderSettings, list[str]]:
    """The `encoder` section, and notes. Raises UsageError where nobody knows the heads."""
    hidden, dim = found.weight(f"{found.prefix}blocks.0.mlp.fc1.weight").shape
    heads, guessed = _heads(found, dim)
    told, fine_tuned = found.told, bool(found.prefix)
    rate = 0.0 if fine_tuned else usual.dropout
    dropout = number(told, "encoder_dropout", rate)
    settings = EncoderSettings(
        dim=dim,
        depth=blocks.prenet + blocks.shared,
        num_heads=heads,
        mlp_ratio=mlp_ratio(dim, hidden),
        norm_position="post",
        norm_eps=number(told, "norm_eps", _PICTURES_EPS if found.kind == "IMAGE" else _EPS),
        layer_scale=None,
        input_norm=blocks.input_norm,
        dropout=dropout,
        activation_dropout=number(told, "activation_dropout", 0.0),
        attention_dropout=number(told, "attention_dropout", rate),
        drop_path=number(told, "end_drop_path_rate", 0.0),
        layerdrop=number(told, "layerdrop", 0.0 if fine_tuned else usual.layerdrop),
        init="normal",
    )
    return settings, [*([guessed] if guessed else []), *_rates(found, settings, blocks)]


def _heads(found: Second, dim: int) -> tuple[int, str | None]:
    """From the scale that each head has, the settings or the user; else as published."""
    scale = found.tensors.get(f"{found.tower}alibi_scale")
    counted = None if scale is None or scale.numel() == 1 else max(scale.shape)
    said = round(number(found.told, "num_heads", 0)) or None
    known = {"alibi_scale": counted, "num_heads": said, "--num-heads": found.num_heads}
    told = {name: count for name, count in known.items() if count is not None}
    if len(set(told.values())) > 1:
        words = " and ".join(f"{name} {count}" for name, count in told.items())
        raise UsageError(f"The attention heads of {found.place} are told twice: {words}")
    heads = next(iter(told.values()), HEADS.get(dim, dim // 64 if dim % 64 == 0 else 0))
    if heads < 1 or dim % heads:
        raise UsageError(
            f"{found.place} does not tell its attention heads"
            if heads < 1
            else f"{heads} attention heads do not divide the width {dim} of {found.place}",
            expected="a number that divides the width",
            remedy="Pass --num-heads.",
        )
    guessed = f"Nothing tells the attention heads: {heads} were assumed, as in published models."
    return heads, None if told else guessed


def _rates(found: Second, encoder: EncoderSettings, blocks: Blocks) -> list[str]:
    """What it was trained with that d2v has one setting of for several."""
    notes = []
    own = {"prenet_dropout": encoder.dropout, "prenet_layerdrop": encoder.layerdrop}
    there: Mapping[str, float] = {
        "post_mlp_drop": number(found.told, "post_mlp_drop", encoder.dropout),
        **{name: number(found.own, name, rate) for name, rate in own.items()},
    }
    used = {"post_mlp_drop", *(["prenet_dropout"] if blocks.input_norm else []),
            *(["prenet_layerdrop"] if blocks.prenet else [])}  # fmt: skip
    for name in sorted(used):
        here = own.get(name, encoder.dropout)
        if there[name] != here:
            notes.append(f"It was trained with {name} {there[name]:g}; d2v: {here:g}, as elsewhere")
    if found.kind != "IMAGE" and encoder.norm_eps != _EPS:
        notes.append(
            f"Its blocks have norm_eps {encoder.norm_eps:g} and the norm of its features {_EPS:g}; "
            f"d2v has {encoder.norm_eps:g} in both"
        )
    return [f"{note}." for note in notes]


def decoder_of(found: Second, usual: Published) -> dict[str, Any]:
    """The `objective.decoder` section; {} where the file has none."""
    weights = found.several(f"{found.tower}decoder.blocks.{{}}.0.weight")
    if not weights:
        return {}
    residual = found.decoder.get("decoder_residual", usual.decoder.get("residual", True))
    dropout = number(found.decoder, "input_dropout", usual.decoder["input_dropout"])
    return {
        "layers": len(weights),
        "width": weights[0].shape[0],
        "kernel": weights[0].shape[-1],
        "groups": _dim(found) // weights[0].shape[1],
        "residual": bool(residual),
        "projection_layers": max(1, len(projections(found))),
        "input_dropout": dropout,
        "noise_std": number(found.own, "mask_noise_std", 0.01),
    }


def projections(found: Second) -> list[Tensor]:
    """The weights of the decoder's linear layers: a lone one has no number."""
    stem = f"{found.tower}decoder.proj"
    lone = found.tensors.get(f"{stem}.weight")
    names = (f"{stem}.{2 * place}.weight" for place in range(len(found.tensors)))
    several = [found.tensors[name] for name in names if name in found.tensors]
    return several if lone is None else [lone]


def objective_section(
    found: Second, blocks: Blocks, usual: Published, *, averages: str
) -> tuple[dict[str, Any], list[str]]:
    """The `objective` section, and notes about what of it d2v does otherwise.

    Args:
        found: the file.
        blocks: counted.
        usual: the published model whose settings hold where the file says nothing.
        averages: `teacher_averages`.
    """
    base = {**usual.objective, "head_layers": 1}
    dim = _dim(found)
    section, notes = objective_of(found.told, base, dim=dim, depth=blocks.shared, head_layers=1)
    del section["head_layers"]
    if found.told.get("end_of_block_targets"):
        section["target_feature"] = "end_of_block"
    views = round(number(found.told, "clone_batch", section["masks_per_sample"]))
    weight = number(found.told, "cls_loss", usual.cls_loss)
    per_device = usual.views_per_device if found.batch_size is None else found.batch_size * views
    for name, value in (("recon_loss", 0.0), ("d2v_loss", 1.0)):
        if not math.isclose(number(found.told, name, value), value):
            notes.append(f"Its {name} was {number(found.told, name, value):g}; d2v: {value:g}.")
    decoder = decoder_of(found, usual)
    return {
        **section,
        "masks_per_sample": views,
        "prefix_weight": weight * per_device,
        "prenet_depth": blocks.prenet,
        "teacher_averages": averages,
        **({"decoder": decoder} if decoder else {}),
    }, notes


def _dim(found: Second) -> int:
    return found.weight(f"{found.prefix}blocks.0.norm1.weight").shape[0]
