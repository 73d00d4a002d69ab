"""One thread for all tests: on a shared machine a second one makes a step two to five times slower.

Measured: 0.64-1.7 s with one thread, 1.6-5 s with two, for the same step on two busy cores.
"""

import os
import sys

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"  # before torch is imported, and for the processes tests start


def pytest_collection_finish() -> None:
    """Set it once more where torch read another value, without importing torch for nothing."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
