"""A fine-tuned model as a folder that stands alone: weights, recipe, task, what the data taught.

model.safetensors   frontend.* encoder.* head.*
recipe.json         the resolved recipe, as it was while fine-tuning
model.json          task, what its outputs mean, figures, hashes of all other files
learned/            what the modality learned from the data (a tokenizer, say)
readings/           what reads the outputs better (a language model, say)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from d2v.core.encoder import Encoder
from d2v.data.results import FILES, SUMMARY
from d2v.engine.checkpoint import write_durably
from d2v.engine.whole_folder import (
    altered_file,
    as_json,
    copy_files,
    file_hashes,
    file_names,
    whole_folder,
)
from d2v.errors import D2VError, UsageError
from d2v.modalities import Modality, build_modality
from d2v.recipe import Recipe
from d2v.tasks import TASKS, Task, TaskModel, TaskSettings, best_reading, build_task

_FORMAT, _VERSION = "d2v-model", 1
_WEIGHTS, _RECIPE, _MANIFEST = "model.safetensors", "recipe.json", "model.json"
_LEARNED, _READINGS = "learned", "readings"
_FINE_TUNE = "Run d2v finetune RECIPE first, or name the folder that it wrote."


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A fine-tuned model, ready to be asked.

    Args:
        model: in eval mode, without gradients, on the CPU.
        task: knows what its outputs mean.
        recipe: as it was while fine-tuning.
        modality: turns raw data into what the model reads.
        figures: how good it was.
        folder: where it was found.
    """

    model: TaskModel
    task: Task
    recipe: Recipe
    modality: Modality
    figures: dict[str, Any]
    folder: Path


def save_model(
    folder: Path,
    model: TaskModel,
    task: Task,
    recipe: Recipe,
    *,
    figures: Mapping[str, Any],
    learned: Path | None = None,
    readings: Path | None = None,
) -> None:
    """Write a model folder; a kill at any moment leaves a whole one or none.

    Args:
        folder: to write; an older one in its place is replaced.
        model: whose kept weights are written, from whatever device.
        task: that it was trained for.
        recipe: as it was while fine-tuning (`Recipe.while_finetuning`).
        figures: how good it is, as JSON.
        learned: folder that `Modality.learn` wrote into, or of prepared splits; what the modality
            wrote there is copied.
        readings: folder that `Task.fit_readings` wrote into; all of it is copied.

    Raises:
        D2VError: the disk is full or not writable; nothing half-written is left.
    """
    assert recipe.finetune is not None
    about = {
        "format": _FORMAT,
        "version": _VERSION,
        "task": recipe.finetune.task.model_dump(mode="json"),
        "about": task.about(),
        "figures": figures,
    }
    try:
        with whole_folder(folder) as partial:
            write_durably(partial / _WEIGHTS, save(_weights(model)))
            write_durably(partial / _RECIPE, as_json(recipe.model_dump(mode="json")))
            if learned is not None:
                copy_files(learned, _learned_names(learned), partial / _LEARNED)
            if readings is not None:
                copy_files(readings, file_names(readings), partial / _READINGS)
            manifest = {**about, "sha256": file_hashes(partial)}
            write_durably(partial / _MANIFEST, as_json(manifest))
    except OSError as error:
        raise D2VError(
            f"The model {folder} could not be written: {error.strerror or error}",
            remedy="Make room or mend the permissions, then start the same command again.",
        ) from error


def load_model(path: Path, *, with_readings: bool = True) -> LoadedModel:
    """The fine-tuned model of a run directory, of its finetune stage, or in a folder by itself.

    Args:
        path: of any of these.
        with_readings: whether outputs are read in the best way there is (with a language model);
            False: in the plain way.

    Raises:
        UsageError: no model there, or one that is damaged, of a newer d2v, or of an unknown task.
    """
    folder = find_model(path)
    manifest = _checked_manifest(folder)
    recipe = _recipe(folder)
    try:
        settings = TypeAdapter[TaskSettings](TaskSettings).validate_python(manifest["task"])
        task = build_task(settings, manifest["about"])
        figures = dict(manifest["figures"])
    except (ValidationError, KeyError, TypeError, ValueError) as error:
        raise _unreadable(folder / _MANIFEST, error) from error
    learned = folder / _LEARNED
    modality = build_modality(recipe.modality, learned if learned.is_dir() else None)
    # The average is what was kept; asking needs no second copy of the weights.
    plain = build_task(settings.model_copy(update={"average": None}), manifest["about"])
    model = plain.build(modality.build_frontend(recipe.encoder), Encoder(recipe.encoder))
    _load_weights(model, folder / _WEIGHTS)
    if with_readings and (folder / _READINGS).is_dir():
        task = best_reading(task, folder / _READINGS)
    return LoadedModel(
        model=model.eval().requires_grad_(False), task=task, recipe=recipe, modality=modality,
        figures=figures, folder=folder,
    )  # fmt: skip


def find_model(path: Path) -> Path:
    """The model folder at or below a path.

    Raises:
        UsageError: there is none; says what there is.
    """
    for folder in (path, path / "model", path / "finetune" / "model"):
        if (folder / _MANIFEST).is_file():
            return folder
    if not path.is_dir():
        kind = "is a file" if path.exists() else "does not exist"
        raise UsageError(
            f"The run {path} {kind}",
            expected="a run directory (runs/NAME) or the model folder in it",
            remedy=_FINE_TUNE,
        )
    found = sorted(child.name + "/" * child.is_dir() for child in path.glob("[!.]*"))
    more = f" and {len(found) - 8} more" if len(found) > 8 else ""
    raise UsageError(
        f"There is no fine-tuned model in {path}; there is "
        + (", ".join(found[:8]) + more if found else "nothing"),
        expected=f"a folder with {_MANIFEST}, or finetune/model/ with it",
        remedy=_FINE_TUNE,
    )


def _checked_manifest(folder: Path) -> dict[str, Any]:
    """What `model.json` says, once every file is what it was. Raises UsageError."""
    path = folder / _MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        kind, version, hashes = manifest["format"], int(manifest["version"]), manifest["sha256"]
        task = str(manifest["task"]["name"])
        hashes = {str(name): str(digest) for name, digest in hashes.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, "it is not the description of a model") from error
    if kind != _FORMAT or version > _VERSION or task not in TASKS:
        raise UsageError(
            f"{folder} is of a newer d2v: format {kind} {version}, task {task}",
            expected=f"format {_FORMAT} up to {_VERSION}, a task out of {', '.join(TASKS)}",
            remedy="Install a newer d2v.",
        )
    if altered := altered_file(folder, hashes):
        raise _damaged(folder / altered[0], altered[1])
    if missing := {_WEIGHTS, _RECIPE} - hashes.keys():
        raise _damaged(path, f"it does not name {', '.join(sorted(missing))}")
    return manifest


def _recipe(folder: Path) -> Recipe:
    try:
        return Recipe.model_validate(json.loads((folder / _RECIPE).read_bytes()))
    except (ValueError, UsageError) as error:
        raise _unreadable(folder / _RECIPE, error) from error


def _learned_names(folder: Path) -> list[str]:
    """All that `learn` wrote; beside prepared splits, what their summary says is the modality's."""
    summary = folder / SUMMARY
    if not summary.is_file():
        return file_names(folder)
    return [str(name) for name in json.loads(summary.read_bytes()).get(FILES, [])]


def _weights(model: TaskModel) -> dict[str, Tensor]:
    return {
        f"{part}.{name}": tensor.detach().cpu().contiguous()
        for part, module in model.kept_parts().items()
        for name, tensor in module.state_dict().items()
    }


def _load_weights(model: TaskModel, path: Path) -> None:
    try:
        tensors = load_file(path)
        model.load_state_dict(tensors)
    except (RuntimeError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def _damaged(path: Path, reason: str) -> UsageError:
    return UsageError(
        f"The model file {path} is damaged: {reason}",
        expected="a model folder as d2v finetune wrote it",
        remedy="Copy the folder again, or start d2v finetune over with --fresh.",
    )


def _unreadable(path: Path, error: Exception) -> UsageError:
    lines = str(error).splitlines() or [type(error).__name__]
    return UsageError(
        f"{path} makes no sense to this d2v: {' '.join(lines[:3])}",
        expected="a model folder of this version",
        remedy="Use the version of d2v that wrote it, or fine-tune again.",
    )
