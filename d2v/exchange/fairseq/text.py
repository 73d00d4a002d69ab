"""fairseq's first data2vec models of text: pre-trained, or fine-tuned to classify sentences.

Source: reference sections 2.3, 3.3, 5.1 and 5.4. Letters: D width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from d2v.core.encoder import EncoderSettings
from d2v.errors import UsageError
from d2v.exchange.fairseq.heads import Tops, regression_links, sentence_head
from d2v.exchange.fairseq.names import block_links, text_frontend_links
from d2v.exchange.fairseq.settings import Told, check_told, flag, heads_of, number, objective_of
from d2v.exchange.fairseq.teacher import averages, teacher_of
from d2v.exchange.foreign import Foreign
from d2v.exchange.huggingface.config import mlp_ratio
from d2v.exchange.links import Layout, Link
from d2v.exchange.task_head import TaskHead
from d2v.modalities.text.frontend import FrontendSettings
from d2v.modalities.text.tokenizer import TokenizerSettings, parse_tokenizer

_EMBEDDING = re.compile(r"((?:encoder|decoder)\.)(sentence_encoder\.)embed_tokens\.weight")
_FIRST = 2
"""Row of a sample's first token: behind that of padding, 1."""
_VERSION = r".*\.version"
_FINE_TUNED = "of pre-training; the file is fine-tuned"
NO_TOKENIZER = (
    "The file holds no tokenizer. Import it with --tokenizer FILE, a tokenizer.json with the same "
    "ids, to use it on text."
)
_WANTED = {
    "encoder_normalize_before": False,
    "activation_fn": "gelu",
    "no_scale_embedding": True,
    "no_scale_embeddings": True,
    "encoder_learned_pos": True,
    "no_token_positional_embeddings": False,
}
_PUBLISHED: dict[str, Any] = {
    "top_k": 10,
    "target_feature": "ffn",
    "target_norm": "layer",
    "mean_norm": "none",
    "beta": 4.0,
    "channel_reduction": "sum",
    "head_layers": 2,
    "tau": {"schedule": "linear", "tau_0": 0.999, "tau_e": 0.9999, "tau_n": "300000 steps"},
}
_LEFT_OUT = {
    _VERSION: "a marker of fairseq's, not learned",
    r"(encoder|decoder)\.(lm_head|emb_head)\..*": "of masked language modelling, not trained",
}


def is_text(names: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of such a model."""
    return any(map(_EMBEDDING.fullmatch, names))


def read_text(
    place: str,
    tensors: Mapping[str, Tensor],
    told: Told,
    *,
    num_heads: int | None,
    tokenizer: Path | None,
) -> Foreign:
    """A model of text.

    Args:
        place: names the file, for errors.
        tensors: of its model, flat.
        told: its settings.
        num_heads: where the user says.
        tokenizer: a tokenizer.json whose ids are in fairseq's order; the file itself has none.

    Raises:
        UsageError: d2v has no counterpart of it, or the tokenizer does not fit.
    """
    check_told(told, _WANTED, place)
    root, inner = next(match.groups() for name in tensors if (match := _EMBEDDING.fullmatch(name)))
    stem = root + inner
    is_new = f"{stem}layernorm_embedding.weight" in tensors
    norm = "layernorm_embedding" if is_new else "emb_layer_norm"
    encoder, notes = _encoder(place, tensors, told, stem, num_heads)
    frontend = text_frontend_links("frontend", stem, norm)
    links = [*frontend, *block_links("encoder", stem, encoder.depth)]
    tops = _tops(tensors, root)
    teacher = None
    if tops.task is None:
        teacher = _teacher(tensors, told, f"{root}_ema.", norm, frontend, encoder.depth)
    objective, more = objective_of(
        told, _PUBLISHED, dim=encoder.dim, depth=encoder.depth,
        head_layers=len(tops.regression) // 2,
    )  # fmt: skip
    modality, ids = text_section(tensors, stem)
    task = tops.task
    return Foreign(
        kind="fairseq data2vec text, " + ("pre-trained" if task is None else "fine-tuned"),
        modality=modality,
        encoder=encoder.model_dump(mode="json"),
        objective={**objective, "teacher_averages": averages(teacher)},
        layout=Layout(
            links=(*links, *tops.regression, *([] if task is None else task.links)),
            left_out={**_LEFT_OUT, **tops.left_out},
        ),
        tensors=tensors,
        teacher=teacher,
        task=None if task is None else task.task,
        about=None if task is None else task.about,
        tokenizer=None if tokenizer is None else read_tokenizer(tokenizer, ids),
        notes=(*notes, *tops.notes, *more, *([NO_TOKENIZER] if tokenizer is None else [])),
    )


def _tops(tensors: Mapping[str, Tensor], root: str) -> Tops:
    """A classifier of sentences, or the head of pre-training."""
    head = sentence_head(tensors)
    if isinstance(head, TaskHead):
        reasons = {rf"{re.escape(root)}(regression_head|_ema)\..*": _FINE_TUNED}
        return Tops(head, [], reasons, [])
    older = f"{root}lm_head.0.weight" in tensors  # renamed before the first release
    regression = regression_links(tensors, f"{root}{'lm' if older else 'regression'}_head")
    if head is None:
        return Tops(None, regression, {}, [])
    note = f"Its classifiers are left out: {head}."
    return Tops(None, regression, {r"classification_heads\..*": head}, [note])


def _teacher(
    tensors: Mapping[str, Tensor],
    told: Told,
    averaged: str,
    norm: str,
    students: list[Link],
    depth: int,
) -> Layout | None:
    """What stands behind `averaged`; None where there is nothing."""
    if f"{averaged}layers.0.fc1.weight" not in tensors:
        return None
    return teacher_of(
        tensors,
        block_links("teacher.encoder", averaged, depth),
        text_frontend_links("teacher.frontend", averaged, norm),
        students,
        {rf"{re.escape(averaged)}version": _LEFT_OUT[_VERSION]},
        copied=flag(told, "ema_transformer_layers_only"),
    )


def _encoder(
    place: str, tensors: Mapping[str, Tensor], told: Told, stem: str, num_heads: int | None
) -> tuple[EncoderSettings, list[str]]:
    dim = tensors[f"{stem}embed_tokens.weight"].shape[1]
    depth = 0
    while f"{stem}layers.{depth}.fc1.weight" in tensors:
        depth += 1
    if depth == 0:
        raise UsageError(f"{place} has no {stem}layers", expected="a whole data2vec model")
    heads, guessed = heads_of(told, num_heads, dim, place)
    settings = EncoderSettings(
        dim=dim,
        depth=depth,
        num_heads=heads,
        mlp_ratio=mlp_ratio(dim, tensors[f"{stem}layers.0.fc1.weight"].shape[0]),
        norm_position="post",
        norm_eps=1e-5,
        layer_scale=None,
        dropout=number(told, "dropout", 0.1),
        activation_dropout=number(told, "activation_dropout", 0.0),
        attention_dropout=number(told, "attention_dropout", 0.1),
        drop_path=0.0,
        layerdrop=number(told, "encoder_layerdrop", 0.0),
        init="normal",
    )
    return settings, [guessed] if guessed else []


def text_section(
    tensors: Mapping[str, Tensor], stem: str
) -> tuple[dict[str, Any], TokenizerSettings]:
    """The `modality` section and its tokenizer's settings: fairseq's order of special tokens.

    Args:
        tensors: of the file.
        stem: what stands before `embed_tokens`, its dot included.
    """
    size = tensors[f"{stem}embed_tokens.weight"].shape[0]
    ids = TokenizerSettings(size=size, mask_id=size - 1)
    frontend = FrontendSettings(
        max_tokens=tensors[f"{stem}embed_positions.weight"].shape[0] - _FIRST,
        first_position=_FIRST,
    )
    section = {
        "name": "text",
        "frontend": frontend.model_dump(mode="json"),
        "tokenizer": ids.model_dump(mode="json"),
    }
    return section, ids


def read_tokenizer(path: Path, ids: TokenizerSettings) -> bytes:
    """Content of a tokenizer.json. Raises UsageError where it cannot be read or does not fit."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"--tokenizer {path} cannot be read: {error.strerror}") from error
    parse_tokenizer(content, str(path), ids)
    return content
