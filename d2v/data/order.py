"""Which sample comes when: a pure function of (seed, epoch, position)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Sampler

from d2v.core.seeding import generator_for


def epoch_order(
    num_samples: int, *, seed: int, epoch: int
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The order of all samples in one epoch: (num_samples,) int64, a permutation."""
    generator = generator_for("order", seed, epoch)
    return torch.randperm(num_samples, generator=generator).numpy()


@dataclass(frozen=True, kw_only=True)
class Share:
    """Which part of each global batch this process reads, and in how many pieces.

    A global batch holds `micro * world_size * accumulation` samples.
    """

    micro: int
    accumulation: int = 1
    rank: int = 0
    world_size: int = 1

    @property
    def batch_size(self) -> int:
        """Samples of one update over all processes."""
        return self.micro * self.accumulation * self.world_size


class MicroBatchOrder(Sampler[tuple[int, list[int]]]):
    """(epoch, sample numbers) of one rank's micro-batches, endlessly.

    An epoch has as many whole global batches as fit; what is left over is another draw each epoch.
    """

    def __init__(self, num_samples: int, share: Share, *, seed: int, start_step: int) -> None:
        self.num_samples, self.share = num_samples, share
        self.seed, self.start_step = seed, start_step

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        share = self.share
        steps_per_epoch = self.num_samples // share.batch_size
        epoch, position = divmod(self.start_step, steps_per_epoch)
        while True:
            order = epoch_order(self.num_samples, seed=self.seed, epoch=epoch)
            for step in range(position, steps_per_epoch):
                for piece in range(share.accumulation):
                    offset = (piece * share.world_size + share.rank) * share.micro
                    first = step * share.batch_size + offset
                    yield epoch, order[first : first + share.micro].tolist()
            epoch, position = epoch + 1, 0
