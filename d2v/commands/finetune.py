"""`d2v finetune`: an encoder to a model of a task, and its score."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2v.commands.all_trials import train_all
from d2v.commands.baselines import baseline_cells
from d2v.commands.finetune_plan import finetune_plan
from d2v.commands.finetune_table import Cell, finetune_report
from d2v.commands.learned import kept_learned
from d2v.commands.options import Options
from d2v.commands.scoring import figures_of
from d2v.commands.stage import (
    LEARNED,
    about_weights,
    agree,
    need,
    stage_folder,
    this_world,
    working,
)
from d2v.commands.task_data import open_task_data, start_checkpoint
from d2v.commands.trials import (
    Trainer,
    Trial,
    best_rates,
    kept_cell,
    known_or_least,
    trials_of,
)
from d2v.config import Loaded
from d2v.engine.checkpoint import Checkpoint
from d2v.engine.run_directory import RunDirectory
from d2v.engine.signals import StopRequest, stop_requests
from d2v.errors import InterruptedRunError, StoppedError
from d2v.model_folder import save_model
from d2v.recipe import FinetuneSettings, Recipe
from d2v.report import Report
from d2v.tasks import Answer, Task

TRIALS, MODEL, READINGS = "trials", "model", "readings"
"""Folders below the stage's own."""


def run(loaded: Loaded[Recipe], options: Options) -> Report:
    """Fine-tune, or continue, or say that it is done."""
    settings: FinetuneSettings = need(loaded.settings, "finetune", loaded)
    recipe = loaded.settings.while_finetuning()
    if options.dry_run:
        return finetune_plan(recipe, settings, loaded, options)
    with stop_requests() as stop, this_world(recipe) as world:
        data = open_task_data(loaded, options)
        start = start_checkpoint(loaded, options, recipe, data)
        inputs = data.inputs(settings.subset)
        inputs |= {} if start is None else {"checkpoint": start.digest}
        folder = stage_folder(loaded, options, "finetune")
        trainer = Trainer(
            recipe=recipe, settings=settings, data=data,
            start=start, world=world, folder=folder / TRIALS,
            stop=stop, verbosity=options.verbosity,
        )  # fmt: skip
        trainer.check()
        if not world.writes:
            train_all(trainer)
            return Report(headline="")
        with working(loaded, options, "finetune", inputs) as (stage, done):
            if done is not None:
                agree(world, finished=True)
                return done
            return _train_and_report(trainer, loaded, options, stage, start)


def check_data(loaded: Loaded[Recipe], options: Options) -> None:
    """Refuse data that fine-tuning could not use.

    Raises:
        UsageError: no val, no labels, classes that training never sees.
    """
    open_task_data(loaded, options)


def _train_and_report(
    trainer: Trainer,
    loaded: Loaded[Recipe],
    options: Options,
    stage: RunDirectory,
    start: Checkpoint | None,
) -> Report:
    started = time.perf_counter()
    trained = train_all(trainer)
    val_scores = trained.val
    trials = trials_of(trainer.recipe, trainer.settings)
    rates = best_rates(trained.candidates(trials), val_scores)
    chosen: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        if rates[trial.cell] == trial.learning_rate:
            chosen.setdefault(trial.cell, []).append(trial)
    cells, kept = [], None
    for cell, group in chosen.items():
        asked = {}
        for trial in group:
            _heed(trainer.stop)
            asked[trial.name] = _ask(trainer, trial, stage.path)
        cells.append(_scored(trainer, group, asked, val_scores))
        if cell == kept_cell(trainer.settings):
            best = max(group, key=lambda trial: known_or_least(val_scores[trial.name]))
            kept = _Kept(trial=best, asked=asked[best.name], figures=cells[-1].as_json())
    assert kept is not None
    cells += baseline_cells(trainer)
    remarks = _keep(trainer, kept, loaded, options, stage)
    seconds = time.perf_counter() - started
    report = finetune_report(cells, trainer.data, trainer.settings, seconds)
    report.remarks.extend([*trained.remarks, *remarks])
    if start is not None:
        report.remarks.extend(about_weights(start, loaded, options))
    stage.finish(
        {
            "task": trainer.settings.task.name,
            "main_score": trainer.data.task.main_score,
            "scored_on": "val" if trainer.data.test is None else "test",
            "trials": [
                {**vars(trial), "name": trial.name, "val": val_scores[trial.name]}
                for trial in trials
            ],
            "stopped": trained.stopped,
            "chosen": [cell.as_json() for cell in cells],
            "model": MODEL,
            "seconds_of_this_start": seconds,
            "report": vars(report),
        }
    )
    return report


def _heed(stop: StopRequest) -> None:
    """Stop between two models: everything that was trained is saved."""
    if stop.signal is not None:
        kind = InterruptedRunError if stop.signal == signal.SIGINT else StoppedError
        raise kind("Stopped before the scores", remedy="The same command works them out.")


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """The answers of one model, and the ways to read them."""

    answers: dict[str, list[Answer]]
    readings: dict[str, Task]


def _ask(trainer: Trainer, trial: Trial, folder: Path) -> _Asked:
    """Let the best weights of a trial answer on val, test and further test sets."""
    data, scorer = trainer.data, trainer.scorer()
    model = trainer.best_model(trial)
    splits = {"val": data.val, "test": data.test, **data.tests}
    answers = {
        name: scorer.answers(model, shards) for name, shards in splits.items() if shards is not None
    }
    place = folder / READINGS / trial.name
    place.mkdir(parents=True, exist_ok=True)
    shards = data.train_subset(trial.subset)
    train = (
        data.task.target(shards.read(n, only=data.task.target_members)) for n in range(len(shards))
    )
    found = data.task.fit_readings(train, answers["val"], place)
    if not any(place.iterdir()):
        place.rmdir()
    return _Asked(answers=answers, readings={"": data.task, **found})


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """The trial whose model is handed on."""

    trial: Trial
    asked: _Asked
    figures: dict[str, Any]


def _scored(
    trainer: Trainer,
    trials: list[Trial],
    asked: Mapping[str, _Asked],
    val_scores: Mapping[str, float],
) -> Cell:
    """The chosen trials of one cell, one for each seed, judged on every split."""
    by_seed = [asked[trial.name] for trial in trials]
    scores = {
        reading: {
            split: figures_of(
                [one.readings[reading] for one in by_seed],
                [one.answers[split] for one in by_seed],
                trainer.recipe.seed,
            )
            for split in by_seed[0].answers
        }
        for reading in by_seed[0].readings
    }
    return Cell(
        init=trials[0].init,
        subset=trials[0].subset,
        learning_rate=trials[0].learning_rate,
        seeds=[trial.seed for trial in trials],
        num_train=len(trainer.data.train_subset(trials[0].subset)),
        val=[val_scores[trial.name] for trial in trials],
        scores=scores,
    )


def _keep(
    trainer: Trainer, kept: _Kept, loaded: Loaded[Recipe], options: Options, stage: RunDirectory
) -> list[str]:
    """Write the model folder and what is told of its answers; returns remarks."""
    data = trainer.data
    split, shards = ("val", data.val) if data.test is None else ("test", data.test)
    answers = kept.asked.answers[split]
    task = list(kept.asked.readings.values())[-1]
    sources = [shards.source(answer.sample) for answer in answers]
    remarks = task.report(answers, sources, stage.plots)
    save_model(
        stage.path / MODEL, trainer.best_model(kept.trial), data.task, trainer.recipe,
        learned=kept_learned(
            data.folder, stage_folder(loaded, options, "prepare") / LEARNED, stage.path / LEARNED
        ),
        readings=stage.path / READINGS / kept.trial.name,
        figures=kept.figures,
    )  # fmt: skip
    return [*remarks, f"model in {stage.path / MODEL}: d2v predict {stage.path.parent} INPUT..."]
