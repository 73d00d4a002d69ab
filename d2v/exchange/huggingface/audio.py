"""Folders of Data2VecAudioModel and Data2VecAudioForCTC."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from d2v.core.encoder import EncoderSettings
from d2v.errors import UsageError
from d2v.exchange.complaints import complaints
from d2v.exchange.foreign import Foreign
from d2v.exchange.huggingface.config import CONFIG, AudioConfig, checked, mlp_ratio
from d2v.exchange.huggingface.names import speech_links
from d2v.exchange.huggingface.source import FolderSource
from d2v.exchange.huggingface.symbols import ctc_symbols
from d2v.exchange.json_file import read_json
from d2v.exchange.links import Layout, Reordered
from d2v.modalities.speech.convolution import ConvolutionSettings
from d2v.modalities.speech.rate import RATE_HZ

PREPROCESSOR = "preprocessor_config.json"


def read_audio(source: FolderSource) -> Foreign:
    """A speech model as d2v has it. Raises UsageError where it has no counterpart."""
    config = checked(AudioConfig, source.values, source.folder / CONFIG)
    frontend, notes = _frontend(config, source)
    encoder = _encoder(config)
    # The stock class has one where it masks anything while it is trained.
    masks = config.mask_time_prob > 0 or config.mask_feature_prob > 0
    mask_token = masks or source.has("masked_spec_embed")
    links = speech_links(
        _convolutions(frontend, source),
        EncoderSettings.model_validate(encoder),
        mask_token=mask_token,
    )
    links = source.under_prefix(links)
    task = about = None
    if source.has_head:
        symbols, rows = ctc_symbols(config, source.folder, source.tokenizer)
        task, about = {"name": "ctc", "dropout": config.final_dropout}, {"symbols": list(symbols)}
        links += [
            Reordered(f"head.projection.{kind}", (f"lm_head.{kind}",), rows)
            for kind in ("weight", "bias")
        ]
    elif source.tokenizer is not None:
        raise UsageError(
            f"--tokenizer {source.tokenizer} names symbols, and {source.class_name} writes none",
            remedy="Leave it out.",
        )
    anew = {"frontend.mask_token": "the model has none (masking was off)"}
    return Foreign(
        kind=source.kind,
        modality={"name": "speech", "frontend": frontend},
        encoder=encoder,
        objective={},
        layout=Layout(
            links=tuple(links), left_out=source.left_out({}), anew={} if mask_token else anew
        ),
        tensors=source.tensors,
        task=task,
        about=about,
        notes=tuple(notes),
    )


def _frontend(config: AudioConfig, source: FolderSource) -> tuple[dict[str, Any], list[str]]:
    path = source.folder / PREPROCESSOR
    said = read_json(path)
    notes = []
    if not said:
        notes.append(
            f"There is no {PREPROCESSOR}: recordings are brought to mean 0 and variance 1, as in "
            "the published training."
        )
    rate = said.get("sampling_rate", RATE_HZ)
    if rate != RATE_HZ:
        raise UsageError(
            f"{path}: the model reads recordings at {rate} Hz",
            expected=f"{RATE_HZ} Hz, which all recordings have in d2v",
        )
    if config.feat_proj_dropout > 0:
        notes.append(
            f"feat_proj_dropout {config.feat_proj_dropout:g} has no counterpart: d2v drops nothing "
            "out there while it trains."
        )
    frontend = {
        "kind": "convolution",
        "normalise": bool(said.get("do_normalize", True)),
        "layers": list(zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)),
        "bias": config.conv_bias,
        "positions": {
            "num_layers": config.num_conv_pos_embeddings,
            "kernel": config.conv_pos_kernel_size,
            "groups": config.num_conv_pos_embedding_groups,
            "zero_padding": "first",
        },
    }
    return frontend, notes


def _convolutions(frontend: dict[str, Any], source: FolderSource) -> ConvolutionSettings:
    """The same, checked. Raises UsageError."""
    try:
        return ConvolutionSettings.model_validate(frontend)
    except ValidationError as error:
        raise UsageError(
            f"{source.folder / CONFIG}: d2v has no such convolutions: {complaints(error)}",
            expected="kernels no shorter than their strides",
        ) from error


def _encoder(config: AudioConfig) -> dict[str, Any]:
    return {
        "dim": config.hidden_size,
        "depth": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "mlp_ratio": mlp_ratio(config.hidden_size, config.intermediate_size),
        "norm_position": "post",
        "norm_eps": config.layer_norm_eps,
        "layer_scale": None,
        "input_norm": True,
        "dropout": config.hidden_dropout,
        "activation_dropout": config.activation_dropout,
        "attention_dropout": config.attention_dropout,
        "drop_path": 0.0,
        "layerdrop": config.layerdrop,
        "init": "normal",
        "init_std": config.initializer_range,
    }
