"""Tiny fine-tuned models of every modality and task, with weights drawn from a seed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from d2v.core.encoder import Encoder
from d2v.core.seeding import generator_for
from d2v.modalities import Modality, build_modality
from d2v.model_folder import save_model
from d2v.recipe import Recipe
from d2v.tasks import Task, TaskModel, TaskSettings, build_task
from d2v.types import Batch
from tests.modality_cases import CASES, Case

ENCODER = {"dim": 16, "depth": 2, "num_heads": 2, "init_std": 0.25, "attention_dropout": 0.0,
           "drop_path": 0.0, "layer_scale": None}  # fmt: skip
SYMBOLS = ("<s>", "<pad>", "</s>", "<unk>", "|", "A", "B", "C")
ABOUT: dict[str, dict[str, Any]] = {
    "classify": {"classes": ["cat", "dog", "owl"]},
    "regress": {},
    "ctc": {"symbols": list(SYMBOLS)},
}
"""Task -> what it says of its outputs."""
PAIRS = [
    (case, task)
    for case in CASES
    for task in ABOUT
    if task != "ctc" or case.settings["name"] == "speech"
]
"""Every modality with every task that it can have."""
BY_NAME = {case.name: case for case in CASES}


@dataclass(frozen=True, kw_only=True)
class Made:
    """A model before it is saved, and everything that goes with it."""

    model: TaskModel
    task: Task
    recipe: Recipe
    modality: Modality
    learned: Path

    def save(self, folder: Path, readings: Path | None = None) -> Path:
        save_model(
            folder, self.model, self.task, self.recipe, figures={"accuracy": 0.5},
            learned=self.learned, readings=readings,
        )  # fmt: skip
        return folder

    def answer(self, case: Case) -> torch.Tensor:
        """What the model says of the case's samples."""
        return self.model.predict(batch_of(self.modality, case)).values


def make(
    case: Case,
    task: str,
    learned: Path,
    *,
    data: dict[str, Any] | None = None,
    seed: int = 0,
    modality: dict[str, Any] | None = None,
    **settings: Any,
) -> Made:
    """A model with arbitrary weights; `settings` are the task's, `modality` changes the case's."""
    recipe = Recipe.model_validate({
        "name": "tiny",
        "modality": case.settings,
        "encoder": ENCODER,
        "objective": {"top_k": 2},
        "data": data or {},
        "finetune": {"task": {"name": task, **settings}, "modality": modality or {},
                     "precision": "float32"},
    }).while_finetuning()  # fmt: skip
    learned.mkdir(parents=True, exist_ok=True)
    build_modality(recipe.modality).learn(case.items, learned)
    own = build_modality(recipe.modality, learned)
    checked: TaskSettings = TypeAdapter[TaskSettings](TaskSettings).validate_python(
        {"name": task, **settings}
    )
    built = build_task(checked, ABOUT[task])
    model = built.build(own.build_frontend(recipe.encoder), Encoder(recipe.encoder))
    model.initialise(generator_for("model case", seed))
    for part in model.kept_parts().values():
        shake(part, seed)
    return Made(model=model.eval(), task=built, recipe=recipe, modality=own, learned=learned)


@torch.no_grad()
def shake(module: torch.nn.Module, seed: int = 0) -> None:
    """No weight or figure of the data is what a fresh module has."""
    generator = generator_for("shake", seed)
    for tensor in module.state_dict().values():  # other buffers follow from settings
        if tensor.is_floating_point():
            tensor.add_(torch.rand(tensor.shape, generator=generator) * 0.3)


def batch_of(modality: Modality, case: Case) -> Batch:
    return modality.collate([
        modality.decode(sample.members, None)
        for item in case.items()
        for sample in modality.encode(item)
    ])  # fmt: skip
