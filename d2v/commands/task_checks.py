"""What is wrong with the labels of a fine-tuning, in a person's words."""

from __future__ import annotations

import numpy as np

from d2v.data.shards import Shards
from d2v.errors import UsageError
from d2v.tasks import ClassifySettings, Task
from d2v.types import NUMBER, TRANSCRIPT


def check_classes(splits: dict[str, Shards], settings: ClassifySettings) -> None:
    """At least two, none that training never sees, and as many as the score is made for.

    Args:
        splits: labelled samples by the split's name, `train` among them.
        settings: of the task.

    Raises:
        UsageError: says what is wrong.
    """
    train = splits["train"]
    if settings.score != "accuracy" and len(train.classes) != 2:
        raise UsageError(
            f"finetune.task.score is {settings.score}, and {train.folder} has "
            f"{len(train.classes)} classes",
            expected="two classes",
            remedy="Set finetune.task.score=accuracy.",
        )
    known = {train.classes[label] for label in np.unique(train.labels)}
    if len(known) < 2:
        raise UsageError(
            f"{train.folder} has one class only ({', '.join(sorted(known))}): there is nothing to "
            "tell apart",
            expected="samples of at least two classes in train",
        )
    for name, shards in splits.items():
        found = {shards.classes[label] for label in np.unique(shards.labels)}
        if strange := sorted(found - known):
            more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
            raise UsageError(
                f"{shards.folder} has classes that train has not: {', '.join(strange[:3])}{more}",
                expected=f"every class of {name} among those of train",
                remedy="Mend the labels, or add training samples of these classes; then run d2v "
                "prepare with --fresh.",
            )


def no_labels(shards: Shards, task: Task) -> UsageError:
    """What to say of a split in which the task finds nothing to learn or to score."""
    what = {None: "class labels", TRANSCRIPT: "transcripts", NUMBER: "numbers as labels"}
    return UsageError(
        f"{shards.folder} has no {what[task.needs_member]}",
        expected="samples with labels in train and val",
        remedy="Name the column with them (data.label_column, data.transcript_column; "
        "data.label_kind=number for numbers), or choose another finetune.task.",
    )
