"""Files as other libraries write them, made of random tensors from the tables of the reference.

The names and shapes are written out here once more, by hand, from reference sections 5.1 to 5.4:
what the readers say of themselves proves nothing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2v.core.seeding import generator_for
from d2v.exchange.assembled import Assembled, assembled
from d2v.exchange.foreign import Foreign
from d2v.exchange.foreign_files import read_file
from d2v.exchange.own_recipe import recipe_of
from d2v.recipe import Recipe

Tensors = dict[str, Tensor]

DIM, HIDDEN, DEPTH, HEADS = 32, 48, 2, 4
CONVOLUTIONS = ((6, 10, 5), (8, 3, 2), (8, 2, 2))
"""Channels, kernel and stride."""
CONVOLUTIONS_SAID = "[(6, 10, 5)] + [(8, 3, 2)] * 1 + [(8, 2, 2)]"
POSITIONS, KERNEL, GROUPS = 3, 5, 4
TOKENS, ROWS = 300, 27


SPEECH: dict[str, Any] = {
    "_name": "data2vec_audio",
    "conv_feature_layers": CONVOLUTIONS_SAID,
    "encoder_attention_heads": HEADS,
    "extractor_mode": "layer_norm",
    "layer_norm_first": False,
    "average_top_k_layers": 2,
    "loss_beta": 0.5,
    "loss_scale": None,
    "instance_norm_target_layer": True,
    "layer_norm_targets": True,
    "ema_decay": 0.99,
    "ema_end_decay": 0.999,
    "ema_anneal_end_step": 700,
    "encoder_layerdrop": 0.05,
    "dropout": 0.2,
}
"""Settings of a pre-trained model of speech, as fairseq names them."""


def filled(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> Tensors:
    """Random tensors; norms' weights around one."""
    found = {}
    for name, shape in shapes.items():
        drawn = torch.randn(shape, generator=generator_for(name, seed)) * 0.2
        found[name] = drawn + 1 if name.endswith("norm.weight") else drawn
    return found


def of_layers(stem: str, depth: int = DEPTH) -> dict[str, tuple[int, ...]]:
    """Fairseq's post-norm blocks behind `stem`."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number in range(depth):
        layer = f"{stem}layers.{number}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes[f"{layer}.self_attn.{part}.weight"] = (DIM, DIM)
            shapes[f"{layer}.self_attn.{part}.bias"] = (DIM,)
        for norm in ("self_attn_layer_norm", "final_layer_norm"):
            shapes[f"{layer}.{norm}.weight"] = (DIM,)
            shapes[f"{layer}.{norm}.bias"] = (DIM,)
        shapes[f"{layer}.fc1.weight"], shapes[f"{layer}.fc1.bias"] = (HIDDEN, DIM), (HIDDEN,)
        shapes[f"{layer}.fc2.weight"], shapes[f"{layer}.fc2.bias"] = (DIM, HIDDEN), (DIM,)
    return shapes


def of_speech_encoder(stem: str) -> dict[str, tuple[int, ...]]:
    """Positional convolutions, norm and blocks: what fairseq averages."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number in range(POSITIONS):
        shapes[f"{stem}pos_conv.{number}.0.weight"] = (DIM, DIM // GROUPS, KERNEL)
        shapes[f"{stem}pos_conv.{number}.0.bias"] = (DIM,)
    shapes[f"{stem}layer_norm.weight"] = shapes[f"{stem}layer_norm.bias"] = (DIM,)
    return shapes | of_layers(stem)


def of_speech(stem: str = "", *, bias: bool = False) -> dict[str, tuple[int, ...]]:
    """A model of speech without a head."""
    shapes: dict[str, tuple[int, ...]] = {f"{stem}mask_emb": (DIM,)}
    before = 1
    for number, (channels, kernel, _) in enumerate(CONVOLUTIONS):
        layer = f"{stem}feature_extractor.conv_layers.{number}"
        shapes[f"{layer}.0.weight"] = (channels, before, kernel)
        if bias:
            shapes[f"{layer}.0.bias"] = (channels,)
        shapes[f"{layer}.2.1.weight"] = shapes[f"{layer}.2.1.bias"] = (channels,)
        before = channels
    shapes[f"{stem}layer_norm.weight"] = shapes[f"{stem}layer_norm.bias"] = (before,)
    shapes[f"{stem}post_extract_proj.weight"] = (DIM, before)
    shapes[f"{stem}post_extract_proj.bias"] = (DIM,)
    return shapes | of_speech_encoder(f"{stem}encoder.")


def of_text_embeddings(stem: str, norm: str = "layernorm_embedding") -> dict[str, tuple[int, ...]]:
    return {
        f"{stem}embed_tokens.weight": (TOKENS, DIM),
        f"{stem}embed_positions.weight": (ROWS, DIM),
        f"{stem}{norm}.weight": (DIM,),
        f"{stem}{norm}.bias": (DIM,),
    }


def regression_head(stem: str) -> dict[str, tuple[int, ...]]:
    return {
        f"{stem}0.weight": (2 * DIM, DIM),
        f"{stem}0.bias": (2 * DIM,),
        f"{stem}2.weight": (DIM, 2 * DIM),
        f"{stem}2.bias": (DIM,),
    }


def expected_blocks(tensors: Tensors, stem: str, ours: str = "encoder.") -> Tensors:
    """What reference 5.3 says of a fused block."""
    found: Tensors = {}
    for number in range(DEPTH):
        layer, own = f"{stem}layers.{number}", f"{ours}blocks.{number}"
        for kind in ("weight", "bias"):
            found[f"{own}.attn.qkv.{kind}"] = torch.cat(
                [tensors[f"{layer}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            )
            for part, theirs in {
                "attn.proj": "self_attn.out_proj",
                "norm1": "self_attn_layer_norm",
                "norm2": "final_layer_norm",
                "mlp.fc1": "fc1",
                "mlp.fc2": "fc2",
            }.items():
                found[f"{own}.{part}.{kind}"] = tensors[f"{layer}.{theirs}.{kind}"]
    return found


def expected_speech(
    tensors: Tensors, stem: str = "", positions: str = "encoder.", ours: str = ""
) -> Tensors:
    """`frontend.*` and `encoder.*`; positions and encoder from behind `positions`."""
    front = f"{ours}frontend"
    found = {f"{front}.mask_token": tensors[f"{stem}mask_emb"]}
    for number in range(len(CONVOLUTIONS)):
        layer = f"{stem}feature_extractor.conv_layers.{number}"
        found[f"{front}.extractor.weights.{number}"] = tensors[f"{layer}.0.weight"]
        if f"{layer}.0.bias" in tensors:
            found[f"{front}.extractor.biases.{number}"] = tensors[f"{layer}.0.bias"]
        for kind in ("weight", "bias"):
            found[f"{front}.extractor.norms.{number}.{kind}"] = tensors[f"{layer}.2.1.{kind}"]
    for kind in ("weight", "bias"):
        found[f"{front}.extractor.norm.{kind}"] = tensors[f"{stem}layer_norm.{kind}"]
        found[f"{front}.projection.{kind}"] = tensors[f"{stem}post_extract_proj.{kind}"]
        found[f"{ours}encoder.input_norm.{kind}"] = tensors[f"{positions}layer_norm.{kind}"]
    for number in range(POSITIONS):
        layer = f"{positions}pos_conv.{number}.0"
        found[f"{front}.positions.weights.{number}"] = tensors[f"{layer}.weight"]
        found[f"{front}.positions.biases.{number}"] = tensors[f"{layer}.bias"]
    return found | expected_blocks(tensors, positions, f"{ours}encoder.")


def expected_text(
    tensors: Tensors, stem: str, norm: str = "layernorm_embedding", ours: str = ""
) -> Tensors:
    found = {
        f"{ours}frontend.token_embed": tensors[f"{stem}embed_tokens.weight"],
        f"{ours}frontend.positions": tensors[f"{stem}embed_positions.weight"],
        f"{ours}frontend.norm.weight": tensors[f"{stem}{norm}.weight"],
        f"{ours}frontend.norm.bias": tensors[f"{stem}{norm}.bias"],
    }
    return found | expected_blocks(tensors, stem, f"{ours}encoder.")


def nested(tensors: Tensors, name: str) -> dict[str, Any]:
    """Tensors behind `name.` as a dictionary of their own, as `_ema` is stored."""
    inner = {
        key[len(name) + 1 :]: one for key, one in tensors.items() if key.startswith(f"{name}.")
    }
    outer = {key: one for key, one in tensors.items() if not key.startswith(f"{name}.")}
    return {**outer, name: inner}


def speech_content(tensors: Tensors, **cfg: Any) -> dict[str, Any]:
    return {
        "cfg": {"model": {**SPEECH, **cfg}, "task": {"normalize": True}},
        "args": None,
        "model": tensors,
        "last_optimizer_state": {"state": {0: {"exp_avg": torch.ones(3)}}},
    }


def speech_tensors(**changed: tuple[int, ...]) -> Tensors:
    """Student, head and an average whose positions are the student's."""
    tensors = filled(of_speech() | {"final_proj.weight": (DIM, DIM), "final_proj.bias": (DIM,)})
    averaged = filled(of_speech_encoder("_ema."))
    copies = {name: tensors[f"encoder.{name[5:]}"] for name in averaged if "pos_conv" in name}
    return tensors | averaged | copies | filled(changed)


def written(path: Path, content: Mapping[str, Any]) -> Path:
    torch.save(dict(content), path)
    return path


def read(
    path: Path, *, num_heads: int | None = None, tokenizer: Path | None = None
) -> tuple[Foreign, Recipe, Assembled]:
    """What a file is taken for, and the model made of it."""
    foreign = read_file(path, num_heads=num_heads, tokenizer=tokenizer)
    recipe = recipe_of(foreign, path.with_suffix(""))
    return foreign, recipe, assembled(foreign, recipe, str(path))


def assert_same(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Every tensor in its place, and no other."""
    assert set(actual) == set(expected)
    wrong = [name for name in expected if not torch.equal(actual[name], expected[name])]
    assert wrong == []
