"""What Hugging Face calls the tensors of its three data2vec models (reference sections 5.2 to 5.4).

The tables hold for the bare models; `prefixed` serves those with a head on top.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from d2v.core.encoder import EncoderSettings
from d2v.exchange.links import KeylessBias, Link, Same, Stacked, both
from d2v.modalities.speech.convolution import ConvolutionSettings
from d2v.modalities.text.frontend import FrontendSettings as TextFrontendSettings
from d2v.modalities.vision.frontend import FrontendSettings as VisionFrontendSettings

_AnyLink = TypeVar("_AnyLink", bound=Link)
_BOTH = ("weight", "bias")


def vision_links(
    frontend: VisionFrontendSettings, encoder: EncoderSettings, *, mask_token: bool
) -> list[Link]:
    """Of `Data2VecVisionModel` without its pooler.

    Args:
        frontend: with a CLS token.
        encoder: of the pre-norm kind.
        mask_token: whether it has one (`use_mask_token`).
    """
    embeddings = "embeddings"
    links: list[Link] = [
        *both("frontend.patch_embed.proj", f"{embeddings}.patch_embeddings.projection"),
        Same("frontend.cls_token", (f"{embeddings}.cls_token",), leading=2),
    ]
    if mask_token:
        links.append(Same("frontend.mask_token", (f"{embeddings}.mask_token",), leading=2))
    if frontend.positions == "learned":
        links.append(Same("frontend.positions", (f"{embeddings}.position_embeddings",), leading=1))
    table = "relative_position_bias_table"
    if frontend.positions == "relative":
        links.append(
            Same(f"frontend.relative.{table}", (f"encoder.relative_position_bias.{table}",))
        )
    for number in range(encoder.depth):
        ours, theirs = f"encoder.blocks.{number}", f"encoder.layer.{number}"
        attention = f"{theirs}.attention.attention"
        if frontend.positions == "relative_per_block":
            links.append(
                Same(
                    f"frontend.relative.{number}.{table}",
                    (f"{attention}.relative_position_bias.{table}",),
                )
            )
        links += [
            *both(f"{ours}.norm1", f"{theirs}.layernorm_before"),
            Stacked(f"{ours}.attn.qkv.weight", _three(attention, "weight")),
            KeylessBias(
                f"{ours}.attn.qkv.bias", (f"{attention}.query.bias", f"{attention}.value.bias")
            ),
            *both(f"{ours}.attn.proj", f"{theirs}.attention.output.dense"),
            *both(f"{ours}.norm2", f"{theirs}.layernorm_after"),
            *both(f"{ours}.mlp.fc1", f"{theirs}.intermediate.dense"),
            *both(f"{ours}.mlp.fc2", f"{theirs}.output.dense"),
        ]
        if encoder.layer_scale is not None:
            links += [
                Same(f"{ours}.ls1.gamma", (f"{theirs}.lambda_1",)),
                Same(f"{ours}.ls2.gamma", (f"{theirs}.lambda_2",)),
            ]
    if encoder.final_norm:
        links += both("encoder.norm", "layernorm")
    return links


def speech_links(
    frontend: ConvolutionSettings, encoder: EncoderSettings, *, mask_token: bool
) -> list[Link]:
    """Of `Data2VecAudioModel`.

    Args:
        frontend: convolutions over the waveform.
        encoder: of the post-norm kind with a norm of its input.
        mask_token: whether it has one (`masked_spec_embed`).
    """
    links: list[Link] = []
    for number in range(len(frontend.layers)):
        layer = f"feature_extractor.conv_layers.{number}"
        links.append(Same(f"frontend.extractor.weights.{number}", (f"{layer}.conv.weight",)))
        if frontend.bias:
            links.append(Same(f"frontend.extractor.biases.{number}", (f"{layer}.conv.bias",)))
        links += both(f"frontend.extractor.norms.{number}", f"{layer}.layer_norm")
    links += [
        *both("frontend.extractor.norm", "feature_projection.layer_norm"),
        *both("frontend.projection", "feature_projection.projection"),
    ]
    if mask_token:
        links.append(Same("frontend.mask_token", ("masked_spec_embed",)))
    for number in range(frontend.positions.num_layers):
        layer = f"encoder.pos_conv_embed.layers.{number}.conv"
        links += [
            Same(f"frontend.positions.weights.{number}", (f"{layer}.weight",)),
            Same(f"frontend.positions.biases.{number}", (f"{layer}.bias",)),
        ]
    links += both("encoder.input_norm", "encoder.layer_norm")
    for number in range(encoder.depth):
        ours, theirs = f"encoder.blocks.{number}", f"encoder.layers.{number}"
        parts = [f"{theirs}.attention.{part}_proj" for part in "qkv"]
        links += [
            *(Stacked(f"{ours}.attn.qkv.{kind}", tuple(f"{part}.{kind}" for part in parts))
              for kind in _BOTH),
            *both(f"{ours}.attn.proj", f"{theirs}.attention.out_proj"),
            *both(f"{ours}.norm1", f"{theirs}.layer_norm"),
            *both(f"{ours}.mlp.fc1", f"{theirs}.feed_forward.intermediate_dense"),
            *both(f"{ours}.mlp.fc2", f"{theirs}.feed_forward.output_dense"),
            *both(f"{ours}.norm2", f"{theirs}.final_layer_norm"),
        ]  # fmt: skip
    return links


def text_links(frontend: TextFrontendSettings, encoder: EncoderSettings) -> list[Link]:
    """Of `Data2VecTextModel` without its pooler.

    Args:
        frontend: its `token_types` tell whether the table of types is kept.
        encoder: of the post-norm kind.
    """
    embeddings = "embeddings"
    links: list[Link] = [
        Same("frontend.token_embed", (f"{embeddings}.word_embeddings.weight",)),
        Same("frontend.positions", (f"{embeddings}.position_embeddings.weight",)),
        *both("frontend.norm", f"{embeddings}.LayerNorm"),
    ]
    if frontend.token_types:
        links.append(Same("frontend.token_types", (f"{embeddings}.token_type_embeddings.weight",)))
    for number in range(encoder.depth):
        ours, theirs = f"encoder.blocks.{number}", f"encoder.layer.{number}"
        attention = f"{theirs}.attention.self"
        links += [
            *(Stacked(f"{ours}.attn.qkv.{kind}", _three(attention, kind)) for kind in _BOTH),
            *both(f"{ours}.attn.proj", f"{theirs}.attention.output.dense"),
            *both(f"{ours}.norm1", f"{theirs}.attention.output.LayerNorm"),
            *both(f"{ours}.mlp.fc1", f"{theirs}.intermediate.dense"),
            *both(f"{ours}.mlp.fc2", f"{theirs}.output.dense"),
            *both(f"{ours}.norm2", f"{theirs}.output.LayerNorm"),
        ]
    return links


def prefixed(links: list[Link], prefix: str) -> list[Link]:
    """The same where the bare model is a part of another."""
    return [_renamed(link, {name: f"{prefix}.{name}" for name in link.theirs}) for link in links]


def _renamed(link: _AnyLink, names: Mapping[str, str]) -> _AnyLink:
    return replace(link, theirs=tuple(names[name] for name in link.theirs))  # type: ignore[type-var]  # links are dataclasses


def _three(attention: str, kind: str) -> tuple[str, ...]:
    return tuple(f"{attention}.{part}.{kind}" for part in ("query", "key", "value"))
