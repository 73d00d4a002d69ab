"""Proves: figures over seeds are means, with intervals of few looks at the answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn import metrics

from d2v.commands.scoring import figures_of
from d2v.core.intervals import bootstrap_intervals
from d2v.core.seeding import generator_for
from d2v.tasks import Answer, Classify, ClassifySettings
from d2v.tasks.base import Judge

CLASSES = tuple("abcdefgh")


@dataclass(frozen=True)
class Counted(Classify):
    """A task that counts how often its answers are looked at."""

    looks: list[int] = field(default_factory=list)

    def judge(self, answers: Sequence[Answer]) -> Judge:
        inner = super().judge(answers)

        def figures(places: NDArray[np.int64]) -> dict[str, float]:
            self.looks.append(len(places))
            return inner(places)

        return figures


def said(seed: int, count: int = 40) -> list[Answer]:
    """Answers of which some are right; the truth is the same for every seed."""
    generator = torch.Generator().manual_seed(seed)
    return [
        Answer(
            sample=number,
            output=torch.randn(len(CLASSES), generator=generator)
            + 2 * torch.eye(len(CLASSES))[number % 8],
            target=number % 8,
        )
        for number in range(count)
    ]


def task() -> Counted:
    return Counted(ClassifySettings(name="classify"), CLASSES)


def test_figures__are_means_over_seeds_with_intervals_of_the_mean() -> None:
    by_seed, judges = [said(0), said(1)], [task(), task()]
    found = figures_of(judges, by_seed, 3)
    each = [one.score(answers) for one, answers in zip(judges, by_seed, strict=True)]
    for name in ("accuracy", "macro_f1", "top5"):
        values = [one[name] for one in each]
        assert found["figures"][name] == pytest.approx(np.mean(values))
        assert found["std"][name] == pytest.approx(np.std(values, ddof=1))
    right = [[int(one.output.argmax()) == one.target for one in answers] for answers in by_seed]
    mean_right = np.mean(right, axis=0)
    plain = bootstrap_intervals(
        lambda places: {"accuracy": float(mean_right[places].mean())},
        40, generator_for("bootstrap", 3),
    )  # fmt: skip
    assert found["interval"]["accuracy"] == pytest.approx(plain["accuracy"])
    assert found["samples"] == 40


def test_intervals__of_all_figures_look_at_the_answers_a_thousand_times_and_once() -> None:
    one = task()
    figures_of([one], [said(0)], 0)
    assert len(one.looks) == 1001


def test_top5__of_some_places_is_that_of_scikit_learn_there() -> None:
    answers = said(5)
    judge = task().judge(answers)
    generator = np.random.default_rng(0)
    for _ in range(20):
        places = generator.integers(0, len(answers), 23)
        logits = torch.stack([answers[place].output for place in places]).numpy()
        truth = [answers[place].target for place in places]
        expected = metrics.top_k_accuracy_score(truth, logits, k=5, labels=list(range(8)))
        assert judge(places)["top5"] == pytest.approx(expected)
