"""`d2v ablate --dry-run`: the cells, what is done of them, and how long the rest will take."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from d2v.build import build_objective
from d2v.commands.ablate_cells import Cell, Sweep
from d2v.commands.ablate_data import owner_of
from d2v.commands.ablate_live import duration
from d2v.commands.ablate_state import Job, jobs_of, outcomes_of
from d2v.commands.options import Options
from d2v.commands.stage import shards_folder
from d2v.commands.training import pretrain_reader, training_job
from d2v.config import Loaded
from d2v.core.schedules import Horizon
from d2v.data.shards import Shards
from d2v.data2vec import Distillation
from d2v.engine.distributed import World
from d2v.engine.job import MicroBatches
from d2v.engine.loop import train
from d2v.engine.signals import StopRequest
from d2v.errors import StoppedError
from d2v.recipe import Recipe
from d2v.report import Report
from d2v.types import Batch, Mask

_WARM, _TIMED = 3, 8
"""Steps that are done before, and while, the clock runs."""


def ablate_plan(sweep: Sweep, loaded: Loaded[Recipe], options: Options) -> Report:
    """What would be done; nothing is written.

    Args:
        sweep: the cells.
        loaded: the recipe.
        options: `jobs` says how many at once.
    """
    jobs = jobs_of(sweep, loaded, options.out, {})
    outcomes = outcomes_of(jobs, sweep.score)
    left = [job for job in jobs if not outcomes[job.cell.id, job.seed].ended]
    rows = [_row(cell, sweep, [outcomes[cell.id, s].status for s in sweep.settings.seeds])
            for cell in sweep.cells]  # fmt: skip
    seconds = [one.seconds for one in outcomes.values() if one.ended and one.seconds]
    at_once = options.jobs or (len(left) if options.slurm else 1)
    return Report(
        headline=f"Plan of ablate {loaded.name} (nothing is written)",
        columns=["cell", *sweep.cells[0].values, "seeds done"],
        rows=rows,
        remarks=[
            f"{len(sweep.cells)} cells with seeds {', '.join(map(str, sweep.settings.seeds))}: "
            f"{len(jobs)} trainings, {len(jobs) - len(left)} of them done; each does "
            f"{', then '.join(sweep.stages)}, judged by {sweep.score.name}, {at_once} at once",
            _time(left, seconds, at_once, sweep, loaded, options),
        ],
    )


def _row(cell: Cell, sweep: Sweep, statuses: list[str]) -> list[str]:
    done = sum(status in ("done", "collapsed") for status in statuses)
    return [cell.id, *cell.values.values(), f"{done}/{len(statuses)}"]


def _time(
    left: list[Job],
    seconds: list[float],
    at_once: int,
    sweep: Sweep,
    loaded: Loaded[Recipe],
    options: Options,
) -> str:
    rounds = -(-len(left) // max(1, at_once))
    if not left:
        return "nothing is left to do"
    if seconds:
        each = sum(seconds) / len(seconds)
        return (
            f"about {duration(rounds * each)}: {rounds} times {duration(each)}, the mean of "
            f"{len(seconds)} finished trainings"
        )
    found = _calibrated(sweep, loaded, options)
    if found is None:
        return "time unknown: the data is not prepared, and no training is finished"
    per_step, steps = found
    return (
        f"about {duration(rounds * per_step * steps)} of pre-training: {rounds} times {steps:,} "
        f"steps of {per_step:.3g} s, measured on {_TIMED} steps of the base; scores and the start "
        "of each process come on top"
    )


def _calibrated(sweep: Sweep, loaded: Loaded[Recipe], options: Options) -> tuple[float, int] | None:
    """Seconds of a step of the base, and its steps; None where nothing can be measured."""
    recipe = sweep.cells[0].settings
    if recipe.pretrain is None or "pretrain" not in sweep.stages:
        return None
    name, data = recipe.data_set("pretrain")
    folder = shards_folder(owner_of(sweep.cells[0], loaded), options, name, data)
    if not (folder / "train" / "index.json").exists():
        return None
    with tempfile.TemporaryDirectory() as place:
        return _measured(recipe, Shards.open(folder / "train"), Path(place))


def _measured(recipe: Recipe, shards: Shards, place: Path) -> tuple[float, int]:
    assert recipe.pretrain is not None
    world = World()

    def objective(horizon: Horizon, precision: str) -> Distillation:
        return build_objective(recipe, horizon, world)

    job = training_job(
        recipe, recipe.pretrain, shards, world, stage="pretrain", folder=place,
        objective=objective, verbosity=-1, reader=pretrain_reader(recipe),
    )  # fmt: skip
    stop = StopRequest()
    watched = _Watched(job.data, stop, job.cut.accumulation)
    with suppress(StoppedError):
        train(replace(job, data=watched), stop)
    return watched.seconds_per_step, job.horizon.total_steps


class _Watched:
    """Batches that look at the clock, and ask to stop when enough steps are timed."""

    def __init__(self, data: MicroBatches, stop: StopRequest, pieces: int) -> None:
        self.data, self.stop, self.pieces = data, stop, pieces
        self.times: list[float] = []

    @property
    def seconds_per_step(self) -> float:
        """Mean over the timed ones."""
        timed = self.times[min(_WARM, len(self.times) - 2) :]
        return (timed[-1] - timed[0]) / max(1, len(timed) - 1)

    def iterate(self, start_step: int) -> Iterator[tuple[Batch, Mask | None]]:
        """The same batches."""
        for count, pair in enumerate(self.data.iterate(start_step)):
            if count % self.pieces == 0:
                self.times.append(time.perf_counter())
                if len(self.times) > _WARM + _TIMED:
                    self.stop(signal.SIGTERM, None)
            yield pair
