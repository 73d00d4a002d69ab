"""The modules of another library's model with its weights in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from d2v.core.decoder import Decoder
from d2v.core.encoder import Encoder
from d2v.core.seeding import generator_for
from d2v.data2vec import build_head
from d2v.data2vec2 import Data2Vec2Settings
from d2v.errors import UsageError
from d2v.exchange.account import TEACHER, Accounted, account
from d2v.exchange.foreign import Foreign
from d2v.modalities import build_modality
from d2v.recipe import Recipe
from d2v.tasks import Task, TaskModel, build_task
from d2v.types import Frontend


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """A model, built and filled.

    Args:
        parts: frontend, encoder and, where the source has one, head (the task's, or the one that
            pre-training regresses with).
        model: of the task, made of these parts; None without one.
        task: likewise.
        accounted: where every tensor went.
    """

    parts: dict[str, nn.Module]
    model: TaskModel | None
    task: Task | None
    accounted: Accounted

    @property
    def num_parameters(self) -> int:
        """Learned numbers of the student, head included."""
        return sum(one.numel() for part in self.parts.values() for one in part.parameters())

    def checkpoint_tensors(self) -> dict[str, Tensor]:
        """As pre-training names them: a task's head stays behind, the teacher comes along."""
        kept = {
            f"{part}.{name}": tensor
            for part, module in self.parts.items()
            if part != "head" or self.task is None
            for name, tensor in module.state_dict().items()
        }
        teacher = self.accounted.teacher
        if teacher is not None:
            kept |= {name: tensor.float() for name, tensor in teacher.tensors.items()}
            # What the source has none of, the teacher has from the student.
            kept |= {name: kept[name.removeprefix(TEACHER)].clone() for name in teacher.anew}
        return kept


@torch.no_grad()
def assembled(foreign: Foreign, recipe: Recipe, place: str) -> Assembled:
    """Build the modules and put the source's weights in; what it has none of is drawn.

    Drawing takes longer than all else, so it is done only of the part where something is missing,
    frontend or encoder, from the recipe's seed, as a training begins.

    Args:
        foreign: the source.
        recipe: its settings (`recipe_of`).
        place: names the source, for errors.

    Raises:
        UsageError: a tensor is missing, of another shape, or known to nobody.
    """
    _check_size(foreign, recipe, place)
    frontend = build_modality(recipe.modality).build_frontend(recipe.encoder)
    encoder = Encoder(recipe.encoder)
    parts: dict[str, nn.Module] = {"frontend": frontend, "encoder": encoder}
    model = task = None
    if recipe.finetune is not None:
        task = build_task(recipe.finetune.task, foreign.about or {})
        model = task.build(frontend, encoder)
        parts["head"] = model.head
    elif any(link.ours.startswith("head.") for link in foreign.layout.links):
        parts["head"] = _regression_head(recipe, frontend)
    accounted = account(foreign, parts, place)
    anew = accounted.student.anew
    missing = {name.partition(".")[0] for name in anew}
    generator = generator_for("weights", recipe.seed)
    if "frontend" in missing:
        frontend.initialise(generator)
    if "encoder" in missing:
        encoder.initialise(generator)
    if isinstance(recipe.objective, Data2Vec2Settings) and "frontend.mask_token" in anew:
        frontend.get_parameter("mask_token").zero_()  # as 2.0 starts it: nothing trains it there
    _fill(parts, accounted.student.tensors)
    if model is not None:
        model.copy_to_average()
    return Assembled(parts=parts, model=model, task=task, accounted=accounted)


def _check_size(foreign: Foreign, recipe: Recipe, place: str) -> None:
    """Refuse settings of a model that the file cannot hold, before anything of its size is made."""
    e = recipe.encoder
    wanted = e.depth * e.dim**2 * (4 + 2 * e.mlp_ratio)  # matrices of the blocks alone
    found = sum(tensor.numel() for tensor in foreign.tensors.values())
    if wanted > found:
        raise UsageError(
            f"The settings of {place} ask for {e.depth:,} blocks of width {e.dim:,}, which are "
            f"{wanted:,.0f} numbers, and it holds {found:,}",
            expected="settings that belong to the tensors",
            remedy="Check that the file is whole and that its settings belong to it.",
        )


def _regression_head(recipe: Recipe, frontend: Frontend) -> nn.Module:
    """What pre-training predicts with."""
    settings, dim = recipe.objective, recipe.encoder.dim
    if isinstance(settings, Data2Vec2Settings):
        return Decoder(settings.decoder, dim, frontend.grid)
    return build_head(dim, settings.head_layers)


def _fill(parts: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]) -> None:
    """Put tensors into modules; what there is none of stays as it was drawn."""
    for part, module in parts.items():
        for name, kept in module.state_dict().items():
            if (tensor := tensors.get(f"{part}.{name}")) is not None:
                kept.copy_(tensor)
