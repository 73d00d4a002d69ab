"""The downstream tasks: one file each, listed in one table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from d2v.tasks.base import Answer, Task
from d2v.tasks.classify import Classify, ClassifySettings
from d2v.tasks.ctc import Ctc
from d2v.tasks.ctc_model import CtcSettings
from d2v.tasks.model import Outputs, TaskModel
from d2v.tasks.reader import TaskReader
from d2v.tasks.regress import Regress, RegressSettings

TaskSettings = Annotated[
    ClassifySettings | RegressSettings | CtcSettings, Field(discriminator="name")
]
"""The `finetune.task` section of a recipe; `name` picks the row."""

TASKS: dict[str, type[Classify] | type[Regress] | type[Ctc]] = {
    "classify": Classify,
    "regress": Regress,
    "ctc": Ctc,
}
"""name -> class."""


def build_task(settings: TaskSettings, about: Mapping[str, Any]) -> Task:
    """The task that once answered `Task.about` so. Raises KeyError where that says too little."""
    if isinstance(settings, ClassifySettings):
        return Classify(settings, tuple(map(str, about["classes"])))
    if isinstance(settings, CtcSettings):
        return Ctc(settings, tuple(map(str, about["symbols"])))
    return Regress(settings)


def best_reading(task: Task, folder: Path) -> Task:
    """The task that reads outputs with what `Task.fit_readings` left in a folder."""
    return task.with_language_model(folder) if isinstance(task, Ctc) else task


__all__ = [
    "TASKS",
    "Answer",
    "Classify",
    "ClassifySettings",
    "Ctc",
    "CtcSettings",
    "Outputs",
    "Regress",
    "RegressSettings",
    "Task",
    "TaskModel",
    "TaskReader",
    "TaskSettings",
    "best_reading",
    "build_task",
]
