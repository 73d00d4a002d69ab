"""Several processes: who am I, on which device, and sums over all."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from d2v.errors import D2VError, PeerLostError


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among all of the run.

    Args:
        rank: 0..size-1; rank 0 alone writes.
        size: number of processes, one device each.
        device: where this process computes.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def writes(self) -> bool:
        """True in the one process that writes files and prints."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """Mean over all processes, in place."""
        return self.sum(values).div_(self.size)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()


def agreed_step(world: World, step: int, folder: Path) -> int:
    """The step that every process starts from.

    Args:
        world: this process among all.
        step: of the checkpoint that this process found, 0 for none.
        folder: where it looked.

    Raises:
        D2VError: they found different ones.
    """
    steps = torch.zeros(world.size, dtype=torch.float64, device=world.device)
    steps[world.rank] = step
    found = sorted({int(one) for one in world.sum(steps).tolist()})
    if len(found) > 1:
        raise D2VError(
            f"The processes of this run found different checkpoints: of steps {found}",
            expected="the same on every machine",
            remedy=f"Put {folder} on a file system that all machines share.",
        )
    return step


@contextmanager
def joined(*, rank: int, size: int, local_rank: int, device: str) -> Iterator[World]:
    """Join the run's process group for the time of the block.

    Args:
        rank: number of this process.
        size: number of processes; 1 needs no group.
        local_rank: number on this machine: picks the GPU.
        device: "cuda" or "cpu".

    Yields:
        The world. The address of the group comes from the launcher (torchrun or `--nproc`).

    Raises:
        PeerLostError: another process of the run ended; its own error says why.
    """
    place = torch.device("cuda", local_rank) if device == "cuda" else torch.device("cpu")
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if size > 1:
        backend = "nccl" if place.type == "cuda" else "gloo"
        dist.init_process_group(backend, rank=rank, world_size=size, timeout=timedelta(minutes=30))
    try:
        yield World(rank=rank, size=size, device=place)
    except RuntimeError as error:
        if size > 1 and _lost_peer(error):
            raise PeerLostError("Another process of this run ended") from error
        raise
    finally:
        if size > 1:
            dist.destroy_process_group()


def _lost_peer(error: RuntimeError) -> bool:
    text = str(error)
    return isinstance(error, dist.DistError) or "gloo" in text or "NCCL" in text
