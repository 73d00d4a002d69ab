"""`--nproc N`: the same command N times on this machine, joined to one run."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from types import FrameType
from typing import IO

from d2v.errors import D2VError, PeerLostError

_GRACE_SECONDS = 30.0
"""For writing a checkpoint after a signal."""
_PATIENCE_SECONDS = 5.0
"""For noticing that another rank has failed."""
_PR_SET_PDEATHSIG = 1


def launch(arguments: Sequence[str], num_processes: int) -> int:
    """Start `d2v ARGUMENTS` as ranks 0..N-1 and wait.

    Rank 0 keeps the terminal. Error output is kept aside, and one rank's is shown at the end: the
    one whose failure ended the run, so that an error is told once. SIGTERM and Ctrl-C reach all.

    Returns:
        The exit code of that rank, or 0.

    Raises:
        D2VError: a rank was killed from outside.
    """
    port, prctl = _free_port(), getattr(ctypes.CDLL(None), "prctl", None)
    asides = [tempfile.TemporaryFile() for _ in range(num_processes)]  # noqa: SIM115 closed below
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "d2v", *arguments],
            env={**os.environ, **_environment(rank, num_processes, port)},
            stdout=None if rank == 0 else subprocess.DEVNULL,
            stderr=aside,
            start_new_session=True,  # Ctrl-C reaches a rank once, through us
            # If we are killed, the ranks write a checkpoint and end. Linux only.
            preexec_fn=prctl and (lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)),
        )
        for rank, aside in enumerate(asides)
    ]

    def forward(number: int, frame: FrameType | None) -> None:
        for process in ranks:
            if process.poll() is None:
                process.send_signal(number)

    earlier = {s: signal.signal(s, forward) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        told = _wait(ranks)
        _show(asides[told])
        code = ranks[told].returncode
        if code < 0:
            raise D2VError(
                f"Process {told} of {num_processes} was killed by {signal.Signals(-code).name}",
                remedy="Most often the memory was full. Start the same command again: it "
                "continues from the last checkpoint.",
            )
        return code
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
        for process in ranks:
            process.kill()
        for aside in asides:
            aside.close()


def _wait(ranks: list[subprocess.Popen[bytes]]) -> int:
    """Until all have ended; one failure ends the others. Returns the rank to be told about."""
    order: list[int] = []
    deadline = float("inf")
    while any(process.poll() is None for process in ranks):
        for rank, process in enumerate(ranks):
            if process.poll() not in (None, 0) and rank not in order:
                order.append(rank)
        if order and deadline == float("inf"):
            stopping = ranks[order[0]].returncode in (75, 130)
            deadline = time.monotonic() + (_GRACE_SECONDS if stopping else _PATIENCE_SECONDS)
        if time.monotonic() > deadline:
            for process in ranks:
                process.kill()
        time.sleep(0.05)
    failed = [rank for rank, process in enumerate(ranks) if process.returncode != 0]
    by_time = order + [rank for rank in failed if rank not in order]
    # A rank that only lost its peer is not the cause; one that was killed may be.
    causes = [rank for rank in by_time if ranks[rank].returncode != PeerLostError.exit_code]
    return (causes or by_time or [0])[0]


def _show(aside: IO[bytes]) -> None:
    aside.seek(0)
    sys.stderr.buffer.write(aside.read())
    sys.stderr.flush()


def _environment(rank: int, size: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
