"""Folders of Data2VecTextModel and Data2VecTextForSequenceClassification."""

from __future__ import annotations

from typing import Any

from d2v.core.encoder import EncoderSettings
from d2v.exchange.foreign import Foreign
from d2v.exchange.huggingface.config import CONFIG, TextConfig, checked, mlp_ratio
from d2v.exchange.huggingface.names import text_links
from d2v.exchange.huggingface.source import FolderSource, pooled_task
from d2v.exchange.huggingface.tokenizer import fitted_tokenizer, free_ids
from d2v.exchange.links import Layout, Same
from d2v.modalities.text.frontend import FrontendSettings

_LEFT_OUT = {
    r"embeddings\.(position|token_type)_ids": "counted, not learned",
    r"pooler\..*": "data2vec has no pooler: it is as it was drawn (reference section 5.4)",
}


def read_text(source: FolderSource) -> Foreign:
    """A text model as d2v has it. Raises UsageError where it has no counterpart."""
    config = checked(TextConfig, source.values, source.folder / CONFIG)
    frontend = _frontend(config)
    encoder = _encoder(config)
    found = fitted_tokenizer(config, source.folder, source.tokenizer)
    notes = []
    if found is None:
        notes.append(
            "There is no tokenizer: the ids of <unk> and <mask> are assumed. Name one with "
            "--tokenizer FILE, or set modality.tokenizer.path in recipes for this model."
        )
        ids = free_ids(config)
    else:
        ids = found.ids
        notes += found.notes
    links = source.under_prefix(
        text_links(
            FrontendSettings.model_validate(frontend), EncoderSettings.model_validate(encoder)
        )
    )
    task = about = None
    if source.has_head:
        dropout = config.classifier_dropout
        head = {
            "pool": "first",
            "hidden": True,
            "dropout": config.hidden_dropout_prob if dropout is None else dropout,
        }
        task, about = pooled_task(config, head)
        links += [
            Same(f"head.{ours}.{kind}", (f"classifier.{theirs}.{kind}",))
            for ours, theirs in (("hidden", "dense"), ("last", "out_proj"))
            for kind in ("weight", "bias")
        ]
    return Foreign(
        kind=source.kind,
        modality={"name": "text", "frontend": frontend, "tokenizer": ids},
        encoder=encoder,
        objective={},
        layout=Layout(links=tuple(links), left_out=source.left_out(_LEFT_OUT)),
        tensors=source.tensors,
        task=task,
        about=about,
        tokenizer=None if found is None else found.content,
        notes=tuple(notes),
    )


def _frontend(config: TextConfig) -> dict[str, Any]:
    """Positions are counted on from the padding's row, as fairseq does."""
    first = config.pad_token_id + 1
    return {
        "max_tokens": config.max_position_embeddings - first,
        "first_position": first,
        "token_types": config.type_vocab_size,
    }


def _encoder(config: TextConfig) -> dict[str, Any]:
    return {
        "dim": config.hidden_size,
        "depth": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "mlp_ratio": mlp_ratio(config.hidden_size, config.intermediate_size),
        "norm_position": "post",
        "norm_eps": config.layer_norm_eps,
        "layer_scale": None,
        "dropout": config.hidden_dropout_prob,
        "attention_dropout": config.attention_probs_dropout_prob,
        "drop_path": 0.0,
        "init": "normal",
        "init_std": config.initializer_range,
    }
