"""What a fine-tuned model says of a split, and how good that is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from d2v.commands.stage import agree
from d2v.core.intervals import bootstrap_intervals
from d2v.core.seeding import generator_for
from d2v.data.loader import read_split
from d2v.data.shards import Shards
from d2v.engine.distributed import World
from d2v.engine.tracking import read_metrics
from d2v.errors import D2VError, GuardError
from d2v.modalities import Modality
from d2v.tasks import Answer, Task, TaskModel, TaskReader

_MANY = 20_000
"""Samples from which processes that read ahead are worth their start."""
_BATCH = 64
"""Samples that are answered at once, where the modality sets no smaller limit."""


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Asks models about splits.

    Args:
        modality: decodes the samples.
        task: knows what is true of them.
        device: of the model.
        precision: that the model computes in.
        max_bad_fraction: share of unusable samples that is tolerated.
        num_workers: processes that read ahead, where there are many samples.
    """

    modality: Modality
    task: Task
    device: torch.device
    precision: Literal["float32", "bfloat16"]
    max_bad_fraction: float
    num_workers: int = 0

    def answers(self, model: TaskModel, shards: Shards) -> list[Answer]:
        """One answer a usable sample, in stored order.

        Raises:
            D2VError: too many samples cannot be used.
        """
        unit = self.modality.length_unit
        limit = None if unit.at_once is None else max(1, round(unit.at_once * unit.size))
        longest_first = np.argsort(-shards.lengths, kind="stable")
        found: list[Answer] = []
        for batch in read_split(
            shards, TaskReader(self.modality, self.task), batch_size=_BATCH,
            batch_length=limit, numbers=longest_first,
            num_workers=self.num_workers if len(shards) > _MANY else 0,
        ):  # fmt: skip
            assert batch.samples is not None
            half = self.precision == "bfloat16"
            with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
                outputs = model.predict(batch.to(self.device))
            found += [
                Answer(sample=sample, output=output.clone(), target=truth)
                for sample, output, truth in zip(
                    batch.samples.tolist(), outputs.rows(), self.task.truths(batch), strict=True
                )
            ]
        self._check_usable(len(found), shards)
        return sorted(found, key=lambda answer: answer.sample)

    def during_training(
        self, model: TaskModel, val: Shards, folder: Path, world: World
    ) -> Callable[[], dict[str, float]]:
        """The task's figures on val, for the loop; the first one picks the best checkpoint.

        What is returned raises GuardError in every process where the task stops the training.
        """

        def score() -> dict[str, float]:
            figures: dict[str, float] = {}
            problem = None
            if world.writes:  # rank 0 alone writes checkpoints
                figures = self.task.score(self.answers(model, val))
                try:
                    self.task.check_scores([*read_metrics(folder), figures])
                except GuardError as error:
                    problem = error
            if agree(world, finished=problem is not None):  # all go on together, or none
                raise problem or GuardError("A guard of the first process stopped the training")
            return figures

        return score

    def _check_usable(self, usable: int, shards: Shards) -> None:
        missing = len(shards) - usable
        if missing > self.max_bad_fraction * len(shards) or not usable:
            raise D2VError(
                f"{missing} of {len(shards)} samples in {shards.folder} cannot be used",
                expected=f"at most {self.max_bad_fraction * len(shards):g} (data.max_bad_fraction)",
                remedy="Run `d2v prepare RECIPE --check`, mend the data, or raise the limit.",
            )


def figures_of(
    tasks: Sequence[Task], by_seed: Sequence[Sequence[Answer]], seed: int
) -> dict[str, Any]:
    """Figures of one split over the models of some seeds, as JSON.

    Args:
        tasks: judge the answers, one for each model.
        by_seed: the answers of each model, all about the same samples.
        seed: of the bootstrap's draws.

    Returns:
        `figures` (mean over the seeds), `std` over them (none for a single one), `interval`: the 95
        % bootstrap interval of the mean over samples, `samples`.
    """
    known = [[answer for answer in answers if answer.target is not None] for answers in by_seed]
    judges = [task.judge(answers) for task, answers in zip(tasks, known, strict=True)]
    count = len(known[0])
    each = [judge(np.arange(count)) for judge in judges]
    names = list(each[0])

    def means(places: NDArray[np.int64]) -> dict[str, float]:
        rows = [judge(places) for judge in judges]
        return {name: float(np.mean([row[name] for row in rows])) for name in names[:_JUDGED]}

    interval = bootstrap_intervals(means, count, generator_for("bootstrap", seed))
    return {
        "figures": {name: float(np.mean([one[name] for one in each])) for name in names},
        "std": {
            name: float(np.std([one[name] for one in each], ddof=1)) if len(each) > 1 else None
            for name in names
        },
        "interval": {
            name: list(ends) for name, ends in interval.items() if all(map(math.isfinite, ends))
        },
        "samples": count,
    }


_JUDGED = 3
"""Figures that get an interval: the first ones."""
