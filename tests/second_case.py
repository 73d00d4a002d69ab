"""Tiny files of fairseq's data2vec 2.0, and what every tensor of them should become.

Names and shapes are written out by hand from reference section 5.6.
"""

from typing import Any

import torch

from tests.foreign_case import Tensors, filled

DIM, HIDDEN, HEADS = 24, 52, 3
"""A width that 64 does not divide, an inner width that is no multiple, heads no power of two."""
PRENET, DEPTH = 1, 2
WIDTH, GROUPS, LAYERS, KERNEL = 12, 4, 2, 3
"""Of the decoder: its first layer changes the width, its second one adds."""
SIDE, PATCH = 3, 4
CONVOLUTIONS = ((6, 10, 5), *[(8, 3, 2)] * 4, *[(8, 2, 2)] * 2)
POSITIONS, SPAN = 2, 5
TOKENS, ROWS = 300, 27
KINDS = ("IMAGE", "AUDIO", "TEXT")
PARTS = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
NAMES = {"IMAGE": "vision", "AUDIO": "speech", "TEXT": "text"}
Shapes = dict[str, tuple[int, ...]]


def tower(kind: str, prefix: str = "") -> str:
    return f"{prefix}modality_encoders.{kind}."


def pair(name: str, *shape: int) -> Shapes:
    """A weight and its bias."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def of_block(name: str) -> Shapes:
    return {
        **pair(f"{name}.norm1", DIM), **pair(f"{name}.norm2", DIM),
        **pair(f"{name}.attn.qkv", 3 * DIM, DIM), **pair(f"{name}.attn.proj", DIM, DIM),
        **pair(f"{name}.mlp.fc1", HIDDEN, DIM), **pair(f"{name}.mlp.fc2", DIM, HIDDEN),
    }  # fmt: skip


def of_local(kind: str, stem: str) -> Shapes:
    """What makes features of samples."""
    if kind == "IMAGE":
        return pair(f"{stem}local_encoder.proj", DIM, 3, PATCH, PATCH)
    if kind == "TEXT":
        return {
            f"{stem}local_encoder.embed_tokens.weight": (TOKENS, DIM),
            f"{stem}local_encoder.embed_positions.weight": (ROWS, DIM),
            **pair(f"{stem}local_encoder.layernorm_embedding", DIM),
        }
    shapes: Shapes = {}
    before = 1
    for number, (channels, kernel, _) in enumerate(CONVOLUTIONS):
        layer = f"{stem}local_encoder.conv_layers.{number}"
        shapes |= {
            f"{layer}.0.weight": (channels, before, kernel),
            **pair(f"{layer}.2.1", channels),
        }
        before = channels
    features = f"{stem}project_features"
    return shapes | pair(f"{features}.1", before) | pair(f"{features}.2", DIM, before)


def of_rest(kind: str, stem: str, prenet: int) -> Shapes:
    """Positions, extra token, scale, norm and blocks of the prenet."""
    shapes: Shapes = {}
    if kind == "IMAGE":
        shapes[f"{stem}extra_tokens"] = (1, 1, DIM)
        shapes[f"{stem}fixed_positional_encoder.positions"] = (1, SIDE * SIDE, DIM)
    if kind == "AUDIO":
        shapes[f"{stem}alibi_scale"] = (1, 1, HEADS, 1, 1)
        for number in range(1, POSITIONS + 1):
            layer = f"{stem}relative_positional_encoder.{number}.0"
            shapes |= pair(layer, DIM, DIM // GROUPS, SPAN)
    if kind != "TEXT":
        shapes |= pair(f"{stem}context_encoder.norm", DIM)
    for number in range(prenet):
        shapes |= of_block(f"{stem}context_encoder.blocks.{number}")
    return shapes


def of_decoder(kind: str, stem: str) -> Shapes:
    shapes: Shapes = {}
    kernel = (KERNEL, KERNEL) if kind == "IMAGE" else (KERNEL,)
    for number in range(LAYERS):
        before = WIDTH if number else DIM
        layer = f"{stem}decoder.blocks.{number}.0"
        shapes |= pair(layer, WIDTH, before // GROUPS, *kernel)
    if kind == "TEXT":
        shapes |= pair(f"{stem}decoder.proj.0", 2 * WIDTH, WIDTH)
        return shapes | pair(f"{stem}decoder.proj.2", DIM, 2 * WIDTH)
    return shapes | pair(f"{stem}decoder.proj", DIM, WIDTH)


def prenet_of(kind: str) -> int:
    return 0 if kind == "TEXT" else PRENET


def shared(stem: str) -> Shapes:
    return {name: s for number in range(DEPTH) for name, s in of_block(f"{stem}{number}").items()}


def network(kind: str, prefix: str = "") -> Shapes:
    """A student without its decoder."""
    stem = tower(kind, prefix)
    rest = of_rest(kind, stem, prenet_of(kind))
    return of_local(kind, stem) | rest | shared(f"{prefix}blocks.")


def teacher(kind: str) -> Shapes:
    """As each modality is published: all; without local features; shared blocks alone."""
    if kind == "TEXT":
        return shared("_ema.")
    stem = tower(kind, "_ema.")
    whole = of_rest(kind, stem, prenet_of(kind)) | shared("_ema.blocks.")
    return whole | of_local(kind, stem) if kind == "IMAGE" else whole


def second_tensors(kind: str) -> Tensors:
    """Student, decoder and teacher, all random, positions of pictures too."""
    shapes = network(kind) | of_decoder(kind, tower(kind))
    tensors = filled(shapes) | filled(teacher(kind), seed=1)
    scales = {name: one.abs() + 0.2 for name, one in tensors.items() if "alibi_scale" in name}
    return tensors | scales


COMMON: dict[str, Any] = {
    "_name": "data2vec_multi", "depth": DEPTH, "num_heads": HEADS, "embed_dim": DIM,
    "average_top_k_layers": 2, "clone_batch": 3, "layer_norm_first": False, "loss_beta": 0.0,
    "end_of_block_targets": False, "batch_norm_target_layer": False, "instance_norm_targets": False,
    "ema_decay": 0.99, "ema_end_decay": 0.999, "ema_anneal_end_step": 700,
}  # fmt: skip
"""Settings of any modality, as fairseq names them."""
MODELS: dict[str, dict[str, Any]] = {
    "IMAGE": {"loss_scale": None, "instance_norm_target_layer": True, "layer_norm_targets": True,
              "layer_norm_target_layer": False, "cls_loss": 0.05, "norm_eps": 1e-6,
              "encoder_dropout": 0, "post_mlp_drop": 0, "attention_dropout": 0},
    "AUDIO": {"loss_scale": None, "instance_norm_target_layer": True, "layer_norm_targets": False,
              "layer_norm_target_layer": False, "norm_eps": 1e-5, "layerdrop": 0.05,
              "encoder_dropout": 0.1, "post_mlp_drop": 0.1, "attention_dropout": 0.1},
    "TEXT": {"loss_scale": 1, "instance_norm_target_layer": False, "layer_norm_targets": False,
             "layer_norm_target_layer": True, "norm_eps": 1e-5, "loss_beta": 0.5,
             "encoder_dropout": 0.1, "post_mlp_drop": 0.1, "attention_dropout": 0.1},
}  # fmt: skip
TOWERS: dict[str, dict[str, Any]] = {
    "IMAGE": {"inverse_mask": True, "mask_prob": 0.6, "mask_prob_adjust": 0.1, "mask_length": 2,
              "prenet_dropout": 0},
    "AUDIO": {"inverse_mask": False, "mask_prob": 0.4, "mask_prob_adjust": 0.02, "mask_length": 3,
              "feature_encoder_spec": "[(6, 10, 5)] + [(8, 3, 2)] * 4 + [(8,2,2)] + [(8,2,2)]",
              "prenet_dropout": 0.1, "prenet_layerdrop": 0.05},
    "TEXT": {"mask_prob": 0.3, "mask_length": 1},
}  # fmt: skip
PROJECTIONS = {"IMAGE": 1, "AUDIO": 1, "TEXT": 2}


def settings(kind: str, **own: Any) -> dict[str, Any]:
    """The file's `cfg`; without noise at masked places."""
    section = {
        "mask_noise_std": 0.0, "prenet_depth": prenet_of(kind), "model_depth": "${model.depth}",
        **TOWERS[kind],
        "decoder": {"decoder_dim": WIDTH, "decoder_groups": GROUPS, "decoder_kernel": KERNEL,
                    "decoder_layers": LAYERS, "decoder_residual": kind != "TEXT",
                    "input_dropout": 0.2, "projection_layers": PROJECTIONS[kind]},
    }  # fmt: skip
    others = {name.lower(): {"mask_prob": 0.99, "prenet_depth": 9} for name in KINDS}
    modalities = {"_name": None, **others, kind.lower(): {**section, **own}}
    return {
        "model": {**COMMON, **MODELS[kind], "modalities": modalities},
        "task": {"normalize": True},
        "dataset": {"batch_size": 2},
    }


def content(kind: str, tensors: Tensors, *, cfg: bool = True, **own: Any) -> dict[str, Any]:
    """What the file holds; the average is a dictionary of its own."""
    average = {name[5:]: one for name, one in tensors.items() if name.startswith("_ema.")}
    student = {name: one for name, one in tensors.items() if not name.startswith("_ema.")}
    model = {**student, "_ema": average} if average else student
    return {"cfg": settings(kind, **own) if cfg else None, "model": model}


# What it should become


def expected_block(tensors: Tensors, theirs: str, ours: str) -> Tensors:
    return {
        f"{ours}.{part}.{kind}": tensors[f"{theirs}.{part}.{kind}"]
        for part in PARTS
        for kind in ("weight", "bias")
    }


def expected_encoder(tensors: Tensors, kind: str, prefix: str = "", ours: str = "") -> Tensors:
    stem, own = tower(kind, prefix), f"{ours}encoder"
    found: Tensors = {}
    if kind != "TEXT":
        for one in ("weight", "bias"):
            found[f"{own}.input_norm.{one}"] = tensors[f"{stem}context_encoder.norm.{one}"]
    prenet = prenet_of(kind)
    for number in range(prenet):
        block = f"{stem}context_encoder.blocks.{number}"
        found |= expected_block(tensors, block, f"{own}.blocks.{number}")
    blocks = prefix if prefix == "_ema." and kind == "TEXT" else f"{prefix}blocks."
    for number in range(DEPTH):
        found |= expected_block(tensors, f"{blocks}{number}", f"{own}.blocks.{prenet + number}")
    return found


def expected_frontend(tensors: Tensors, kind: str, prefix: str = "", ours: str = "") -> Tensors:
    """Of tensors random throughout: positions of pictures are learned."""
    stem, own = tower(kind, prefix), f"{ours}frontend"
    local = f"{stem}local_encoder"
    if kind == "IMAGE":
        table = tensors[f"{stem}fixed_positional_encoder.positions"][0]
        return {
            f"{own}.patch_embed.proj.weight": tensors[f"{local}.proj.weight"],
            f"{own}.patch_embed.proj.bias": tensors[f"{local}.proj.bias"],
            f"{own}.cls_token": tensors[f"{stem}extra_tokens"][0, 0],
            f"{own}.positions": torch.cat([torch.zeros(1, DIM), table]),
            f"{own}.mask_token": torch.zeros(DIM),
        }
    if kind == "TEXT":
        return {
            f"{own}.token_embed": tensors[f"{local}.embed_tokens.weight"],
            f"{own}.positions": tensors[f"{local}.embed_positions.weight"],
            f"{own}.norm.weight": tensors[f"{local}.layernorm_embedding.weight"],
            f"{own}.norm.bias": tensors[f"{local}.layernorm_embedding.bias"],
        }
    found = {f"{own}.mask_token": torch.zeros(DIM)}
    found[f"{own}.alibi.scale"] = tensors[f"{stem}alibi_scale"][0, 0, :, 0, 0]
    source = tower(kind)  # local features are the student's, the teacher's too
    for number in range(len(CONVOLUTIONS)):
        layer = f"{source}local_encoder.conv_layers.{number}"
        found[f"{own}.extractor.weights.{number}"] = tensors[f"{layer}.0.weight"]
        for one in ("weight", "bias"):
            found[f"{own}.extractor.norms.{number}.{one}"] = tensors[f"{layer}.2.1.{one}"]
    for one in ("weight", "bias"):
        found[f"{own}.extractor.norm.{one}"] = tensors[f"{source}project_features.1.{one}"]
        found[f"{own}.projection.{one}"] = tensors[f"{source}project_features.2.{one}"]
    for number in range(POSITIONS):
        layer = f"{stem}relative_positional_encoder.{number + 1}.0"
        found[f"{own}.positions.weights.{number}"] = tensors[f"{layer}.weight"]
        found[f"{own}.positions.biases.{number}"] = tensors[f"{layer}.bias"]
    return found


def expected_head(tensors: Tensors, kind: str) -> Tensors:
    stem, found = f"{tower(kind)}decoder.", {}
    for number in range(LAYERS):
        weight = tensors[f"{stem}blocks.{number}.0.weight"]
        found[f"head.convolutions.{number}.weight"] = (
            weight if kind == "IMAGE" else weight[:, :, None]
        )
        found[f"head.convolutions.{number}.bias"] = tensors[f"{stem}blocks.{number}.0.bias"]
    theirs = ["proj.0", "proj.2"] if kind == "TEXT" else ["proj"]
    for number, name in enumerate(theirs):
        for one in ("weight", "bias"):
            found[f"head.projections.{number}.{one}"] = tensors[f"{stem}{name}.{one}"]
    return found


def expected_all(tensors: Tensors, kind: str) -> Tensors:
    """Student, head and teacher as pre-training keeps them."""
    found = expected_frontend(tensors, kind) | expected_encoder(tensors, kind)
    found |= expected_head(tensors, kind) | expected_encoder(tensors, kind, "_ema.", "teacher.")
    if kind == "TEXT":
        return found
    return found | expected_frontend(tensors, kind, "_ema.", "teacher.")
