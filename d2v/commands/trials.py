"""The trials of a fine-tuning: what is tried, and one of them trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal

from d2v.build import load_network
from d2v.commands.batches import figures_of
from d2v.commands.fitted_batch import fitted
from d2v.commands.plan import horizon_of
from d2v.commands.scoring import Scorer
from d2v.commands.stage import spare_workers
from d2v.commands.task_data import TaskData
from d2v.commands.training import calibration_batches, training_job
from d2v.core.encoder import Encoder
from d2v.core.schedules import Horizon
from d2v.core.seeding import generator_for
from d2v.data.shards import Shards
from d2v.engine.checkpoint import Checkpoint
from d2v.engine.distributed import World
from d2v.engine.loop import train
from d2v.engine.plots import plot_curves
from d2v.engine.progress import load_best
from d2v.engine.signals import StopRequest
from d2v.engine.tracking import read_metrics
from d2v.errors import UsageError
from d2v.hardware import choose_attention, resolve_precision
from d2v.modalities import build_modality
from d2v.recipe import FinetuneSettings, Recipe, never_thaws
from d2v.tasks import TaskModel, TaskReader
from d2v.types import Frontend


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of a fine-tuning."""

    init: Literal["pretrained", "scratch"]
    subset: str
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        """Names its folder."""
        return f"{self.init}-{self.subset}-lr{self.learning_rate!r}-seed{self.seed}"

    @property
    def cell(self) -> tuple[str, str]:
        """What is compared: where weights come from, and on how many labels."""
        return self.init, self.subset


def trials_of(recipe: Recipe, settings: FinetuneSettings) -> list[Trial]:
    """Every combination, in the order of the settings."""
    rates = settings.learning_rates or (settings.optimizer.learning_rate,)
    seeds = settings.seeds or (recipe.seed,)
    return [
        Trial(init=init, subset=subset, learning_rate=rate, seed=seed)
        for init, subset, rate, seed in product(settings.init, settings.subset, rates, seeds)
    ]


def kept_cell(settings: FinetuneSettings) -> tuple[str, str]:
    """The cell whose model is handed on: pre-trained, on all labels, where these are tried."""
    init = "pretrained" if "pretrained" in settings.init else settings.init[0]
    return init, "all" if "all" in settings.subset else settings.subset[-1]


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Trains trials, one after the other.

    Args:
        recipe: as it is while fine-tuning.
        settings: its finetune section.
        data: splits and task.
        start: checkpoint of the encoder; None where every trial starts from scratch.
        world: this process among all.
        folder: of the trials.
        stop: set by a signal.
        verbosity: -1 quiet, 0 normal, 1 verbose.
    """

    recipe: Recipe
    settings: FinetuneSettings
    data: TaskData
    start: Checkpoint | None
    world: World
    folder: Path
    stop: StopRequest
    verbosity: int

    def check(self) -> None:
        """Refuse now what a trial would only stumble over when its turn comes.

        Raises:
            UsageError: the batches do not come out, nothing but the head would learn, or the
                weights to start from do not fit.
        """
        unit = build_modality(self.recipe.modality).length_unit
        for subset in self.settings.subset:
            shards = self.data.train_subset(subset)
            settings = fitted(self.settings, shards.lengths, unit, world_size=self.world.size)
            figures = figures_of(settings, shards.lengths, unit, world_size=self.world.size)
            check_thaw(settings, horizon_of(settings, figures.steps_per_epoch))
        for trial in trials_of(self.recipe, self.settings):
            if trial.init == "pretrained":  # one stands for all
                self.fresh_model(trial)
                break

    def train(self, trial: Trial) -> dict[str, float]:
        """Train, or go on where it stopped; returns the last logged figures."""
        recipe = self.recipe.model_copy(update={"seed": trial.seed})
        optimizer = self.settings.optimizer.model_copy(
            update={"learning_rate": trial.learning_rate}
        )
        shards = self.data.train_subset(trial.subset)
        unit = build_modality(recipe.modality).length_unit
        settings = fitted(self.settings, shards.lengths, unit, world_size=self.world.size)
        settings = settings.model_copy(update={"optimizer": optimizer})
        folder = self.folder / trial.name

        def objective(horizon: Horizon, precision: str) -> TaskModel:
            model = self.fresh_model(trial)
            choose_attention(model.encoder, self.world.device.type, precision)
            return model

        job = training_job(
            recipe, settings, shards, self.world, stage=f"finetune {trial.name}", folder=folder,
            objective=objective, verbosity=self.verbosity,
            reader=TaskReader(build_modality(recipe.modality), self.data.task),
        )  # fmt: skip
        model = job.objective
        assert isinstance(model, TaskModel)
        score = self.scorer().during_training(model, self.data.val, folder, self.world)
        job = replace(job, evaluate=score)
        if trial.init == "scratch":
            job = replace(job, begin=_calibration(model, recipe, shards))
        if self.world.writes:
            folder.mkdir(parents=True, exist_ok=True)
        self.world.wait()
        try:
            return train(job, self.stop)
        finally:
            rows = read_metrics(folder)
            if rows and self.world.writes:
                (folder / "plots").mkdir(exist_ok=True)
                plot_curves(rows, folder / "plots" / "curves.png", trial.name)

    def fresh_model(self, trial: Trial) -> TaskModel:
        """The model before its first update."""
        frontend = build_modality(self.recipe.modality).build_frontend(self.recipe.encoder)
        model = self.data.task.build(frontend, Encoder(self.recipe.encoder))
        model.initialise(generator_for("finetune", trial.seed))
        if trial.init == "pretrained":
            assert self.start is not None
            _load(self.start, frontend, model.encoder)
            model.copy_to_average()
        return model

    def best_model(self, trial: Trial) -> TaskModel:
        """The model of the trial's best score on val."""
        model = self.fresh_model(replace(trial, init="scratch"))
        checkpoint = load_best(self.folder / trial.name / "checkpoints")
        model.load_state_dict(checkpoint.tensors["model"])
        return model.to(self.world.device).eval().requires_grad_(False)

    def scorer(self) -> Scorer:
        """Scores in the precision that training computes in."""
        precision = resolve_precision(
            self.settings.precision, self.recipe.encoder, self.world.device.type
        )
        return Scorer(
            modality=build_modality(self.recipe.modality),
            task=self.data.task,
            device=self.world.device,
            precision=precision,
            max_bad_fraction=self.recipe.data.max_bad_fraction,
            num_workers=spare_workers(self.recipe),
        )


def best_rates(
    trials: Iterable[Trial], val_scores: dict[str, float]
) -> dict[tuple[str, str], float]:
    """For each cell the learning rate with the best mean score on val over the seeds.

    Args:
        trials: all of them.
        val_scores: trial's name -> best score on val.
    """
    found: dict[tuple[str, str], dict[float, list[float]]] = {}
    for trial in trials:
        rates = found.setdefault(trial.cell, {})
        rates.setdefault(trial.learning_rate, []).append(val_scores[trial.name])
    return {cell: max(rates, key=lambda rate: _mean(rates[rate])) for cell, rates in found.items()}


def _load(start: Checkpoint, frontend: Frontend, encoder: Encoder) -> None:
    """The student of a checkpoint into the model. Raises UsageError where it does not fit."""
    try:
        load_network(start, frontend, encoder)
    except RuntimeError as error:
        raise UsageError(
            f"The weights of {start.path} do not fit the model: finetune.modality or "
            "finetune.encoder changes its architecture",
            expected="changes there that leave every tensor alone (dropout, masks, augmentation)",
            remedy="Take the setting out of finetune, or set finetune.init=scratch.",
        ) from error


def known_or_least(score: float) -> float:
    """A score to compare; one that nobody could work out (NaN) is worse than any."""
    return -math.inf if math.isnan(score) else score


def check_thaw(settings: FinetuneSettings, horizon: Horizon) -> None:
    """Refuse a training that ends before anything but the head has learned. Raises UsageError."""
    if settings.task.freeze_steps >= max(1, horizon.total_steps):
        length = f"{horizon.total_steps} updates ({settings.steps})"
        raise UsageError(f"finetune: {never_thaws(settings.task.freeze_steps, length)}")


def _mean(values: Sequence[float]) -> float:
    return known_or_least(sum(values) / len(values))


def _calibration(model: TaskModel, recipe: Recipe, shards: Shards) -> Callable[[], None]:
    """Figures of the training data for the frontend of a model that starts from scratch."""

    def begin() -> None:
        model.frontend.calibrate(calibration_batches(recipe, shards))
        model.copy_to_average()

    return begin
