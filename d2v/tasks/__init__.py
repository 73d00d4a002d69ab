"""The downstream tasks: one file each, listed in one table."""

from typing import Annotated

from pydantic import Field

from d2v.tasks.base import Answer, Outputs, Task, TaskModel
from d2v.tasks.classify import Classify, ClassifySettings
from d2v.tasks.ctc import Ctc, CtcSettings
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

__all__ = ["TASKS", "Answer", "Outputs", "Task", "TaskModel", "TaskReader", "TaskSettings"]
