"""`d2v ablate`: settings of a recipe varied, every value trained and scored with some seeds."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from d2v.commands.ablate_cells import Sweep, sweep_of
from d2v.commands.ablate_compute import plot_compute
from d2v.commands.ablate_data import fingerprints, prepared
from d2v.commands.ablate_live import Display
from d2v.commands.ablate_local import LocalStarter
from d2v.commands.ablate_plan import ablate_plan
from d2v.commands.ablate_plots import plot_axes
from d2v.commands.ablate_run import Runner, Start, no_other_children
from d2v.commands.ablate_slurm import check_slurm, slurm_starter
from d2v.commands.ablate_state import Job, jobs_of, outcomes_of
from d2v.commands.ablate_summary import Results, as_csv, as_json, results_of
from d2v.commands.ablate_table import ablate_report, as_markdown
from d2v.commands.deciding import deciding_settings, setting_defaults
from d2v.commands.options import Options
from d2v.commands.stage import stage_folder
from d2v.config import Loaded, as_yaml
from d2v.engine.checkpoint import replace_durably
from d2v.engine.run_directory import RunDirectory, opened
from d2v.engine.signals import StopRequest, stop_requests
from d2v.errors import D2VError, InterruptedRunError, StoppedError, UsageError
from d2v.hardware import resolve_device
from d2v.recipe import Recipe
from d2v.report import Report

Tell = Callable[[Report], None]


def run(loaded: Loaded[Recipe], options: Options, tell: Tell = lambda report: None) -> Report:
    """Train and score what is not done yet; every cell is checked before anything is started.

    Args:
        loaded: the recipe; what its command line sets, every cell gets.
        options: `jobs` and `slurm` say where cells run.
        tell: called with the report of preparing, and with the table where a training failed.

    Returns:
        The table, and what it shows in words.

    Raises:
        UsageError: an axis, value or score that does not fit, or another recipe than the one that
            the sweep was begun with.
        D2VError: some trainings failed; the others are done.
        StoppedError: SIGTERM came. InterruptedRunError: Ctrl-C came. The same command continues.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError(
            "d2v ablate was started in several processes",
            expected="one process, which starts the others",
            remedy="Use `d2v ablate --jobs N`, or --slurm.",
        )
    sweep = sweep_of(loaded, options)
    if options.slurm:
        check_slurm()
    if options.dry_run:
        return ablate_plan(sweep, loaded, options)
    path = stage_folder(loaded, options, "ablate")
    with opened(path, fresh=False) as stage, no_other_children(path, _say) as lock:
        if options.fresh:
            _empty(path)
        try:
            shards = prepared(sweep, loaded, options, tell)
            inputs = fingerprints(shards)
            binding = _binding(stage, sweep)
            # A cell's own recipe has no ablate section.
            recipe = sweep.cells[0].settings.model_copy(update={"ablate": sweep.settings})
            stage.check_same(binding, inputs, setting_defaults(recipe, binding))
        except UsageError:
            if not stage.is_started():
                stage.forget_start()
            raise
        jobs = jobs_of(sweep, loaded, options.out, shards)
        work = _Work(sweep=sweep, loaded=loaded, options=options, stage=stage, jobs=jobs)
        return work.do(inputs, lock, tell)


@dataclass(frozen=True, kw_only=True)
class _Work:
    """A sweep whose folder is ours."""

    sweep: Sweep
    loaded: Loaded[Recipe]
    options: Options
    stage: RunDirectory
    jobs: list[Job]

    def do(self, inputs: dict[str, str], lock: Path, tell: Tell) -> Report:
        """Run what is not done, and sum up."""
        outcomes = outcomes_of(self.jobs, self.sweep.score)
        left = [job for job in self.jobs if not outcomes[job.cell.id, job.seed].ended]
        if not left:
            done = f"All {len(self.jobs)} trainings of {self.loaded.name} are already finished; "
            return self._finished(f"{done}nothing was done (--fresh starts over).")
        (self.stage.path / "result.json").unlink(missing_ok=True)
        config = as_yaml(self.loaded, with_origins=False)
        device = resolve_device(self.loaded.settings)
        self.stage.start(_settings_of(self.sweep), inputs, config, device)
        for job in left:
            job.forget_failure()
        with stop_requests() as stop:
            self._run(left, lock, stop)
        results = self._write(charts=stop.signal is not None)
        self._check_stopped(stop, results)
        report = self._finished(f"Ablation of {self.loaded.name}: {self.stage.path}")
        failed = [one for one in results.cells.values() if one.count("failed")]
        if failed:
            tell(report)
            count = sum(one.count("failed") for one in failed)
            raise D2VError(
                f"{count} of {len(self.jobs)} trainings failed "
                f"({', '.join(one.cell.id for one in failed)})",
                remedy="Their reasons stand above, their output in log.txt of their folders; the "
                "same command tries them again.",
            )
        return report

    def _run(self, left: Sequence[Job], lock: Path, stop: StopRequest) -> None:
        slots = min(len(left), self.options.jobs or (len(left) if self.options.slurm else 1))
        if self.options.slurm:
            folder = self.stage.path / "slurm"
            start: Start = slurm_starter(self.sweep.settings.slurm, self.sweep.stages, folder)
        else:
            start = LocalStarter(self.sweep.stages, slots, lock)
        with Display(self.jobs, self._write, slots, self.options.verbosity) as display:
            Runner(left, start, slots=slots, stop=stop, tick=display.tick).run()

    def _write(self, running: Sequence[Job] = (), charts: bool = True) -> Results:
        """cells.csv, summary.md and charts of what is there."""
        outcomes = outcomes_of(self.jobs, self.sweep.score)
        for job in running:
            place = job.cell.id, job.seed
            outcomes[place] = replace(outcomes[place], status="running")
        results = results_of(self.sweep, self.jobs, outcomes)
        path = self.stage.path
        replace_durably(path / "cells.csv", as_csv(results).encode())
        replace_durably(path / "summary.md", as_markdown(results, self._remarks()).encode())
        if charts:
            plot_axes(results, self.stage.plots)
            plot_compute(results, self.stage.plots)
        return results

    def _finished(self, headline: str) -> Report:
        results = self._write()
        report = ablate_report(results, headline, self._remarks())
        self.stage.finish({**as_json(results), "report": vars(report)})
        return report

    def _remarks(self) -> list[str]:
        path, job = self.stage.path, self.jobs[0]
        return [
            f"{path}/cells.csv, summary.md and plots/ have it all; one training alone: "
            f"d2v run {job.config} --out {job.out}"
        ]

    def _check_stopped(self, stop: StopRequest, results: Results) -> None:
        """Raise where somebody stopped the sweep, or one of its trainings."""
        done = sum(one.count("done") + one.count("collapsed") for one in results.cells.values())
        stopped = sum(one.count("stopped") for one in results.cells.values())
        if stop.signal is None and not stopped:
            return
        kind = InterruptedRunError if stop.signal == signal.SIGINT else StoppedError
        raise kind(
            f"{done} of {len(self.jobs)} trainings of {self.loaded.name} are done",
            remedy="The same command goes on where the others stand.",
        )


def _binding(stage: RunDirectory, sweep: Sweep) -> dict[str, Any]:
    """What must be as it was. What is compared may grow or shrink once a sweep came to its end."""
    settings = _settings_of(sweep)
    if stage.result() is None:
        return settings
    started = json.loads((stage.path / "started.json").read_text(encoding="utf-8"))["settings"]
    fixed = {key: value for key, value in settings.items() if not key.startswith("ablate.")}
    return fixed | {key: value for key, value in started.items() if key.startswith("ablate.")}


def _settings_of(sweep: Sweep) -> dict[str, Any]:
    base: dict[str, Any] = {}
    for name in ("prepare", *sweep.stages):
        base |= deciding_settings(sweep.cells[0].settings, name)
    asked = sweep.settings.model_dump(mode="json", exclude={"slurm", "published", "base"})
    return base | {f"ablate.{key}": value for key, value in asked.items()}


def _empty(path: Path) -> None:
    for child in sorted(path.iterdir(), key=lambda child: child.name != "result.json"):
        shutil.rmtree(child) if child.is_dir() else child.unlink()


def _say(text: str) -> None:
    print(text, flush=True)
