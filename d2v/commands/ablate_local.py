"""Trainings of an ablation as processes of this machine.

Not by submitit's local executor: its controller outlives a killed parent and trains on, ignores
SIGTERM, and gives a second between SIGINT and SIGKILL, too little for a checkpoint.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from d2v.commands.ablate_state import Job

_PR_SET_PDEATHSIG = 1


class Process:
    """One `d2v run` below us."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def poll(self) -> int | None:
        """Exit code; None while it runs."""
        return self.process.poll()

    def stop(self, number: int) -> None:
        """Hand on a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """And wait, so that its files are quiet."""
        self.process.kill()
        self.process.wait()


class LocalStarter:
    """Starts trainings in slots that share the machine's cores and GPUs."""

    def __init__(self, stages: Sequence[str], slots: int, lock: Path) -> None:
        """Remember how the machine is shared.

        Args:
            stages: that each training runs.
            slots: how many run at once.
            lock: kept locked by each child while it lives.
        """
        self.stages, self.lock = stages, lock
        self.shares = [share_of(slot, slots, os.environ, _devices()) for slot in range(slots)]

    def __call__(self, job: Job, slot: int) -> Process:
        """Start it."""
        return Process(
            start_process(
                arguments_of(job, self.stages), {**os.environ, **self.shares[slot]},
                job.log, self.lock,
            )
        )  # fmt: skip


def arguments_of(job: Job, stages: Sequence[str]) -> list[str]:
    """Of `d2v`, for one training: what a person would type to continue or repeat it alone."""
    return ["run", str(job.config), "--out", str(job.out), "--stages", ",".join(stages)]


def start_process(
    arguments: Sequence[str], environment: Mapping[str, str], log: Path, lock: Path
) -> subprocess.Popen[bytes]:
    """Start `d2v ARGUMENTS` with its output in a log; if we are killed, it stops by itself."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    with log.open("ab") as output, lock.open("w") as shared:
        fcntl.flock(shared, fcntl.LOCK_SH)
        return subprocess.Popen(
            [sys.executable, "-m", "d2v", *arguments],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[shared.fileno()],  # the lock lives as long as the child does
            start_new_session=True,  # Ctrl-C reaches it once, through us
            preexec_fn=prctl and (lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)),  # Linux only
        )


def share_of(
    slot: int, slots: int, environment: Mapping[str, str], devices: Sequence[str]
) -> dict[str, str]:
    """What one of several processes may use of cores and GPUs; all of them where it is alone.

    Args:
        slot: which.
        slots: of how many.
        environment: ours; a number of threads that is set there stays.
        devices: names of the GPUs; a GPU is shared where there are fewer than slots.
    """
    if slots == 1:
        return {}
    threads = max(1, len(os.sched_getaffinity(0)) // slots)
    share = {"LOCAL_WORLD_SIZE": str(slots)}  # by which reading processes are divided
    if "OMP_NUM_THREADS" not in environment:
        share["OMP_NUM_THREADS"] = str(threads)
    if devices:
        own = devices[slot::slots] or [devices[slot % len(devices)]]
        share["CUDA_VISIBLE_DEVICES"] = ",".join(own)
    return share


def _devices() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    return [str(number) for number in range(torch.cuda.device_count())]
