"""One thread for all tests: on a shared machine a second one makes a step two to five times slower.

Measured: 0.64-1.7 s with one thread, 1.6-5 s with two, for the same step on two busy cores.
"""

import multiprocessing.forkserver
import os
import sys

import pytest

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"  # before torch is imported, and for the processes tests start


def pytest_collection_finish(session: pytest.Session) -> None:
    """Set it once more where torch read another value, without importing torch for nothing.

    And start the fork server before anybody else does: one that `d2v prepare` started in a test has
    not imported the commands, and each process from it takes ten times as long to start.
    """
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    modules = [vars(getattr(item, "module", None) or sys) for item in session.items]
    if any({"Started", "Preparing", "server"} & names.keys() for names in modules):
        from tests.process_case import server

        server()
        multiprocessing.forkserver.ensure_running()
