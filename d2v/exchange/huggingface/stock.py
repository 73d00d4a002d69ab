"""Which stock class of Hugging Face holds a model of ours, and what its tensors are called there.

One table serves writing and reading back. What a class cannot express is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from d2v.core.encoder import EncoderSettings
from d2v.errors import UsageError
from d2v.exchange.huggingface.hidden_cls import (
    AfterCls,
    TableWithCls,
    blank_table,
    with_cls_position,
)
from d2v.exchange.huggingface.names import prefixed, speech_links, text_links, vision_links
from d2v.exchange.links import Layout, Link, Same
from d2v.modalities import ModalitySettings
from d2v.modalities.speech.modality import SpeechSettings
from d2v.modalities.text.modality import TextSettings
from d2v.modalities.vision.frontend import FrontendSettings, sincos_table
from d2v.modalities.vision.modality import VisionSettings
from d2v.tasks import ClassifySettings, CtcSettings, RegressSettings, TaskSettings

_COMPUTED = "d2v computes it from its settings"
_TABLE = "relative_position_bias_table"
_POOLER = {r"(data2vec_text\.)?pooler\.dense\..*": "data2vec trains no such pooler"}


@dataclass(frozen=True, kw_only=True)
class Stock:
    """A stock class.

    Args:
        name: of the class in transformers.
        layout: of `frontend.*`, `encoder.*`, and `head.*` where it has a task's.
    """

    name: str
    layout: Layout


def stock_model(
    modality: ModalitySettings,
    encoder: EncoderSettings,
    task: TaskSettings | None,
    *,
    mask_token: bool,
) -> Stock:
    """The class for a model.

    Args:
        modality: settings.
        encoder: settings; without final norm where the task's head has a norm in its place.
        task: of the head; None for the bare encoder.
        mask_token: whether the vector for masked places goes along.

    Raises:
        UsageError: no stock class can express the model; says why.
    """
    if isinstance(modality, VisionSettings):
        return _vision(modality, encoder, task, mask_token)
    if isinstance(modality, SpeechSettings):
        return _speech(modality, encoder, task, mask_token)
    return _text(modality, encoder, task)


def _vision(
    modality: VisionSettings, encoder: EncoderSettings, task: TaskSettings | None, mask_token: bool
) -> Stock:
    where = "Data2VecVisionModel" if task is None else "Data2VecVisionForImageClassification"
    _refuse_unless(encoder.norm_position == "pre", where, "encoder.norm_position is post")
    _refuse_unless(not encoder.input_norm, where, "encoder.input_norm is true")
    links, constants = _pictures(modality, encoder, mask_token)
    if task is not None:
        links = prefixed(links, "data2vec_vision") + _picture_head(modality, encoder, task, where)
        constants = {f"data2vec_vision.{name}": kept for name, kept in constants.items()}
    return Stock(name=where, layout=_layout(links, constants))


def _pictures(
    modality: VisionSettings, encoder: EncoderSettings, mask_token: bool
) -> tuple[list[Link], dict[str, Tensor]]:
    """Links of the bare model, and what is the same in every model of these settings."""
    frontend = modality.frontend
    links = vision_links(frontend, encoder, mask_token=mask_token)
    constants: dict[str, Tensor] = {}
    if frontend.positions == "sincos_2d":
        constants["embeddings.position_embeddings"] = _sincos(frontend, encoder.dim)
    if frontend.cls_token:
        return links, constants
    constants["embeddings.cls_token"] = torch.zeros(1, 1, encoder.dim)
    if not frontend.positions.startswith("relative"):
        blank = blank_table(frontend.grid_side, encoder.num_heads)
        constants[f"encoder.relative_position_bias.{_TABLE}"] = blank
    changed: list[Link] = []
    for link in links:
        if link.ours == "frontend.positions":
            changed.append(AfterCls(link.ours, link.theirs))
        elif link.ours.endswith(_TABLE):
            changed.append(TableWithCls(link.ours, link.theirs))
        elif link.ours != "frontend.cls_token":
            changed.append(link)
    return changed, constants


def _sincos(frontend: FrontendSettings, dim: int) -> Tensor:
    """Fixed positions as learned ones: (1, T + 1, D), zero for CLS, be it seen or hidden."""
    return with_cls_position(sincos_table(frontend.grid_side, dim))


def _picture_head(
    modality: VisionSettings, encoder: EncoderSettings, task: TaskSettings, where: str
) -> list[Link]:
    _refuse_unless(not isinstance(task, CtcSettings), where, "the task is ctc")
    assert isinstance(task, ClassifySettings | RegressSettings)
    head = task.head
    _refuse_unless(not head.hidden, where, "task.head.hidden is true")
    links: list[Link] = [
        Same(f"head.last.{kind}", (f"classifier.{kind}",)) for kind in ("weight", "bias")
    ]
    if (head.pool, head.norm) == ("mean", True):
        norm = "data2vec_vision.pooler.layernorm"
        return links + [
            Same(f"head.norm.{kind}", (f"{norm}.{kind}",)) for kind in ("weight", "bias")
        ]
    reads_cls = (head.pool, head.norm) == ("first", False) and modality.frontend.cls_token
    _refuse_unless(
        reads_cls and encoder.final_norm, where,
        f"task.head pools {head.pool} with norm {str(head.norm).lower()}; there it is the mean of "
        "the patches and a norm, or the CLS token behind the encoder's norm",
    )  # fmt: skip
    return links


def _speech(
    modality: SpeechSettings, encoder: EncoderSettings, task: TaskSettings | None, mask_token: bool
) -> Stock:
    where = "Data2VecAudioModel" if task is None else "Data2VecAudioForCTC"
    frontend = modality.frontend
    if frontend.kind != "convolution":
        raise _refusal(where, f"modality.frontend.kind is {frontend.kind}")
    _refuse_pre_norm(encoder, where)
    _refuse_unless(encoder.input_norm, where, "encoder.input_norm is false")
    alibi = "modality.frontend.positions.alibi is true"
    _refuse_unless(not frontend.positions.alibi, where, alibi)
    links = speech_links(frontend, encoder, mask_token=mask_token)
    if task is not None:
        _refuse_unless(isinstance(task, CtcSettings), where, f"the task is {task.name}")
        links = prefixed(links, "data2vec_audio")
        links += [
            Same(f"head.projection.{kind}", (f"lm_head.{kind}",)) for kind in ("weight", "bias")
        ]
    return Stock(name=where, layout=_layout(links, {}))


def _text(modality: TextSettings, encoder: EncoderSettings, task: TaskSettings | None) -> Stock:
    where = "Data2VecTextModel" if task is None else "Data2VecTextForSequenceClassification"
    _refuse_pre_norm(encoder, where)
    _refuse_unless(not encoder.input_norm, where, "encoder.input_norm is true")
    links = text_links(modality.frontend, encoder)
    constants: dict[str, Tensor] = {}
    if not modality.frontend.token_types:
        constants["embeddings.token_type_embeddings.weight"] = torch.zeros(1, encoder.dim)
    if task is not None:
        _refuse_unless(not isinstance(task, CtcSettings), where, "the task is ctc")
        assert isinstance(task, ClassifySettings | RegressSettings)
        head = task.head
        fits = head.pool == "first" and head.hidden and not head.norm
        _refuse_unless(
            fits, where,
            f"task.head pools {head.pool}, hidden {head.hidden}, norm {head.norm}; there it reads "
            "the first token through a hidden layer, without a norm",
        )  # fmt: skip
        links = prefixed(links, "data2vec_text")
        constants = {f"data2vec_text.{name}": kept for name, kept in constants.items()}
        for ours, theirs in (("hidden", "dense"), ("last", "out_proj")):
            links += [
                Same(f"head.{ours}.{kind}", (f"classifier.{theirs}.{kind}",))
                for kind in ("weight", "bias")
            ]
    return Stock(name=where, layout=_layout(links, constants))


def _layout(links: list[Link], constants: dict[str, Tensor]) -> Layout:
    left_out = {name.replace(".", r"\."): _COMPUTED for name in constants} | _POOLER
    return Layout(links=tuple(links), constants=constants, left_out=left_out)


def _refuse_pre_norm(encoder: EncoderSettings, where: str) -> None:
    _refuse_unless(encoder.norm_position == "post", where, "encoder.norm_position is pre")
    _refuse_unless(encoder.layer_scale is None, where, "encoder.layer_scale is set")


def _refuse_unless(fits: bool, where: str, reason: str) -> None:
    if not fits:
        raise _refusal(where, reason)


def _refusal(where: str, reason: str) -> UsageError:
    takes_any = "--to onnx and --to torch take any model"
    of_head = "For" in where and "task" in reason
    return UsageError(
        f"{where} of transformers cannot express this model: {reason}",
        remedy=takes_any + ("; --encoder leaves the head out." if of_head else "."),
    )
