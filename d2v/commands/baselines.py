"""What a classifier on features without training reaches with the same labels."""

from __future__ import annotations

from functools import partial

import numpy as np
from torch import Tensor

from d2v.commands.finetune_table import Cell
from d2v.commands.scoring import figures_of
from d2v.commands.trials import Trainer
from d2v.core.classifiers import fit_logistic
from d2v.core.probing import FeatureSet, ProbeSettings, to_unit_scale
from d2v.data.loader import read_split
from d2v.extract import extract
from d2v.modalities import Features, build_modality
from d2v.tasks import Answer, Classify

_BATCH = 64


def baseline_cells(trainer: Trainer) -> list[Cell]:
    """One cell for each kind of features and subset of the labels; none where they are not wanted.

    Logistic regression, its penalty chosen on val by the task's main score.
    """
    if not trainer.settings.baselines:
        return []
    modality, cells = build_modality(trainer.recipe.modality), []
    for subset in trainer.settings.subset:
        train = trainer.data.train_subset(subset)
        functions = modality.baselines(partial(read_split, train, modality, batch_size=_BATCH))
        cells += [_cell(trainer, subset, name, function) for name, function in functions.items()]
    return cells


def _cell(trainer: Trainer, subset: str, name: str, function: Features) -> Cell:
    data, task = trainer.data, trainer.data.task
    assert isinstance(task, Classify)
    splits = {"train": data.train_subset(subset), "val": data.val, "test": data.test, **data.tests}
    modality = build_modality(trainer.recipe.modality)
    found = {
        split: extract(
            shards, modality, function, batch_size=_BATCH,
            max_bad_fraction=trainer.recipe.data.max_bad_fraction,
        )
        for split, shards in splits.items() if shards is not None
    }  # fmt: skip
    parts = dict(zip(found, to_unit_scale(*found.values()), strict=True))
    train = parts.pop("train")
    grid = ProbeSettings().l2_grid
    fitted = fit_logistic(
        train.features, train.labels, num_classes=len(task.classes),
        penalties=[l2 * len(train.labels) for l2 in grid],
    )  # fmt: skip
    answers = [
        {split: _answers(part, one.scores(part.features)) for split, part in parts.items()}
        for one in fitted
    ]
    on_val = [task.score(each["val"])[task.main_score] for each in answers]
    best = int(np.argmax(on_val))  # the first of equals
    return Cell(
        init=name,
        subset=subset,
        learning_rate=None,
        seeds=[],
        num_train=len(train.labels),
        val=[on_val[best]],
        scores={
            "": {
                split: figures_of([task], [said], trainer.recipe.seed)
                for split, said in answers[best].items()
            }
        },
    )


def _answers(part: FeatureSet, scores: Tensor) -> list[Answer]:
    """(N, C) logits beside what is true."""
    return [
        Answer(sample=number, output=row, target=label)
        for number, (row, label) in enumerate(zip(scores, part.labels.tolist(), strict=True))
    ]
