"""`d2v pretrain`: shards to an encoder."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from d2v.build import build_objective, check_samples, fitting_checkpoint, start_from
from d2v.commands.knn import held_out, knn_score
from d2v.commands.options import Options
from d2v.commands.plan import pretrain_plan, step_flops
from d2v.commands.stage import (
    agree,
    need,
    open_split,
    shards_folder,
    stage_folder,
    this_world,
    working,
)
from d2v.commands.training import calibration_batches, pretrain_reader, problem_writer, training_job
from d2v.config import Loaded
from d2v.core.schedules import Horizon
from d2v.data.loader import TrainLoader
from d2v.data.shards import Shards
from d2v.data2vec import Distillation
from d2v.engine.checkpoint import Checkpoint, load_checkpoint
from d2v.engine.distributed import World
from d2v.engine.job import Job
from d2v.engine.loop import train
from d2v.engine.plots import plot_curves
from d2v.engine.run_directory import RunDirectory
from d2v.engine.signals import StopRequest, stop_requests
from d2v.engine.tracking import read_metrics
from d2v.errors import D2VError
from d2v.hardware import choose_attention, resolve_device
from d2v.modalities import build_modality
from d2v.recipe import PretrainSettings, Recipe
from d2v.report import Report
from d2v.types import Batch


def run(loaded: Loaded[Recipe], options: Options) -> Report:
    """Pre-train, or continue, or say that it is done."""
    recipe = loaded.settings
    settings: PretrainSettings = need(recipe, "pretrain", loaded)
    folder = shards_folder(loaded, options, *recipe.data_set("pretrain"))
    if options.dry_run:
        return _dry_run(loaded, options, settings, folder)
    with stop_requests() as stop, this_world(recipe) as world:
        shards = open_split(recipe, folder, "train")
        inputs = {"data": shards.fingerprint}
        if settings.init_from is not None:
            inputs["init_from"] = _start(recipe, settings.init_from, shards).digest
        held_out(loaded, options, shards)  # refused before anything is emptied or written
        if not world.writes:
            _train(loaded, options, shards, world, stop)
            return Report(headline="")
        with working(loaded, options, "pretrain", inputs) as (stage, done):
            if done is None:
                done = _train_and_report(loaded, options, shards, world, stop, stage)
            else:
                agree(world, finished=True)
            return done


def _start(recipe: Recipe, path: Path, shards: Shards) -> Checkpoint:
    """The checkpoint that the run begins with.

    Raises:
        UsageError: there is none, or one of another architecture or of data unlike these.
    """
    checkpoint = fitting_checkpoint(recipe, path)
    check_samples(recipe, shards, checkpoint.state.get("about", {}), str(checkpoint.path))
    return checkpoint


def _train_and_report(
    loaded: Loaded[Recipe],
    options: Options,
    shards: Shards,
    world: World,
    stop: StopRequest,
    stage: RunDirectory,
) -> Report:
    started = time.perf_counter()
    try:
        figures = _train(loaded, options, shards, world, stop)
    finally:  # a collapse can be looked at too
        rows = read_metrics(stage.path)
        if rows:
            with suppress(OSError):  # a full disk must not hide the error that is under way
                plot_curves(rows, stage.plots / "curves.png", loaded.name)
    assert figures is not None
    seconds = time.perf_counter() - started
    scores = [row["knn"] for row in rows if row.get("knn") is not None]
    bad = int(rows[-1].get("bad_samples") or 0)
    checkpoint = _final_checkpoint(stage, rows[-1]["step"])
    recipe, settings = loaded.settings, need(loaded.settings, "pretrain", loaded)
    report = Report(
        headline=f"Pre-trained {stage.path}",
        columns=["steps", "loss", "target std", "pred. std", "target spread", "kNN", "seconds"],
        rows=[
            [
                f"{checkpoint.step:,}",
                *(f"{figures[name]:.4f}" for name in
                  ("loss", "target_std", "prediction_std", "target_spread")),
                f"{scores[-1]:.3f}" if scores else "-",
                f"{seconds:.0f}",
            ]
        ],
        remarks=[
            f"checkpoint {checkpoint.path}",
            f"curves and masks in {stage.plots}",
            *([f"{bad:,} times an unusable sample was skipped, see {stage.path}/bad_samples.txt"]
              if bad else []),
        ],
    )  # fmt: skip
    stage.finish(
        {
            "figures": figures,
            "checkpoint": checkpoint.path.name,
            "checkpoint_digest": checkpoint.digest,
            "steps": checkpoint.step,
            "seconds_of_this_start": seconds,
            "flops": checkpoint.step * step_flops(recipe, settings, shards.lengths),
            "report": vars(report),
        }
    )
    return report


def _final_checkpoint(stage: RunDirectory, step: int) -> Checkpoint:
    """The checkpoint of the run's last update.

    Raises:
        D2VError: there is none, because an update was not finite and guards only warn.
    """
    path = stage.path / "checkpoints" / f"step-{step:09d}"
    if not path.exists():
        raise D2VError(
            f"The weights of step {step} were not kept: an update on the way was not finite",
            expected="finite losses and gradients to the end",
            remedy="Lower the learning rate, lengthen the warm-up, or use precision float32; "
            "earlier checkpoints are in the same folder.",
        )
    return load_checkpoint(path)


def _train(
    loaded: Loaded[Recipe], options: Options, shards: Shards, world: World, stop: StopRequest
) -> dict[str, float] | None:
    """Build everything and train; None where another process says that it is finished."""
    if agree(world, finished=False):
        return None
    recipe, settings = loaded.settings, need(loaded.settings, "pretrain", loaded)
    folder = stage_folder(loaded, options, "pretrain")

    def objective(horizon: Horizon, precision: str) -> Distillation:
        model = build_objective(recipe, horizon, world)
        choose_attention(model.encoder, world.device.type, precision)
        if settings.init_from is not None:
            start_from(model, recipe, settings.init_from)
        return model

    job = training_job(
        recipe, settings, shards, world, stage="pretrain", folder=folder, objective=objective,
        verbosity=options.verbosity, reader=pretrain_reader(recipe),
    )  # fmt: skip
    if world.writes:
        _show_masks(job, recipe, folder / "plots" / "masks.png")
    assert isinstance(job.objective, Distillation)
    on_problem = problem_writer(folder, world)
    splits = held_out(loaded, options, shards)
    score = None
    if splits is not None:
        score = knn_score(recipe, splits, job.objective, world, on_problem)
    begin = None
    if settings.init_from is None:  # else the other run's figures came with its weights
        begin = partial(_calibrate, job.objective, calibration_batches(recipe, shards))
    return train(replace(job, evaluate=score, begin=begin), stop)


def _calibrate(model: Distillation, batches: Iterable[Batch]) -> None:
    """Figures of the training data for the frontend, in student and teacher."""
    model.frontend.calibrate(batches)
    model.copy_student_to_teacher()


def _show_masks(job: Job, recipe: Recipe, path: Path) -> None:
    """The first batch with its masks as a picture, once."""
    if not path.exists():
        assert isinstance(job.data, TrainLoader)
        path.parent.mkdir(exist_ok=True)
        batch, mask = next(job.data.iterate(0, in_this_process=True))
        assert mask is not None
        times = len(mask.predict) // len(batch)  # several masks a sample, side by side
        seen = Batch(
            inputs=batch.inputs.repeat_interleave(times, dim=0),
            padding=None if batch.padding is None else batch.padding.repeat_interleave(times, 0),
        )
        build_modality(recipe.modality).show_masks(seen, mask, path)


def _dry_run(
    loaded: Loaded[Recipe], options: Options, settings: PretrainSettings, folder: Path
) -> Report:
    recipe = loaded.settings
    prepared = (folder / "train" / "index.json").exists()
    lengths = Shards.open(folder / "train").lengths if prepared else None
    device = resolve_device(recipe)
    return Report(
        headline=f"Plan of pretrain {loaded.name} on {device} (nothing is written)",
        text=pretrain_plan(recipe, settings, options, lengths),
    )
