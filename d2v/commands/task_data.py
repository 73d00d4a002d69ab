"""The splits of a fine-tuning and the task that they pose."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from d2v.build import check_samples, fitting_checkpoint
from d2v.commands.options import Options
from d2v.commands.stage import open_split, open_splits, shards_folder, stage_folder
from d2v.commands.task_checks import check_classes, no_labels
from d2v.config import Loaded
from d2v.data.amounts import ALL
from d2v.data.index import Ints
from d2v.data.shards import Shards
from d2v.data.subsets import subset_numbers
from d2v.engine.checkpoint import Checkpoint
from d2v.errors import BadSampleError, D2VError, UsageError
from d2v.modalities import build_modality
from d2v.recipe import TESTS, FinetuneSettings, Recipe
from d2v.tasks import Classify, ClassifySettings, Ctc, Regress, RegressSettings, Task


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """What is learned, from what, and what it is scored on.

    Args:
        task: what the labels mean.
        folder: of the set, where its subsets are listed.
        train: its labelled samples; so are `val` and `test`.
        whole_train: the split that these are taken from.
        train_numbers: their places in it.
        val: picks checkpoints and learning rates.
        test: scored once at the end; None where there is none with labels.
        tests: further ones, by name.
        remarks: what a person should know of the data.
    """

    task: Task
    folder: Path
    train: Shards
    whole_train: Shards
    train_numbers: Ints
    val: Shards
    test: Shards | None = None
    tests: dict[str, Shards] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def train_subset(self, name: str) -> Shards:
        """The labelled training samples of a subset.

        Raises:
            UsageError: there is no such subset, or it holds no label.
        """
        if name == ALL:
            return self.train
        named = subset_numbers(self.folder, name, self.whole_train)
        chosen = np.intersect1d(named, self.train_numbers)
        if len(chosen) == 0:
            raise UsageError(
                f"Subset {name} of {self.train.folder} holds no labelled sample",
                remedy="Raise its amount in prepare.subsets, and run d2v prepare again.",
            )
        return self.whole_train.select(chosen)

    def inputs(self, subsets: Iterable[str]) -> dict[str, Any]:
        """What of the data decides the result: classes, and fingerprints of splits and subsets."""
        named = {"train": self.train, "val": self.val, "test": self.test, **self.tests}
        found = {name: shards.fingerprint for name, shards in named.items() if shards is not None}
        for name in set(subsets) - {ALL}:
            shards = self.train_subset(name)
            keys = "\n".join(shards.key(i) for i in range(len(shards)))
            found[f"subset {name}"] = hashlib.sha256(keys.encode()).hexdigest()
        classes = {"number of classes": len(self.train.classes)} if self.train.classes else {}
        return {**classes, **found}


def open_task_data(loaded: Loaded[Recipe], options: Options) -> TaskData:
    """Open and check everything that fine-tuning reads.

    Raises:
        UsageError: no val, no labels, classes that training never sees.
    """
    recipe = loaded.settings
    settings = recipe.finetune
    assert settings is not None
    folder = shards_folder(loaded, options, *recipe.data_set("finetune"))
    splits = open_splits(recipe, folder, "fine-tuning chooses its checkpoint on val")
    task = task_of(settings, splits["train"], folder)
    tests = {
        name: open_split(recipe, shards_folder(loaded, options, f"{TESTS}{name}", data), "test")
        for name, data in recipe.data.tests.items()
    }
    remarks = []
    chosen = {}
    for name, shards in (splits | tests).items():
        numbers = labelled(task, shards)
        chosen[name] = shards.select(numbers)
        if len(numbers) == 0 and name in ("train", "val"):
            raise no_labels(shards, task)
        if len(numbers) == 0:
            remarks.append(f"{name} has no labels and is not scored; d2v predict labels it.")
    train_numbers, told = _learnable(recipe, task, splits["train"], labelled(task, splits["train"]))
    chosen["train"] = splits["train"].select(train_numbers)
    remarks += told
    if isinstance(task, Classify):
        check_classes(chosen, task.settings)
        classes = chosen["train"].classes
        chosen = {name: shards.relabelled(classes) for name, shards in chosen.items()}
    data = TaskData(
        task=task, folder=folder, train=chosen["train"], whole_train=splits["train"],
        train_numbers=train_numbers, val=chosen["val"],
        test=chosen["test"] if "test" in chosen and len(chosen["test"]) else None,
        tests={name: chosen[name] for name in tests if len(chosen[name])},
        remarks=remarks,
    )  # fmt: skip
    for name in settings.subset:
        data.train_subset(name)
    return data


def task_of(settings: FinetuneSettings, train: Shards, folder: Path) -> Task:
    """The task that the settings name, on these data."""
    if isinstance(settings.task, ClassifySettings):
        return Classify(settings.task, tuple(train.classes))
    if isinstance(settings.task, RegressSettings):
        return Regress(settings.task)
    return Ctc.of_data(settings.task, folder)


def labelled(task: Task, shards: Shards) -> Ints:
    """Places of the samples that the task can learn from or be scored on, ascending."""
    if task.needs_member is not None:
        return shards.having(task.needs_member)
    places: Ints = np.flatnonzero(shards.labels >= 0)
    return places


def _learnable(recipe: Recipe, task: Task, train: Shards, numbers: Ints) -> tuple[Ints, list[str]]:
    """The labelled training samples without those that cannot be learned from, and a remark.

    Raises:
        D2VError: there are too many of these; names the first.
    """
    if not task.target_members:
        return numbers, []
    modality = build_modality(recipe.modality)
    good, problems = [], []
    for number in numbers.tolist():
        num_tokens = modality.num_tokens(int(train.lengths[number]))
        try:
            target = task.target(train.read(number, only=task.target_members))
            problem = "no label" if target is None else task.problem(target, num_tokens)
        except BadSampleError as error:
            problem = str(error)
        if problem is None:
            good.append(number)
        else:
            problems.append(f"{train.source(number)}: {problem}")
    if not problems:
        return numbers, []
    text = f"{len(problems)} of {len(numbers)} training samples cannot be learned from, such as "
    text += problems[0]
    if not good or len(problems) > recipe.data.max_bad_fraction * len(numbers):
        raise D2VError(
            text,
            expected=f"at most {recipe.data.max_bad_fraction * len(numbers):g} "
            "(data.max_bad_fraction)",
            remedy="Mend these labels or leave the samples out of the source, then run d2v prepare "
            "with --fresh; or raise the limit.",
        )
    return np.array(good, np.int64), [f"{text}. They are left out."]


def start_checkpoint(
    loaded: Loaded[Recipe], options: Options, recipe: Recipe, data: TaskData
) -> Checkpoint | None:
    """Where the encoder comes from; None where every trial starts from scratch.

    Args:
        loaded: the recipe.
        options: where its runs lie.
        recipe: as it is while fine-tuning.
        data: what the weights are to read.

    Raises:
        UsageError: there is none, or one of another architecture or of data unlike these.
    """
    settings = recipe.finetune
    assert settings is not None
    if "pretrained" not in settings.init:
        return None
    named = settings.checkpoint
    if named is None and recipe.pretrain is not None:
        named = recipe.pretrain.checkpoint
    # The recipe as it is outside of fine-tuning: that may give the input other figures (reference
    # P11), which are no other architecture.
    place = named or stage_folder(loaded, options, "pretrain")
    checkpoint = fitting_checkpoint(loaded.settings, place)
    trained = checkpoint.state.get("about", {})
    for shards in (data.train, data.val, data.test, *data.tests.values()):
        if shards is not None:
            check_samples(recipe, shards, trained, str(checkpoint.path))
    return _student_of(checkpoint)


def _student_of(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint without teacher and optimiser, which fill three quarters of it.

    It stays in memory as long as anything is trained.
    """
    network = {
        name: tensor
        for name, tensor in checkpoint.tensors["model"].items()
        if name.startswith(("frontend.", "encoder."))
    }
    return replace(checkpoint, tensors={"model": network})
