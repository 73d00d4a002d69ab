"""Settings to objects: the objective, the world, an encoder out of a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from d2v.config import flat
from d2v.core.encoder import Encoder
from d2v.core.schedules import Horizon
from d2v.core.seeding import generator_for
from d2v.data.shards import Shards
from d2v.data2vec import Data2Vec, Distillation
from d2v.data2vec2 import Data2Vec2, Data2Vec2Settings
from d2v.engine.checkpoint import Checkpoint, load_checkpoint, load_latest
from d2v.engine.distributed import World
from d2v.engine.identity import check_identity
from d2v.errors import UsageError
from d2v.hardware import resolve_device, resolve_precision
from d2v.modalities import build_modality
from d2v.recipe import Recipe
from d2v.settings import Settings
from d2v.types import Frontend

Network = Literal["student", "teacher"]


@dataclass(frozen=True, kw_only=True)
class FrozenEncoder:
    """A frontend and an encoder in eval mode."""

    frontend: Frontend
    encoder: Encoder
    digest: str
    """Names the weights: the checkpoint's digest, or how they were drawn."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What features are computed in."""


def build_objective(recipe: Recipe, horizon: Horizon, world: World | None = None) -> Distillation:
    """The objective with fresh weights drawn from the recipe's seed; `world` where it trains."""
    frontend = build_modality(recipe.modality).build_frontend(recipe.encoder)
    total = world.sum if world is not None and world.size > 1 else None
    encoder, settings = Encoder(recipe.encoder), recipe.objective
    model: Distillation
    if isinstance(settings, Data2Vec2Settings):
        model = Data2Vec2(frontend, encoder, settings, horizon, total)
    else:
        model = Data2Vec(frontend, encoder, settings, horizon, total)
    model.initialise(generator_for("weights", recipe.seed))
    return model


def untrained_encoder(recipe: Recipe, trained: FrozenEncoder) -> FrozenEncoder:
    """The weights that pre-training starts from; figures of the data are those of `trained`."""
    model = build_objective(recipe, Horizon(total_steps=1, steps_per_epoch=1))
    for name, buffer in model.frontend.named_buffers():
        buffer.copy_(trained.frontend.get_buffer(name))
    return frozen(model.frontend, model.encoder, recipe, f"untrained, seed {recipe.seed}")


def load_encoder(recipe: Recipe, path: Path, network: Network = "student") -> FrozenEncoder:
    """The student or teacher of a checkpoint.

    Args:
        recipe: says what architecture is expected.
        path: a checkpoint folder, or a run directory with `checkpoints/`.
        network: whose weights.

    Raises:
        UsageError: no checkpoint there, or one of another architecture.
        D2VError: the checkpoint is damaged.
    """
    checkpoint = fitting_checkpoint(recipe, path)
    frontend = build_modality(recipe.modality).build_frontend(recipe.encoder)
    encoder = Encoder(recipe.encoder)
    load_network(checkpoint, frontend, encoder, network)
    return frozen(frontend, encoder, recipe, checkpoint.digest)


def load_network(
    checkpoint: Checkpoint,
    frontend: Frontend,
    encoder: Encoder,
    network: Network = "student",
) -> None:
    """Put the weights of a checkpoint's student or teacher into modules of its architecture.

    Raises:
        UsageError: it has no teacher.
    """
    tensors = checkpoint.tensors["model"]
    prefix = "teacher." if network == "teacher" else ""
    if prefix and not _part(tensors, "teacher.encoder."):
        raise UsageError(
            f"{checkpoint.path} has no teacher",
            expected="a checkpoint of d2v pretrain, or one imported with its teacher",
            remedy="Take the student: probe.network=student, --network student, no --teacher.",
        )
    encoder.load_state_dict(_part(tensors, f"{prefix}encoder."))
    own_frontend = _part(tensors, f"{prefix}frontend.")
    frontend.load_state_dict(own_frontend or _part(tensors, "frontend."))


def start_from(model: Distillation, recipe: Recipe, path: Path) -> None:
    """Take another run's student, its head where that fits, and the teacher that the recipe asks.

    Raises:
        UsageError: no checkpoint there, one of another architecture, or without a teacher.
    """
    assert recipe.pretrain is not None
    checkpoint = fitting_checkpoint(recipe, path)
    load_network(checkpoint, model.frontend, model.encoder)
    head = _part(checkpoint.tensors["model"], "head.")
    own = model.head.state_dict()
    if {name: tensor.shape for name, tensor in head.items()} == {
        name: tensor.shape for name, tensor in own.items()
    }:
        model.head.load_state_dict(head)
    model.copy_student_to_teacher()
    if recipe.pretrain.init_teacher == "teacher":
        _load_teacher(model, checkpoint)


def _load_teacher(model: Distillation, checkpoint: Checkpoint) -> None:
    found = _part(checkpoint.tensors["model"], "teacher.")
    if not found:
        raise UsageError(
            f"{checkpoint.path} has no teacher, and pretrain.init_teacher is teacher",
            expected="a checkpoint of d2v pretrain, or one imported with its teacher",
            remedy="Set pretrain.init_teacher=student: the teacher starts as the student's copy.",
        )
    for name, part in model.teacher.items():
        # What the other run did not average, its teacher had from its student.
        part.load_state_dict(_part(found, f"{name}.") or getattr(model, name).state_dict())


def fitting_checkpoint(recipe: Recipe, path: Path) -> Checkpoint:
    """A checkpoint with the recipe's architecture.

    Raises:
        UsageError: no checkpoint there, or one of another architecture.
        D2VError: the checkpoint is damaged.
    """
    checkpoint = find_checkpoint(path)
    check_identity(checkpoint, identity(recipe), identity_defaults(recipe))
    return checkpoint


def check_samples(recipe: Recipe, shards: Shards, trained: Mapping[str, Any], whose: str) -> None:
    """Refuse shards whose samples mean something else than those that weights were trained on.

    Args:
        recipe: its modality says what counts.
        shards: what the weights are to read.
        trained: `about` of the shards that they were trained on. What it does not tell is not
            compared: checkpoints from before it was kept have none.
        whose: names what was trained, for the message.

    Raises:
        UsageError: says what differs.
    """
    differing = [
        f"{key} is {trained[key]!r} there and {shards.about.get(key)!r} here"
        for key in build_modality(recipe.modality).common_about
        if key in trained and trained[key] != shards.about.get(key)
    ]
    if differing:
        raise UsageError(
            f"{shards.folder} was prepared otherwise than the training data of {whose}: "
            + "; ".join(differing),
            expected="all data of a model prepared alike: samples mean the same to it",
            remedy="Prepare these data together with the training data, in one recipe, or with "
            "what preparing those has learned; or use a checkpoint that was trained on data like "
            "these.",
        )


def find_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a folder, or the newest whole one of a run directory."""
    if (path / "manifest.json").exists():
        return load_checkpoint(path)
    for folder in (path / "checkpoints", path / "pretrain" / "checkpoints", path):
        found, _ = load_latest(folder)
        if found is not None:
            return found
    raise UsageError(
        f"There is no checkpoint in {path}",
        expected="a folder step-..., or a run directory with checkpoints/",
        remedy="Run d2v pretrain first, or name another pretrain.checkpoint.",
    )


def identity(recipe: Recipe) -> dict[str, Any]:
    """Dotted settings that decide which tensors there are and what they mean."""
    return {"modality.name": recipe.modality.name, **_shaping(_sections(recipe))}


def identity_defaults(recipe: Recipe) -> dict[str, Any]:
    """`identity` of a recipe that sets nothing in those sections."""
    return _shaping({name: type(section)() for name, section in _sections(recipe).items()})


def _sections(recipe: Recipe) -> dict[str, Settings]:
    modality = recipe.modality
    own = {f"modality.{name}": getattr(modality, name) for name in modality.model_sections}
    return {**own, "encoder": recipe.encoder}


def _shaping(sections: Mapping[str, Settings]) -> dict[str, Any]:
    """Dotted settings of the sections without those that change no tensor."""
    dumped = {name: section.model_dump(mode="json") for name, section in sections.items()}
    regularisation = {"dropout", "activation_dropout", "attention_dropout", "drop_path",
                      "layerdrop", "attention", "init", "init_std", "position_init_std",
                      "patch_init", "gradient_scale", "path"}  # fmt: skip
    return {
        key: value for key, value in flat(dumped) if key.rsplit(".", 1)[-1] not in regularisation
    }


def frozen(frontend: Frontend, encoder: Encoder, recipe: Recipe, digest: str) -> FrozenEncoder:
    """In eval mode, without gradients, on the recipe's device."""
    device = torch.device(resolve_device(recipe))
    asked = "auto" if recipe.pretrain is None else recipe.pretrain.precision
    return FrozenEncoder(
        precision=resolve_precision(asked, recipe.encoder, device.type),
        frontend=frontend.to(device).eval().requires_grad_(False),
        encoder=encoder.to(device).eval().requires_grad_(False),
        digest=digest,
    )


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
