"""Trainings of an ablation as jobs of Slurm, through submitit."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, UncompletedJobError

from d2v.ablation import SlurmSettings
from d2v.commands.ablate_local import arguments_of
from d2v.commands.ablate_state import Job
from d2v.errors import StoppedError, UsageError

_JOB_ID = "slurm-job.txt"


def run_in_job(arguments: list[str], log: str) -> int:
    """`d2v ARGUMENTS` inside a job; its exit code.

    submitit hands this call to the job as a pickle of its own making: keep it a plain function of
    plain strings, so that nothing of ours is ever pickled.
    """
    with Path(log).open("ab") as output:
        return subprocess.run(
            [sys.executable, "-m", "d2v", *arguments],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, check=False,
            # submitit's warning before the time limit is for submitit; SIGTERM comes after it.
            preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),
        ).returncode  # fmt: skip


class SlurmJob:
    """One training in the queue or under way."""

    def __init__(self, handed_in: Any, note: Path) -> None:
        self.handed_in, self.note = handed_in, note
        self.asked_to_stop = False

    def poll(self) -> int | None:
        """Exit code; None while it waits or runs."""
        if not self.asked_to_stop and not self.handed_in.done():
            return None
        try:
            code = StoppedError.exit_code if self.asked_to_stop else int(self.handed_in.result())
        except (FailedJobError, UncompletedJobError) as error:
            with self.note.with_name("log.txt").open("a", encoding="utf-8") as log:
                log.write(f"Error: Slurm ended the job: {str(error).splitlines()[0]}\n")
            code = 1
        if not self.asked_to_stop:  # else the next start waits until it has ended
            self.note.unlink(missing_ok=True)
        return code

    def stop(self, number: int) -> None:
        """Slurm sends SIGTERM, and waits for the checkpoint."""
        self.asked_to_stop = True
        self.handed_in.cancel()

    def kill(self) -> None:
        """The same: Slurm alone can do more."""
        self.handed_in.cancel()


class SlurmStarter:
    """Hands trainings in; those that an earlier start handed in are waited for, not doubled."""

    def __init__(
        self,
        executor: submitit.Executor,
        stages: Sequence[str],
        gpus: int,
        adopt: Callable[[str], Any] | None = None,
    ) -> None:
        """Remember the queue.

        Args:
            executor: knows what a job asks for.
            stages: that each training runs.
            gpus: of a job; with several, training is shared out.
            adopt: the job of an id, None where there are no ids.
        """
        self.executor, self.stages, self.gpus, self.adopt = executor, stages, gpus, adopt

    def __call__(self, job: Job, slot: int) -> SlurmJob:
        """Hand it in, or find it in the queue."""
        note = job.folder / _JOB_ID
        if self.adopt is not None and note.exists():
            earlier = self.adopt(note.read_text(encoding="utf-8"))
            if not earlier.done():
                return SlurmJob(earlier, note)
        arguments = arguments_of(job, self.stages)
        arguments += ["--nproc", str(self.gpus)] * (self.gpus > 1)
        handed_in = self.executor.submit(run_in_job, arguments, str(job.log))
        note.write_text(handed_in.job_id, encoding="utf-8")
        return SlurmJob(handed_in, note)


def check_slurm() -> None:
    """Refuse where there is no Slurm. Raises UsageError."""
    if missing := [name for name in ("sbatch", "srun") if shutil.which(name) is None]:
        raise UsageError(
            f"--slurm: {' and '.join(missing)} is not on this machine",
            expected="a machine from which Slurm takes jobs",
            remedy="Leave --slurm out, and run cells here with --jobs N.",
        )


def slurm_starter(settings: SlurmSettings, stages: Sequence[str], folder: Path) -> SlurmStarter:
    """Hands trainings to Slurm as the recipe asks."""
    executor = submitit.SlurmExecutor(folder=folder)
    asked: dict[str, Any] = {
        "time": round(settings.hours * 60),
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": settings.cpus,
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "gpus_per_node": settings.gpus or None,
        "mem": None if settings.memory_gb is None else f"{settings.memory_gb:g}GB",
        "additional_parameters": settings.extra or None,
    }
    executor.update_parameters(**{name: v for name, v in asked.items() if v is not None})
    return SlurmStarter(
        executor, stages, settings.gpus,
        adopt=lambda job_id: submitit.SlurmJob(folder=folder, job_id=job_id),
    )  # fmt: skip
