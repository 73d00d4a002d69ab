"""Files of picture models as the official code and fairseq's port write them (reference 5.2)."""

from pathlib import Path

import torch
from torch import Tensor

from d2v.exchange.assembled import Assembled
from d2v.recipe import Recipe
from d2v.types import Batch
from tests.foreign_case import Tensors, filled

DIM, HIDDEN, DEPTH, HEADS, SIDE, PATCH, CLASSES = 32, 48, 2, 4, 4, 4, 5
TABLE_ROWS = (2 * SIDE - 1) ** 2 + 3
INDEX = "relative_position_index"
TABLE = "relative_position_bias_table"
ACROSS = SIDE * SIDE + 1
"""Tokens, CLS included."""
PORT_NAMES = {
    "cls_token": "cls_emb",
    "mask_token": "mask_emb",
    "patch_embed.proj": "patch_embed.conv",
    "rel_pos_bias": "encoder.rel_pos_bias",
    "blocks": "encoder.blocks",
    "norm": "encoder.norm",
    "lm_head": "final_proj",
}
"""Official name -> the port's."""


def of_blocks(stem: str = "") -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for number in range(DEPTH):
        block = f"{stem}blocks.{number}"
        shapes |= {
            f"{block}.norm1.weight": (DIM,),
            f"{block}.norm1.bias": (DIM,),
            f"{block}.attn.qkv.weight": (3 * DIM, DIM),
            f"{block}.attn.q_bias": (DIM,),
            f"{block}.attn.v_bias": (DIM,),
            f"{block}.attn.proj.weight": (DIM, DIM),
            f"{block}.attn.proj.bias": (DIM,),
            f"{block}.gamma_1": (DIM,),
            f"{block}.gamma_2": (DIM,),
            f"{block}.norm2.weight": (DIM,),
            f"{block}.norm2.bias": (DIM,),
            f"{block}.mlp.fc1.weight": (HIDDEN, DIM),
            f"{block}.mlp.fc1.bias": (HIDDEN,),
            f"{block}.mlp.fc2.weight": (DIM, HIDDEN),
            f"{block}.mlp.fc2.bias": (DIM,),
        }
    return shapes


def _embeddings() -> dict[str, tuple[int, ...]]:
    return {
        "cls_token": (1, 1, DIM),
        "patch_embed.proj.weight": (DIM, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (DIM,),
    }


def pre_trained(seed: int = 0) -> Tensors:
    """The official pre-trained model: one table, mask vector, final norm, lm_head."""
    shapes = _embeddings() | of_blocks() | {
        "mask_token": (1, 1, DIM),
        f"rel_pos_bias.{TABLE}": (TABLE_ROWS, HEADS),
        "norm.weight": (DIM,),
        "norm.bias": (DIM,),
        "lm_head.weight": (DIM, DIM),
        "lm_head.bias": (DIM,),
    }  # fmt: skip
    index = torch.zeros(ACROSS, ACROSS, dtype=torch.int64)  # ours must not read it
    return filled(shapes, seed) | {f"rel_pos_bias.{INDEX}": index}


def fine_tuned() -> Tensors:
    """The official fine-tuned model: a table a block, fc_norm, head."""
    shapes = _embeddings() | of_blocks() | {
        "fc_norm.weight": (DIM,),
        "fc_norm.bias": (DIM,),
        "head.weight": (CLASSES, DIM),
        "head.bias": (CLASSES,),
    }  # fmt: skip
    shapes |= {f"blocks.{number}.attn.{TABLE}": (TABLE_ROWS, HEADS) for number in range(DEPTH)}
    index = torch.zeros(ACROSS, ACROSS, dtype=torch.int64)
    return filled(shapes) | {f"blocks.{n}.attn.{INDEX}": index for n in range(DEPTH)}


def as_port(tensors: Tensors) -> Tensors:
    """The same tensors under the port's names."""
    found = {}
    for name, tensor in tensors.items():
        new = name.replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.2")
        for official, port in PORT_NAMES.items():
            if new.startswith(f"{official}.") or new == official:
                new = port + new[len(official) :]
                break
        found[new] = tensor
    return found


def expected(tensors: Tensors, ours: str = "") -> Tensors:
    """`frontend.*` and `encoder.*` of tensors under official names (reference 5.2)."""
    found = {
        f"{ours}frontend.cls_token": tensors["cls_token"][0, 0],
        f"{ours}frontend.patch_embed.proj.weight": tensors["patch_embed.proj.weight"],
        f"{ours}frontend.patch_embed.proj.bias": tensors["patch_embed.proj.bias"],
    }
    if "mask_token" in tensors:
        found[f"{ours}frontend.mask_token"] = tensors["mask_token"][0, 0]
    if f"rel_pos_bias.{TABLE}" in tensors:
        found[f"{ours}frontend.relative.{TABLE}"] = tensors[f"rel_pos_bias.{TABLE}"]
    for number in range(DEPTH):
        block, own = f"blocks.{number}", f"{ours}encoder.blocks.{number}"
        if f"{block}.attn.{TABLE}" in tensors:
            found[f"{ours}frontend.relative.{number}.{TABLE}"] = tensors[f"{block}.attn.{TABLE}"]
        found[f"{own}.attn.qkv.weight"] = tensors[f"{block}.attn.qkv.weight"]
        found[f"{own}.attn.qkv.bias"] = torch.cat(
            [tensors[f"{block}.attn.q_bias"], torch.zeros(DIM), tensors[f"{block}.attn.v_bias"]]
        )
        found[f"{own}.ls1.gamma"] = tensors[f"{block}.gamma_1"]
        found[f"{own}.ls2.gamma"] = tensors[f"{block}.gamma_2"]
        for part in ("norm1", "norm2", "attn.proj", "mlp.fc1", "mlp.fc2"):
            for kind in ("weight", "bias"):
                found[f"{own}.{part}.{kind}"] = tensors[f"{block}.{part}.{kind}"]
    for kind in ("weight", "bias"):
        if f"norm.{kind}" in tensors:
            found[f"{ours}encoder.norm.{kind}"] = tensors[f"norm.{kind}"]
    return found


def pictures(recipe: Recipe, count: int = 3) -> tuple[Batch, Tensor]:
    """Pictures as our frontend reads them, and as the other library does: normalised."""
    frontend = recipe.modality.model_dump()["frontend"]
    side, channels = frontend["image_size"], frontend["channels"]
    generator = torch.Generator().manual_seed(7)
    shape = (count, channels, side, side)
    raw = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    mean = torch.tensor(frontend["pixel_mean"]).view(-1, 1, 1)
    std = torch.tensor(frontend["pixel_std"]).view(-1, 1, 1)
    return Batch(inputs=raw), (raw.float() / 255 - mean) / std


@torch.no_grad()
def encoded(made: Assembled, batch: Batch) -> Tensor:
    """The encoder's output, (B, T, D), CLS first."""
    frontend, encoder = made.parts["frontend"].eval(), made.parts["encoder"].eval()
    output: Tensor = encoder(frontend(frontend.features(batch), None, None)).last  # type: ignore[operator]  # a Frontend
    return output


def named(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name
