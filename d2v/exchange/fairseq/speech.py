"""fairseq's first data2vec models of speech: pre-trained, or fine-tuned to write letters.

Source: reference sections 2.2, 3.2, 5.1 and 5.3. Letters: D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from d2v.core.encoder import EncoderSettings
from d2v.errors import UsageError
from d2v.exchange.fairseq.heads import Tops, recogniser_head, regression_links
from d2v.exchange.fairseq.names import speech_encoder_links, speech_frontend_links
from d2v.exchange.fairseq.settings import (
    Told,
    check_told,
    conv_strides,
    flag,
    heads_of,
    number,
    objective_of,
)
from d2v.exchange.fairseq.teacher import averages, teacher_of
from d2v.exchange.foreign import Foreign
from d2v.exchange.huggingface.config import mlp_ratio
from d2v.exchange.links import Layout, Link
from d2v.exchange.task_head import TaskHead
from d2v.modalities.speech.convolution import ConvolutionSettings

_FINE_TUNED = "w2v_encoder.w2v_model."
_WANTED = {
    "layer_norm_first": False,
    "extractor_mode": "layer_norm",
    "activation_fn": "gelu",
    "depthwise_conv_feature_extractor": False,
    "conv_feature_bn": False,
}
_PUBLISHED: dict[str, Any] = {
    "top_k": 8,
    "target_feature": "ffn",
    "target_norm": "instance",
    "mean_norm": "none",
    "beta": 0.0,
    "channel_reduction": "inv_sqrt_dim",
    "head_layers": 1,
    "tau": {"schedule": "linear", "tau_0": 0.999, "tau_e": 0.9999, "tau_n": "30000 steps"},
}
_NO_MASK = "the file has no mask_emb"
_TEACHER_LEFT_OUT = {r"_ema\.final_proj\..*": "the teacher has no head"}
_LEFT_OUT = {
    r"w2v_encoder\.w2v_model\.(_ema|final_proj)\..*": "of pre-training; the file is fine-tuned",
}


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A file and what its names tell.

    Args:
        place: names the file.
        tensors: all of it.
        told: settings.
        prefix: of the model's tensors.
        frontend: settings.
        encoder: settings.
    """

    place: str
    tensors: Mapping[str, Tensor]
    told: Told
    prefix: str
    frontend: ConvolutionSettings
    encoder: EncoderSettings

    @property
    def has_mask(self) -> bool:
        return f"{self.prefix}mask_emb" in self.tensors


def is_speech(names: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of such a model."""
    return any(
        f"{prefix}feature_extractor.conv_layers.0.0.weight" in names for prefix in ("", _FINE_TUNED)
    )


def read_speech(
    place: str,
    content: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    told: Told,
    *,
    num_heads: int | None,
) -> Foreign:
    """A model of speech.

    Args:
        place: names the file, for errors.
        content: of the file.
        tensors: of its model, flat.
        told: its settings.
        num_heads: where the user says.

    Raises:
        UsageError: d2v has no counterpart of it, or a setting that no tensor tells is missing.
    """
    check_told(told, _WANTED, place)
    found, notes = _look(place, tensors, told, num_heads)
    links = [
        *speech_frontend_links("frontend", found.prefix, f"{found.prefix}encoder.",
                               found.frontend, mask_token=found.has_mask),
        *speech_encoder_links("encoder", f"{found.prefix}encoder.", found.encoder.depth),
    ]  # fmt: skip
    tops = _tops(content, tensors, told, fine_tuned=bool(found.prefix))
    teacher = None if found.prefix else _teacher(found, links)
    objective, more = objective_of(
        told, _PUBLISHED, dim=found.encoder.dim, depth=found.encoder.depth,
        head_layers=len(tops.regression) // 2,
    )  # fmt: skip
    task = tops.task
    fine_tuned = "fine-tuned with CTC" if found.prefix else "pre-trained"
    return Foreign(
        kind=f"fairseq data2vec audio, {fine_tuned}",
        modality={"name": "speech", "frontend": found.frontend.model_dump(mode="json")},
        encoder=found.encoder.model_dump(mode="json"),
        objective={**objective, "teacher_averages": averages(teacher)},
        layout=Layout(
            links=(*links, *tops.regression, *([] if task is None else task.links)),
            left_out={**_LEFT_OUT, **tops.left_out},
            anew={} if found.has_mask else {"frontend.mask_token": _NO_MASK},
        ),
        tensors=tensors,
        teacher=teacher,
        task=None if task is None else task.task,
        about=None if task is None else task.about,
        notes=(*notes, *tops.notes, *more),
    )


def _tops(
    content: Mapping[str, Any], tensors: Mapping[str, Tensor], told: Told, *, fine_tuned: bool
) -> Tops:
    """The projection to symbols, or the head of pre-training."""
    if not fine_tuned:
        return Tops(None, regression_links(tensors, "final_proj"), {}, [])
    head = recogniser_head(content, tensors, told)
    if isinstance(head, TaskHead):
        return Tops(head, [], {}, [])
    note = f"Its projection to symbols is left out: {head}."
    return Tops(None, [], {r"w2v_encoder\.proj\..*": head}, [note])


def _teacher(found: _Found, students: Sequence[Link]) -> Layout | None:
    """The averaged encoder, or the averaged model; None where there is none."""
    whole = "_ema.encoder.layer_norm.weight" in found.tensors
    inner = "_ema.encoder." if whole else "_ema."
    if f"{inner}layer_norm.weight" not in found.tensors:
        return None
    frontend = speech_frontend_links(
        "teacher.frontend", "_ema." if whole else "", inner, found.frontend,
        mask_token=found.has_mask,
    )  # fmt: skip
    layout = teacher_of(
        found.tensors,
        speech_encoder_links("teacher.encoder", inner, found.encoder.depth),
        frontend,
        [link for link in students if link.ours.startswith("frontend.")],
        _TEACHER_LEFT_OUT,
        copied=None if whole else flag(found.told, "ema_layers_only"),
    )
    return layout if found.has_mask else replace(layout, anew=_anew(layout))


def _anew(layout: Layout) -> dict[str, str]:
    return {"teacher.frontend.mask_token": _NO_MASK} if averages(layout) == "all" else {}


def _look(
    place: str, tensors: Mapping[str, Tensor], told: Told, num_heads: int | None
) -> tuple[_Found, list[str]]:
    """Settings out of shapes, and what only the settings of the file tell."""
    prefix = _FINE_TUNED if any(name.startswith(_FINE_TUNED) for name in tensors) else ""
    convolutions = _several(tensors, prefix + "feature_extractor.conv_layers.{}.0.weight")
    positions = _several(tensors, prefix + "encoder.pos_conv.{}.0.weight")
    hidden = _several(tensors, prefix + "encoder.layers.{}.fc1.weight")
    if not positions or not hidden:
        raise UsageError(
            f"{place} has no {'encoder.layers' if positions else 'encoder.pos_conv.0.0.weight'}",
            expected="a data2vec model: wav2vec 2.0 and HuBERT tell positions otherwise",
        )
    width, dim = hidden[0].shape[0], hidden[0].shape[1]
    kernels = tuple(weight.shape[2] for weight in convolutions)
    strides = conv_strides(told, kernels, place)
    heads, guessed = heads_of(told, num_heads, dim, place)
    frontend = ConvolutionSettings(
        normalise=bool(told.get("normalize", True)),
        layers=tuple(
            (weight.shape[0], kernel, stride)
            for weight, kernel, stride in zip(convolutions, kernels, strides, strict=True)
        ),
        bias=f"{prefix}feature_extractor.conv_layers.0.0.bias" in tensors,
        positions={
            "num_layers": len(positions),
            "kernel": positions[0].shape[2],
            "groups": dim // positions[0].shape[1],
            "zero_padding": "first",
        },
    )
    encoder = EncoderSettings(
        dim=dim,
        depth=len(hidden),
        num_heads=heads,
        mlp_ratio=mlp_ratio(dim, width),
        norm_position="post",
        norm_eps=1e-5,
        layer_scale=None,
        input_norm=True,
        dropout=number(told, "dropout", 0.1),
        activation_dropout=number(told, "activation_dropout", 0.0),
        attention_dropout=number(told, "attention_dropout", 0.1),
        drop_path=0.0,
        layerdrop=number(told, "layerdrop", number(told, "encoder_layerdrop", 0.05)),
        init="normal",
    )
    found = _Found(
        place=place, tensors=tensors, told=told, prefix=prefix, frontend=frontend, encoder=encoder
    )
    return found, [guessed] if guessed else []


def _several(tensors: Mapping[str, Tensor], name: str) -> list[Tensor]:
    """The tensors `name` with 0, 1, ... in it, as far as they go."""
    found: list[Tensor] = []
    while (one := name.format(len(found))) in tensors:
        found.append(tensors[one])
    return found
