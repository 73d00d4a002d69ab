"""What fairseq calls the tensors of its first data2vec models (reference sections 5.3 and 5.4).

The averaged encoder (`_ema`) bears the same names without the part that was averaged.
"""

from __future__ import annotations

from d2v.exchange.links import Link, Same, Stacked, both
from d2v.modalities.speech.convolution import ConvolutionSettings

_BOTH = ("weight", "bias")


def block_links(ours: str, theirs: str, depth: int) -> list[Link]:
    """Of post-norm blocks; both modalities have the same.

    Args:
        ours: "encoder" or "teacher.encoder".
        theirs: what stands before `layers.`, its dot included.
        depth: blocks.
    """
    links: list[Link] = []
    for number in range(depth):
        own, other = f"{ours}.blocks.{number}", f"{theirs}layers.{number}"
        attention = f"{other}.self_attn"
        for kind in _BOTH:
            parts = tuple(f"{attention}.{part}_proj.{kind}" for part in "qkv")
            links.append(Stacked(f"{own}.attn.qkv.{kind}", parts))
        links += [
            *both(f"{own}.attn.proj", f"{attention}.out_proj"),
            *both(f"{own}.norm1", f"{other}.self_attn_layer_norm"),
            *both(f"{own}.mlp.fc1", f"{other}.fc1"),
            *both(f"{own}.mlp.fc2", f"{other}.fc2"),
            *both(f"{own}.norm2", f"{other}.final_layer_norm"),
        ]
    return links


def speech_encoder_links(ours: str, theirs: str, depth: int) -> list[Link]:
    """Blocks and the norm of their input."""
    return [
        *both(f"{ours}.input_norm", f"{theirs}layer_norm"),
        *block_links(ours, theirs, depth),
    ]


def speech_frontend_links(
    ours: str, theirs: str, positions: str, settings: ConvolutionSettings, *, mask_token: bool
) -> list[Link]:
    """Convolutions, projection, mask vector and positions.

    Args:
        ours: "frontend" or "teacher.frontend".
        theirs: what stands before `feature_extractor.`, its dot included.
        positions: what stands before `pos_conv.`, its dot included.
        settings: of the frontend.
        mask_token: whether there is a mask vector.
    """
    layers = f"{theirs}feature_extractor.conv_layers"
    links = convolution_links(ours, layers, f"{positions}pos_conv", settings)
    links += both(f"{ours}.extractor.norm", f"{theirs}layer_norm")
    links += both(f"{ours}.projection", f"{theirs}post_extract_proj")
    if mask_token:
        links.append(Same(f"{ours}.mask_token", (f"{theirs}mask_emb",)))
    return links


def convolution_links(
    ours: str, layers: str, positions: str, settings: ConvolutionSettings, *, first: int = 0
) -> list[Link]:
    """The convolutions of features and positions; data2vec 2.0 has the same under other names.

    Args:
        ours: "frontend" or "teacher.frontend".
        layers: what stands before the number of a convolution.
        positions: the same of positions.
        settings: of the frontend.
        first: number of the first convolution of positions.
    """
    links: list[Link] = []
    for number in range(len(settings.layers)):
        layer = f"{layers}.{number}"
        links.append(Same(f"{ours}.extractor.weights.{number}", (f"{layer}.0.weight",)))
        if settings.bias:
            links.append(Same(f"{ours}.extractor.biases.{number}", (f"{layer}.0.bias",)))
        links += both(f"{ours}.extractor.norms.{number}", f"{layer}.2.1")
    for number in range(settings.positions.num_layers):
        layer = f"{positions}.{first + number}.0"
        links += [
            Same(f"{ours}.positions.weights.{number}", (f"{layer}.weight",)),
            Same(f"{ours}.positions.biases.{number}", (f"{layer}.bias",)),
        ]
    return links


def text_frontend_links(ours: str, theirs: str, norm: str) -> list[Link]:
    """Both tables and the norm.

    Args:
        ours: "frontend" or "teacher.frontend".
        theirs: what stands before `embed_tokens`, its dot included.
        norm: "layernorm_embedding", or "emb_layer_norm" in older files.
    """
    return [
        Same(f"{ours}.token_embed", (f"{theirs}embed_tokens.weight",)),
        Same(f"{ours}.positions", (f"{theirs}embed_positions.weight",)),
        *both(f"{ours}.norm", f"{theirs}{norm}"),
    ]
