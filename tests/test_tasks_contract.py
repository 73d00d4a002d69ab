"""Proves: every task keeps its promises, on every modality that it can have."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from d2v.core.seeding import generator_for
from d2v.tasks import TASKS, Answer, TaskReader, build_task
from d2v.types import NUMBER, Batch, Mask
from tests.modality_cases import Case
from tests.model_case import ABOUT, PAIRS, Made, make

TRUTHS: dict[str, list[Any]] = {
    "classify": [0, 2, None, 1],
    "regress": [0.25, 1.0, None, 0.5],
    "ctc": ["AB", "C", None, "A BC"],
}
"""What is true of four samples, in the task's own terms."""


@pytest.fixture(name="made", params=PAIRS, ids=lambda pair: f"{pair[0].name}-{pair[1]}")
def made_fixture(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Case, str, Made]:
    case, task = request.param
    return case, task, make(case, task, tmp_path / "learned")


def members(task: str, truth: Any) -> dict[str, bytes]:
    """What a sample's members say of the truth."""
    if task == "classify" or truth is None:
        return {}
    if task == "regress":
        return {NUMBER: repr(truth).encode()}
    return {"txt": truth.encode(), "json": json.dumps({"transcript": truth}).encode()}


def labelled_batch(case: Case, task: str, made: Made) -> Batch:
    """The case's samples, read as the loader reads them."""
    reader = TaskReader(made.modality, made.task)
    stored = [sample for item in case.items() for sample in made.modality.encode(item)][:4]
    truths = TRUTHS[task][: len(stored)]
    examples = [
        reader.decode({**sample.members, **members(task, truth)}, None)
        for sample, truth in zip(stored, truths, strict=True)
    ]
    batch = reader.collate(examples)
    ids = [-1 if task != "classify" or truth is None else truth for truth in truths]
    return Batch(
        inputs=batch.inputs, padding=batch.padding, targets=batch.targets, labels=torch.tensor(ids)
    )


def test_table__has_a_case_for_every_task() -> None:
    assert set(TASKS) == set(ABOUT) == {task for _, task in PAIRS}


def test_truths__are_what_the_members_and_labels_say(made: tuple[Case, str, Made]) -> None:
    case, task, model = made
    batch = labelled_batch(case, task, model)
    assert model.task.truths(batch) == TRUTHS[task][: len(batch)]


def test_loss__counts_known_samples_alone_and_adds_up(made: tuple[Case, str, Made]) -> None:
    case, task, this = made
    model, batch = this.model.eval(), labelled_batch(case, task, this)
    whole = model(batch, None)
    known = [place for place, truth in enumerate(TRUTHS[task][: len(batch)]) if truth is not None]
    assert int(whole.count) == len(known)
    alone = [model(_only(batch, [place]), None) for place in range(len(batch))]
    assert float(whole.total.detach()) == pytest.approx(
        sum(float(one.total.detach()) for one in alone), rel=1e-5
    )
    unknown = [one for place, one in enumerate(alone) if place not in known]
    assert all(int(one.count) == 0 and float(one.total.detach()) == 0 for one in unknown)


def test_training__makes_the_answers_better(made: tuple[Case, str, Made]) -> None:
    case, task, this = made
    batch, model = labelled_batch(case, task, this), this.model
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 3e-3)
    losses = []
    for step in range(30):
        model.before_update(step)
        model.train()
        loss = model(batch, None)
        (loss.total / loss.count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.total.detach()))
        model.after_update(step + 1)
    assert losses[-1] < 0.7 * losses[0]


def test_predict__does_not_depend_on_the_neighbours(made: tuple[Case, str, Made]) -> None:
    case, task, this = made
    model = this.model.eval()
    batch = labelled_batch(case, task, this)
    together = model.predict(batch)
    for place in range(len(batch)):
        alone = model.predict(_only(batch, [place]))
        length = None if together.lengths is None else int(together.lengths[place])
        one = together.values[place][:length] if length is not None else together.values[place]
        own = alone.values[0]
        own = own[: int(alone.lengths[0])] if alone.lengths is not None else own
        torch.testing.assert_close(one, own, atol=2e-5, rtol=2e-5)


def test_score__is_of_known_answers_and_right_ones_are_the_best(
    made: tuple[Case, str, Made],
) -> None:
    _, task, this = made
    truths = TRUTHS[task]
    right = [_perfect(task, truth, this) for truth in truths]
    answers = [
        Answer(sample=place, output=output, target=truth)
        for place, (output, truth) in enumerate(zip(right, truths, strict=True))
    ]
    best = this.task.score(answers)
    assert next(iter(best)) == this.task.main_score
    assert best[this.task.main_score] == pytest.approx(1.0)
    wrong = [
        Answer(sample=a.sample, output=right[0] if task != "regress" else -a.output,
               target=a.target)
        for a in answers
    ]  # fmt: skip
    assert this.task.score(wrong)[this.task.main_score] < 0.9
    assert this.task.score([answers[2]]) == {}  # nothing is known of it


def test_judge__is_about_the_places_it_is_asked_for(made: tuple[Case, str, Made]) -> None:
    _, task, this = made
    known = [truth for truth in TRUTHS[task] if truth is not None]
    outputs = [_perfect(task, truth, this) for truth in known[1:] + known[:1]]
    answers = [
        Answer(sample=n, output=output, target=truth)
        for n, (output, truth) in enumerate(zip(outputs, known, strict=True))
    ]
    judge = this.task.judge(answers)
    places = np.array([2, 0, 0, 1])
    expected = this.task.score([answers[place] for place in places])
    found = judge(places)
    assert found.keys() == expected.keys()
    assert all(
        found[name] == pytest.approx(expected[name], nan_ok=True, abs=1e-9) for name in found
    )


def test_about__is_enough_to_build_the_task_again(made: tuple[Case, str, Made]) -> None:
    _, task, this = made
    about = json.loads(json.dumps(this.task.about()))
    assert this.recipe.finetune is not None
    again = build_task(this.recipe.finetune.task, about)
    assert again == this.task
    assert pickle.loads(pickle.dumps(again)) == this.task  # noqa: S301  # as workers get it
    output = _perfect(task, TRUTHS[task][0], this)
    said = json.loads(json.dumps(again.describe(Answer(sample=0, output=output), 0.02)))
    expected = {"classify": "cat", "regress": 0.25, "ctc": "AB"}[task]
    assert next(iter(said.values())) == expected


def test_mask__is_drawn_where_the_task_asks_for_it_alone(made: tuple[Case, str, Made]) -> None:
    case, task, this = made
    batch = labelled_batch(case, task, this)
    generators = [generator_for("mask", 0, n) for n in range(len(batch))]
    mask = TaskReader(this.modality, this.task).sample_mask(batch, generators)
    assert isinstance(mask, Mask) if this.task.masks_input else mask is None


def _perfect(task: str, truth: Any, made: Made) -> torch.Tensor:
    """The output of a model that knows."""
    if task == "regress":
        return torch.tensor(0.3 if truth is None else truth)
    if task == "classify":
        return 9.0 * torch.nn.functional.one_hot(torch.tensor(truth or 0), 3).float()
    symbols = made.task.about()["symbols"]
    line = [symbols.index("|" if char == " " else char) for char in (truth or "A") + " "]
    frames = [frame for symbol in line for frame in (symbol, symbol, 0)]
    chances = torch.full((len(frames), len(symbols)), 1e-4)
    chances[torch.arange(len(frames)), torch.tensor(frames)] = 1.0
    return (chances / chances.sum(1, keepdim=True)).log()


def _only(batch: Batch, places: list[int]) -> Batch:
    """Some samples as a batch of their own, no longer than they need."""
    padding = None if batch.padding is None else batch.padding[places]
    inputs = batch.inputs[places]
    if padding is not None and inputs.ndim == 2 and inputs.shape == padding.shape:
        longest = int((~padding).sum(1).max())
        inputs, padding = inputs[:, :longest], padding[:, :longest]
    assert batch.labels is not None
    return Batch(
        inputs=inputs,
        padding=padding,
        labels=batch.labels[places],
        targets=None if batch.targets is None else batch.targets[places],
    )
