"""One training of an ablation: a cell with one seed, its folder, and what it has come to."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from d2v.commands.ablate_cells import BASE, Cell, Sweep, digest_of
from d2v.commands.ablate_score import Score
from d2v.config import Loaded, as_yaml
from d2v.data_sets import DataSet
from d2v.engine.checkpoint import replace_durably
from d2v.engine.run_directory import stage_result
from d2v.engine.tracking import read_metrics
from d2v.errors import D2VError, GuardError, InterruptedRunError, StoppedError
from d2v.recipe import TESTS, Recipe

Status = Literal["waiting", "running", "stopped", "done", "collapsed", "failed"]
"""collapsed: a guard stopped it, for a collapse or a number that is not finite."""

CONFIG, LOG, _STATE = "config.yaml", "log.txt", "state.json"
_STOPPED = (StoppedError.exit_code, InterruptedRunError.exit_code)
_COMPLAINT = re.compile(r"^(?:Error|Stopped): (.*)$", re.M)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Where a training stands.

    Args:
        status: as it says.
        score: None where there is none.
        loss: last logged one of pre-training; None where nothing was logged.
        spread: the same of the targets' spread across samples.
        seconds: of wall clock over all starts, of all stages.
        train_seconds: of wall clock that pre-training took for its updates, but for those between
            the last logged one and a stop; None where it did not end, or not all was timed.
        flops: of pre-training, teacher and student; None where it did not end.
        reason: why it did not finish.
    """

    status: Status
    score: float | None = None
    loss: float | None = None
    spread: float | None = None
    seconds: float = 0.0
    train_seconds: float | None = None
    flops: float | None = None
    reason: str = ""

    @property
    def ended(self) -> bool:
        """Whether another start would do nothing else."""
        return self.status in ("done", "collapsed")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A cell with a seed.

    Args:
        cell: what is trained.
        seed: of weights, order, masks and drawn labels.
        loaded: the recipe of the run.
        out: root of the run directories.
    """

    cell: Cell
    seed: int
    loaded: Loaded[Recipe]
    out: Path

    @property
    def folder(self) -> Path:
        """The run directory: its stages are folders in it."""
        return self.out / self.loaded.name

    @property
    def config(self) -> Path:
        """The recipe that repeats it alone."""
        return self.folder / CONFIG

    @property
    def log(self) -> Path:
        """What its processes wrote."""
        return self.folder / LOG

    def write_config(self) -> None:
        """Make the folder and the recipe in it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_durably(self.config, as_yaml(self.loaded, with_origins=False).encode())

    def outcome(self, score: Score) -> Outcome:
        """What its folder says."""
        state = self._state()
        rows = read_metrics(self.folder / "pretrain")
        trained = stage_result(self.folder / "pretrain") or {}
        status = state.get("status", "waiting")
        found = Outcome(
            status="waiting" if status == "done" else status,  # its result was taken away
            loss=rows[-1].get("loss") if rows else None,
            spread=rows[-1].get("target_spread") if rows else None,
            seconds=state.get("seconds", 0.0),
            train_seconds=_seconds_of(rows) if trained else None,
            flops=trained.get("flops"),
            reason=state.get("reason", ""),
        )
        if stage_result(self.folder / score.stage) is None:
            return found
        try:
            value = score.value(self.folder)
        except D2VError as error:
            return replace(found, status="failed", reason=str(error))
        reason = "" if value is not None else f"{score.name} is undefined"
        return replace(found, status="done", score=value, reason=reason)

    def note(self, code: int, seconds: float, log_start: int) -> None:
        """Remember how a start ended.

        Args:
            code: of its process.
            seconds: that it took.
            log_start: where in the log this start began, in bytes.
        """
        status: Status = "done" if code == 0 else "failed"
        if code in _STOPPED:
            status = "stopped"
        elif code == GuardError.exit_code:
            status = "collapsed"
        reason = "" if code == 0 else self._reason(code, log_start)
        self._write(status=status, reason=reason, seconds=self._seconds() + seconds)

    def forget_failure(self) -> None:
        """A failed one is tried again: what was wrong may be mended."""
        if self._state().get("status") == "failed":
            self._write(status="waiting", reason="", seconds=self._seconds())

    def _seconds(self) -> float:
        return float(self._state().get("seconds", 0.0))

    def _state(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.folder / _STATE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return found

    def _write(self, **state: object) -> None:
        replace_durably(self.folder / _STATE, (json.dumps(state, indent=1) + "\n").encode())

    def _reason(self, code: int, log_start: int) -> str:
        """The last complaint in the log, else its last line."""
        content = self.log.read_bytes() if self.log.exists() else b""
        text = content[log_start:].decode("utf-8", "replace")
        if told := _COMPLAINT.findall(text):
            return str(told[-1]).strip()
        if code < 0:
            return f"killed by signal {-code}; most often the memory was full"
        lines = text.strip().splitlines()
        return lines[-1] if lines else f"ended with code {code} and said nothing"


def _seconds_of(rows: list[dict[str, Any]]) -> float | None:
    """None where some were logged by a d2v that did not time them."""
    timed = [row["seconds"] for row in rows if row.get("seconds") is not None]
    return math.fsum(timed) if timed and len(timed) == len(rows) else None


def jobs_of(
    sweep: Sweep, loaded: Loaded[Recipe], out: Path, shards: dict[str, dict[str, Path]]
) -> list[Job]:
    """Every training: all cells with the first seed, the base first, then with the next.

    So the whole picture is there early, and each further seed sharpens it.

    Args:
        sweep: cells and seeds.
        loaded: the recipe of the ablation.
        out: root of the run directories.
        shards: cell's id -> data set -> folder of its shards.
    """
    jobs = []
    for seed in sweep.settings.seeds:
        for cell in sweep.cells:
            name = f"{loaded.name}/ablate/cells/{_folder_name(cell, loaded, out)}/seed{seed}"
            recipe = with_shards(cell.settings, shards.get(cell.id, {}))
            recipe = recipe.model_copy(update={"name": name, "seed": seed})
            own = replace(loaded, settings=recipe, name=name, overrides=())
            jobs.append(Job(cell=cell, seed=seed, loaded=own, out=out))
    return jobs


def _folder_name(cell: Cell, loaded: Loaded[Recipe], out: Path) -> str:
    """The cell's id, or the folder that the same settings have had under another name."""
    folder = out / loaded.name / "ablate" / "cells"
    there = sorted(path.name for path in folder.glob(f"*-{digest_of(cell.id)}"))
    return cell.id if cell.id == BASE or cell.id in there or not there else there[0]


def with_shards(recipe: Recipe, folders: dict[str, Path]) -> Recipe:
    """The recipe reading prepared data; sets are named as by `Recipe.data_sets`."""
    data, update = recipe.data, dict[str, Any]()
    for name, folder in folders.items():
        place = {"shards": folder.absolute()}
        if name == "common":
            update |= place
        elif name in ("pretrain", "probe", "finetune"):
            update[name] = getattr(data, name).model_copy(update=place)
        else:
            tests: dict[str, DataSet] = update.get("tests", dict(data.tests))
            own = name.removeprefix(TESTS)
            update["tests"] = tests | {own: tests[own].model_copy(update=place)}
    return recipe.model_copy(update={"data": data.model_copy(update=update)})


def outcomes_of(jobs: Iterable[Job], score: Score) -> dict[tuple[str, int], Outcome]:
    """Where every training stands, by cell's id and seed."""
    return {(job.cell.id, job.seed): job.outcome(score) for job in jobs}
