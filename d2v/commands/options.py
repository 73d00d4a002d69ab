"""What the command line asks of a command, beside the recipe."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Options:
    """Everything that is not part of the experiment: where to, how much, how loud.

    Args:
        out: root of the run directories.
        dry_run: print the plan and touch nothing.
        fresh: start over instead of continuing.
        verbosity: -1 quiet, 0 normal, 1 verbose.
        check: verify what is already prepared instead of preparing.
        nproc: processes that train together on this machine.
        stages: the stages that `run` is limited to, in pipeline order; empty for all.
        jobs: cells of an ablation at once; None for one, and with `slurm` for all.
        slurm: cells of an ablation are handed to Slurm.
    """

    out: Path = Path("runs")
    dry_run: bool = False
    fresh: bool = False
    verbosity: int = 0
    check: bool = False
    nproc: int = 1
    stages: tuple[str, ...] = ()
    jobs: int | None = None
    slurm: bool = False
