"""Tiny models with arbitrary weights, ready to leave for another library."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from d2v.core.encoder import Encoder
from d2v.core.seeding import generator_for
from d2v.exchange.outgoing import Outgoing
from d2v.modalities import build_modality
from d2v.recipe import Recipe
from d2v.tasks import build_task
from tests.model_case import ABOUT, BY_NAME, shake

PRE: dict[str, Any] = {"dim": 16, "depth": 2, "num_heads": 2, "init_std": 0.25}
POST: dict[str, Any] = {**PRE, "norm_position": "post", "layer_scale": None, "norm_eps": 1e-5}
SPEECH: dict[str, Any] = {**POST, "input_norm": True}
CONVOLUTION: dict[str, Any] = {
    "kind": "convolution",
    "layers": [[6, 10, 5], [8, 8, 8], [8, 4, 4]],
    "positions": {"num_layers": 2, "kernel": 5, "groups": 4},
}
"""A token each 160 samples."""


def vision(**frontend: Any) -> dict[str, Any]:
    shape = {"image_size": 8, "patch_size": 2, "channels": 1, "positions": "learned",
             "pixel_mean": [0.4], "pixel_std": [0.3], **frontend}  # fmt: skip
    return {"name": "vision", "frontend": shape, "mask": {"min_block": 2}}


def speech(**frontend: Any) -> dict[str, Any]:
    return {"name": "speech", "frontend": {**CONVOLUTION, **frontend}}


def text(tokenizer: dict[str, Any] | None = None, **frontend: Any) -> dict[str, Any]:
    return {"name": "text", "tokenizer": {"size": 275, **(tokenizer or {})},
            "frontend": {"max_tokens": 32, **frontend}, "store": {"block_tokens": 32}}  # fmt: skip


def leaving(
    modality: dict[str, Any],
    encoder: dict[str, Any],
    task: dict[str, Any] | None = None,
    learned: Path | None = None,
    **known: Any,
) -> Outgoing:
    """A model with weights drawn and shaken, as `d2v export` would take it out of a run."""
    recipe = Recipe.model_validate({
        "name": "tiny",
        "modality": modality,
        "encoder": encoder,
        "objective": {"top_k": 2},
        **({} if task is None else {"finetune": {"task": task}}),
    })  # fmt: skip
    built = build_modality(recipe.modality, learned)
    frontend, network = built.build_frontend(recipe.encoder), Encoder(recipe.encoder)
    outgoing = Outgoing(
        recipe=recipe, modality=built, frontend=frontend, encoder=network,
        name="tiny", network="student", learned=learned,
    )  # fmt: skip
    generator = generator_for("export case", 0)
    if recipe.finetune is None:
        frontend.initialise(generator)
        network.initialise(generator)
    else:
        own = build_task(recipe.finetune.task, ABOUT[recipe.finetune.task.name])
        model = own.build(frontend, network)
        model.initialise(generator)
        shake(model.head)
        outgoing = replace(outgoing, model=model.eval().requires_grad_(False), task=own)
    for part in (frontend, network):
        shake(part)
        part.eval().requires_grad_(False)
    return replace(outgoing, **known)


def learned_tokenizer(folder: Path) -> Path:
    """A folder with a tokenizer of 275 tokens, as preparing leaves it."""
    folder.mkdir()
    build_modality(Recipe.model_validate({"name": "t", "modality": text()}).modality).learn(
        BY_NAME["text"].items, folder
    )
    return folder


def tensors_of(parts: dict[str, nn.Module]) -> dict[str, Any]:
    return {
        f"{part}.{name}": tensor
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }
