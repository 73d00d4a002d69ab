"""Batches of one total length: samples of similar length together, so that little is padded.

Letters: N samples; lengths are those of the index, an int64 each.
"""

from typing import NamedTuple

import numpy as np
import torch

from d2v.core.seeding import generator_for
from d2v.data.index import Ints
from d2v.data.order import BatchPlan, EpochBatches, LengthLimit

_SIMILAR = 0.9
"""A bucket takes in samples down to this share of its longest: a twentieth is padded on average."""
_ALIKE = 0.98
"""The same where batches are cropped to their shortest: what is cropped is lost, not only slow."""
_MIN_BATCHES = 4
"""A bucket goes on below that until it fills so many batches: company should change each epoch."""


class LengthPlan(BatchPlan):
    """Batches of at most `batch_length`, the number of samples times the longest of them.

    Samples lie in fixed buckets of similar length. Each epoch shuffles within the buckets, fills
    batches bucket by bucket, joins what is left over in the buckets to further batches, drops what
    fills no batch, another draw each epoch, and shuffles the batches. Sizes of batches hang on the
    lengths alone, so every epoch has equally many.
    """

    def __init__(
        self, lengths: Ints, batch_length: int, *, seed: int, limit: LengthLimit | None = None
    ) -> None:
        """Lay out the batches.

        Args:
            lengths: (N,) int64.
            batch_length: total length of a batch, at least that of the longest sample.
            seed: of the run.
            limit: how samples are cropped; they count as what is left of them.
        """
        self.lengths, self.seed, self.limit = lengths, seed, limit or LengthLimit()
        clipped = self.limit.clipped(lengths)
        self._longest_first = np.argsort(-clipped, kind="stable")
        share = _ALIKE if self.limit.to_shortest else _SIMILAR
        self._buckets = _cut_buckets(clipped[self._longest_first], batch_length, share)
        layout = _lay_out(self._buckets, batch_length)
        self._places, self._sizes, self._longest = layout

    @property
    def steps_per_epoch(self) -> int:
        """Batches that the data fill."""
        return len(self._sizes)

    @property
    def samples_per_step(self) -> float:
        """Samples of a batch, the mean over an epoch."""
        return float(self._sizes.mean())

    @property
    def smallest_batch(self) -> int:
        """Samples of the batch that has the fewest."""
        return int(self._sizes.min())

    def longest_piece(self, num_pieces: int) -> int:
        """Greatest total length, padding included, of a batch's piece, cut into so many."""
        return int((-(-self._sizes // num_pieces) * self._longest).max())

    def epoch(self, epoch: int) -> EpochBatches:
        """Two draws: the order within buckets, and that of the batches."""
        generator = generator_for("order", self.seed, epoch)
        keys = torch.randperm(len(self.lengths), generator=generator).numpy()
        bucket_of = np.repeat(np.arange(len(self._buckets.longest)), np.diff(self._buckets.edges))
        shuffled = self._longest_first[np.lexsort((keys, bucket_of))]
        turns = torch.randperm(self.steps_per_epoch, generator=generator).numpy()
        starts, before = _starts(self._sizes[turns]), _starts(self._sizes)
        moved = np.repeat(before[turns] - starts[:-1], self._sizes[turns])
        order = shuffled[self._places[moved + np.arange(starts[-1])]]
        limits = self.limit.of_batches(self.lengths, order, starts)
        return EpochBatches(order=order, starts=starts, limits=limits)


class _Buckets(NamedTuple):
    """Stretches of the samples, the longest first.

    Args:
        edges: (buckets + 1,) int64, where each begins, and the end.
        longest: (buckets,) int64, length of the longest sample in each.
    """

    edges: Ints
    longest: Ints


class _Layout(NamedTuple):
    """Batches as places among the shuffled samples.

    Args:
        places: int64, batch after batch.
        sizes: (steps,) int64, samples of each batch.
        longest: (steps,) int64, longest that a sample of each can be.
    """

    places: Ints
    sizes: Ints
    longest: Ints


def _cut_buckets(lengths: Ints, batch_length: int, share: float) -> _Buckets:
    """Cut lengths in falling order. Each bucket fills a batch, unless all the data do not."""
    edges = [0]
    while edges[-1] < len(lengths):
        first = edges[-1]
        longest = int(lengths[first])
        similar = int(np.searchsorted(-lengths, -share * longest, side="right"))
        end = min(max(similar, first + _MIN_BATCHES * (batch_length // longest)), len(lengths))
        # Too few for a batch of their own would be left over in every epoch, and might be dropped.
        if end < len(lengths) and len(lengths) - end < batch_length // int(lengths[end]):
            end = len(lengths)
        edges.append(end)
    return _Buckets(np.array(edges), lengths[edges[:-1]])


def _lay_out(buckets: _Buckets, batch_length: int) -> _Layout:
    """Whole batches of each bucket, then batches of what is left over, longest first."""
    sizes = batch_length // buckets.longest
    counts = np.diff(buckets.edges)
    whole = counts // sizes
    first_left = buckets.edges[:-1] + whole * sizes
    bucket_of = np.repeat(np.arange(len(counts)), counts)
    places = np.arange(len(bucket_of))
    is_left = places >= first_left[bucket_of]
    left = places[is_left]
    later: list[tuple[int, int]] = []  # size, longest
    taken = 0
    while taken < len(left):
        longest = int(buckets.longest[bucket_of[left[taken]]])
        size = batch_length // longest
        if taken + size > len(left):
            break
        later.append((size, longest))
        taken += size
    joined = np.array(later, dtype=np.int64).reshape(-1, 2)
    return _Layout(
        places=np.concatenate([places[~is_left], left[:taken]]),
        sizes=np.concatenate([np.repeat(sizes, whole), joined[:, 0]]),
        longest=np.concatenate([np.repeat(buckets.longest, whole), joined[:, 1]]),
    )


def _starts(sizes: Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(sizes)])
