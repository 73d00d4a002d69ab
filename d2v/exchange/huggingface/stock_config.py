"""`config.json` of the stock classes: our settings in Hugging Face's words (reference 5.5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from d2v.core.encoder import EncoderSettings
from d2v.modalities import ModalitySettings
from d2v.modalities.speech.convolution import ConvolutionSettings
from d2v.modalities.speech.modality import SpeechSettings
from d2v.modalities.text.modality import TextSettings
from d2v.modalities.vision.modality import VisionSettings
from d2v.tasks import ClassifySettings, CtcSettings, RegressSettings, TaskSettings

_USUAL_MASK = {"mask_time_prob": 0.05, "mask_time_length": 10}
"""How much of its input a model for speech hides while it is trained elsewhere: the class's own
default. What pre-training hides is far too much for anything else."""


def stock_config(
    name: str,
    modality: ModalitySettings,
    encoder: EncoderSettings,
    task: TaskSettings | None,
    about: Mapping[str, Any] | None,
    *,
    mask_token: bool,
) -> dict[str, Any]:
    """All settings that the class's numbers depend on, and those of its training.

    Args:
        name: of the class.
        modality: as exported.
        encoder: as exported.
        task: of the head; None for the bare encoder.
        about: what `Task.about` says.
        mask_token: whether it has the vector for masked places.
    """
    common = {
        "architectures": [name],
        "dtype": "float32",
        "hidden_size": encoder.dim,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.num_heads,
        "intermediate_size": int(encoder.dim * encoder.mlp_ratio),
        "hidden_act": "gelu",
        "initializer_range": encoder.init_std,
        "layer_norm_eps": encoder.norm_eps,
    }
    if isinstance(modality, VisionSettings):
        own = _vision(modality, encoder, task, mask_token)
    elif isinstance(modality, SpeechSettings):
        own = _speech(modality, encoder, task, about, mask_token)
    else:
        own = _text(modality, encoder, task)
    return {**common, **own, **_labels(task, about)}


def _vision(
    modality: VisionSettings, encoder: EncoderSettings, task: TaskSettings | None, mask_token: bool
) -> dict[str, Any]:
    frontend = modality.frontend
    # Without CLS of its own, a shared table hides the class's (see hidden_cls).
    hides = not frontend.cls_token and not frontend.positions.startswith("relative")
    normed_after_pooling = isinstance(task, ClassifySettings | RegressSettings) and task.head.norm
    return {
        "model_type": "data2vec-vision",
        "image_size": frontend.image_size,
        "patch_size": frontend.patch_size,
        "num_channels": frontend.channels,
        "use_mask_token": mask_token,
        "use_absolute_position_embeddings": frontend.positions in ("learned", "sincos_2d"),
        "use_shared_relative_position_bias": frontend.positions == "relative" or hides,
        "use_relative_position_bias": frontend.positions == "relative_per_block",
        "use_mean_pooling": normed_after_pooling or not encoder.final_norm,
        "layer_scale_init_value": encoder.layer_scale or 0.0,
        "hidden_dropout_prob": encoder.dropout,
        "attention_probs_dropout_prob": encoder.attention_dropout,
        "drop_path_rate": encoder.drop_path,
    }


def _speech(
    modality: SpeechSettings,
    encoder: EncoderSettings,
    task: TaskSettings | None,
    about: Mapping[str, Any] | None,
    mask_token: bool,
) -> dict[str, Any]:
    frontend = modality.frontend
    assert isinstance(frontend, ConvolutionSettings)
    channels, kernels, strides = zip(*frontend.layers, strict=True)
    return {
        "model_type": "data2vec-audio",
        "conv_dim": list(channels),
        "conv_kernel": list(kernels),
        "conv_stride": list(strides),
        "conv_bias": frontend.bias,
        "feat_extract_activation": "gelu",
        "num_conv_pos_embeddings": frontend.positions.num_layers,
        "conv_pos_kernel_size": frontend.positions.kernel,
        "num_conv_pos_embedding_groups": frontend.positions.groups,
        "hidden_dropout": encoder.dropout,
        "activation_dropout": encoder.activation_dropout,
        "attention_dropout": encoder.attention_dropout,
        "feat_proj_dropout": 0.0,
        "layerdrop": encoder.layerdrop,
        **_masking(modality, task, mask_token),
        **(_ctc(task, about) if isinstance(task, CtcSettings) and about is not None else {}),
    }


def _masking(
    modality: SpeechSettings, task: TaskSettings | None, mask_token: bool
) -> dict[str, Any]:
    """The class has a vector for masked places only where it is to mask something."""
    if not mask_token:
        return {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    if not isinstance(task, CtcSettings) or not task.mask_inputs:
        return {**_USUAL_MASK, "mask_feature_prob": 0.0, "apply_spec_augment": task is None}
    mask = modality.mask
    return {
        "mask_time_prob": mask.ratio,
        "mask_time_length": mask.length,
        "mask_time_min_masks": mask.min_spans,
        "mask_feature_prob": mask.channel_ratio,
        "mask_feature_length": mask.channel_length,
    }


def _ctc(task: CtcSettings, about: Mapping[str, Any]) -> dict[str, Any]:
    symbols = list(about["symbols"])
    ends = {
        f"{name}_token_id": symbols.index(symbol) if symbol in symbols else None
        for name, symbol in (("bos", "<pad>"), ("eos", "</s>"))
    }  # what we call <pad> is <s> there: see huggingface_files
    return {
        "vocab_size": len(symbols),
        "pad_token_id": 0,
        **ends,
        "final_dropout": task.dropout,
        "ctc_loss_reduction": "sum",
        "ctc_zero_infinity": task.zero_infinity,
    }


def _text(
    modality: TextSettings, encoder: EncoderSettings, task: TaskSettings | None
) -> dict[str, Any]:
    frontend, tokenizer = modality.frontend, modality.tokenizer
    dropout = {}
    if isinstance(task, ClassifySettings | RegressSettings):
        dropout = {"classifier_dropout": task.head.dropout}
    return {
        "model_type": "data2vec-text",
        "vocab_size": tokenizer.size,
        "max_position_embeddings": frontend.first_position + frontend.max_tokens,
        "type_vocab_size": max(1, frontend.token_types),
        "pad_token_id": tokenizer.pad_id,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "hidden_dropout_prob": encoder.dropout,
        "attention_probs_dropout_prob": encoder.attention_dropout,
        **dropout,
    }


def _labels(task: TaskSettings | None, about: Mapping[str, Any] | None) -> dict[str, Any]:
    if isinstance(task, RegressSettings):
        return {"id2label": {"0": "value"}, "label2id": {"value": 0}, "problem_type": "regression"}
    if not isinstance(task, ClassifySettings) or about is None:
        return {}
    classes = list(about["classes"])
    return {
        "id2label": {str(number): name for number, name in enumerate(classes)},
        "label2id": {name: number for number, name in enumerate(classes)},
        "problem_type": "single_label_classification",
    }
