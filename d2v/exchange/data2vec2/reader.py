"""Checkpoints of fairseq's data2vec 2.0: pre-trained, or fine-tuned for pictures or with CTC.

Source: reference sections 4 and 5.6.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from d2v.errors import UsageError
from d2v.exchange.data2vec2.look import Second, look
from d2v.exchange.data2vec2.names import decoder_links
from d2v.exchange.data2vec2.settings import (
    Blocks,
    blocks_of,
    check_settings,
    encoder_links,
    encoder_of,
    objective_section,
    projections,
)
from d2v.exchange.data2vec2.teacher import averages, teacher_of
from d2v.exchange.data2vec2.towers import Tower, tower_of
from d2v.exchange.fairseq.heads import Tops, recogniser_head
from d2v.exchange.fairseq.text import NO_TOKENIZER, read_tokenizer
from d2v.exchange.foreign import Foreign
from d2v.exchange.links import Layout
from d2v.exchange.pictures.vit_heads import classifier

_FINE_TUNED = "of pre-training; the file is fine-tuned"
_POOLS: dict[Any, Literal["mean", "first"]] = {
    "MEAN_POOLING": "mean", 1: "mean", "CLS_TOKEN": "first", 2: "first",
}  # fmt: skip
"""How fairseq's classifier pools, by name and as the number that is stored -> what d2v calls it."""
_GO_ON = (
    "To go on pre-training it with its decoder, copy `objective` and `modality.mask` of "
    "pretrain/config.yaml into the recipe."
)


def read_second(
    place: str,
    content: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    num_heads: int | None,
    tokenizer: Path | None,
) -> Foreign:
    """A model of any modality.

    Args:
        place: names the file, for errors.
        content: of the file.
        tensors: of its model, flat; `is_second` holds.
        num_heads: where the user says.
        tokenizer: of a model of text.

    Raises:
        UsageError: d2v cannot express it, or an option does not fit.
    """
    found = look(place, content, tensors, num_heads)
    check_settings(found)
    tower = tower_of(found)
    blocks = blocks_of(found)
    encoder, notes = encoder_of(found, blocks, tower.usual)
    teacher, of_teacher = teacher_of(found, tower, blocks)
    objective, more = objective_section(
        found, blocks, tower.usual, averages=averages(found, teacher)
    )
    tops = _tops(found, tower, content)
    notes += [*tower.notes, *of_teacher, *tops.notes, *more]
    return Foreign(
        kind=f"fairseq data2vec 2.0 {found.kind.lower()}, "
        + ("fine-tuned" if found.prefix else "pre-trained"),
        modality=tower.modality,
        encoder=encoder.model_dump(mode="json"),
        objective=objective,
        layout=_layout(found, tower, blocks, tops),
        tensors=tensors,
        teacher=teacher,
        task=None if tops.task is None else tops.task.task,
        about=None if tops.task is None else tops.task.about,
        tokenizer=_tokenizer(tokenizer, found, tower),
        notes=(*notes, *_advice(found, tower, tokenizer)),
    )


def _layout(found: Second, tower: Tower, blocks: Blocks, tops: Tops) -> Layout:
    """Of the student."""
    return Layout(
        links=(
            *tower.links("frontend", found.tower),
            *encoder_links("encoder", found.tower, f"{found.prefix}blocks.", blocks),
            *tops.regression,
            *([] if tops.task is None else tops.task.links),
        ),
        left_out={**tower.left_out(found.tower), **tops.left_out},
        anew=tower.anew("frontend"),
    )


def _advice(found: Second, tower: Tower, tokenizer: Path | None) -> list[str]:
    """What a user should do next."""
    lacks = tower.ids is not None and tokenizer is None
    return [NO_TOKENIZER] * lacks + [_GO_ON] * (not found.prefix)


def _tokenizer(path: Path | None, found: Second, tower: Tower) -> bytes | None:
    """Content of the user's. Raises UsageError where it does not fit."""
    if path is None:
        return None
    if tower.ids is None:
        raise UsageError(
            f"--tokenizer {path} means nothing to {found.place}: it is no model of text",
            remedy="Leave it out.",
        )
    return read_tokenizer(path, tower.ids)


def _tops(found: Second, tower: Tower, content: Mapping[str, Any]) -> Tops:
    """The decoder of pre-training, or the head of a task."""
    if not found.prefix:
        layers = len(found.several(f"{found.tower}decoder.blocks.{{}}.0.weight"))
        count = len(projections(found))
        links = decoder_links(found.tower, layers, count, is_grid=tower.is_grid) if layers else []
        return Tops(None, links, {}, [])
    left_out = {
        rf"{re.escape(found.prefix)}_ema\..*": _FINE_TUNED,
        rf"{re.escape(found.tower)}decoder\..*": _FINE_TUNED,
    }
    if found.kind == "AUDIO":
        head = recogniser_head(content, found.tensors, found.told)
        if not isinstance(head, str):
            return Tops(head, [], left_out, [])
        left_out[r"w2v_encoder\.proj\..*"] = head
        return Tops(None, [], left_out, [f"Its projection to symbols is left out: {head}."])
    mode = found.told.get("prediction_mode", "MEAN_POOLING")
    if mode in _POOLS:
        return Tops(classifier(found.tensors, left_out, pool=_POOLS[mode]), [], left_out, [])
    why = f"it pools by {mode}, which d2v does not"
    left_out[r"(fc_norm|head)\..*"] = why
    return Tops(None, [], left_out, [f"Its classifier is left out: {why}."])
