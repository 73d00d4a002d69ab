"""Frozen features of whole splits."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from d2v.build import FrozenEncoder
from d2v.core.features import Pool, pooled_features, token_features
from d2v.core.probing import FeatureSet, ProbeSettings
from d2v.data.loader import evenly_spaced, read_split
from d2v.data.reading import Reader
from d2v.data.shards import Shards
from d2v.errors import D2VError, UsageError
from d2v.modalities import Features, LengthUnit
from d2v.types import Batch


def encoder_features(frozen: FrozenEncoder, *, pool: Pool, block: int | None) -> Features:
    """The features of a frozen encoder as a function of a batch."""
    device = next(frozen.encoder.parameters()).device

    def features(batch: Batch) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=frozen.precision == "bfloat16"):
            return pooled_features(
                frozen.frontend, frozen.encoder, batch.to(device), pool=pool, block=block
            )

    return features


def encoder_tokens(frozen: FrozenEncoder, *, block: int | None) -> Callable[[Batch], list[Tensor]]:
    """All data tokens of each sample, (T, D) on the CPU, as a function of a batch."""
    device = next(frozen.encoder.parameters()).device

    def tokens(batch: Batch) -> list[Tensor]:
        with torch.autocast(device.type, torch.bfloat16, enabled=frozen.precision == "bfloat16"):
            values, padding = token_features(
                frozen.frontend, frozen.encoder, batch.to(device), block=block
            )
        values = values.cpu()  # all at once: one wait for a GPU
        if padding is None:
            return list(values)
        return [row[~empty] for row, empty in zip(values, padding.cpu(), strict=True)]

    return tokens


def length_at_once(settings: ProbeSettings, unit: LengthUnit) -> int | None:
    """Total length, as stored, of samples that are encoded at once; None for any."""
    length = settings.batch_length or unit.at_once
    return None if length is None else max(1, round(length * unit.size))


def extract(
    shards: Shards,
    reader: Reader,
    function: Features,
    *,
    batch_size: int,
    batch_length: int | None = None,
    num_workers: int = 0,
    limit: int | None = None,
    max_bad_fraction: float = 0.0,
    on_problem: Callable[[str], None] = lambda text: None,
) -> FeatureSet:
    """Features and labels of a split's labelled samples, in stored order.

    No other sample is read. Batches are of similar length, so that little of them is padding, the
    longest first, so that memory that does not suffice shows at once.

    Args:
        shards: the split.
        reader: decodes and collates.
        function: what to compute, dense or sparse (COO).
        batch_size: samples at once.
        batch_length: their total length at most, padding included, as stored; None for any.
        num_workers: processes that read ahead.
        limit: only so many samples, evenly spaced among the labelled ones.
        max_bad_fraction: share of unusable samples that is tolerated.
        on_problem: told how many samples are unusable, if there are any.

    Raises:
        UsageError: no sample has a label, or features of longer samples are wider.
        D2VError: too many unusable samples, or nothing but those.
    """
    wanted = np.flatnonzero(shards.labels >= 0)
    if limit is not None:
        wanted = evenly_spaced(wanted, limit)
    if len(wanted) == 0:
        raise UsageError(
            f"{shards.folder} has no labels",
            expected="samples with labels",
            remedy="Arrange the source as one folder a class, or give a table with labels.",
        )
    longest_first = wanted[np.argsort(-shards.lengths[wanted], kind="stable")]
    features, read = [], []
    for batch in read_split(
        shards, reader, batch_size=batch_size, batch_length=batch_length,
        num_workers=num_workers, numbers=longest_first,
    ):  # fmt: skip
        assert batch.samples is not None
        features.append(function(batch))
        read.append(batch.samples)
        _check_width(features, shards)
    found = sum(len(part) for part in read)
    if found < len(wanted):
        _tell_unusable(shards, len(wanted), found, max_bad_fraction, on_problem)
    samples, order = torch.cat(read).sort()
    every = torch.cat(features)
    labels = torch.from_numpy(shards.labels)[samples]
    return FeatureSet(
        features=every.index_select(0, order.to(every.device)), labels=labels.to(every.device)
    )


def _check_width(features: list[Tensor], shards: Shards) -> None:
    """Samples of one length give all tokens side by side, those of another length others."""
    first, last = features[0].shape[1], features[-1].shape[1]
    if first != last:
        raise UsageError(
            f"Samples in {shards.folder} differ in length, and so do their features: {first} and "
            f"{last} numbers",
            expected="as many numbers for every sample; probe.pool=tokens needs samples of one "
            "length",
            remedy="Set probe.pool=mean.",
        )


def _tell_unusable(
    shards: Shards,
    wanted: int,
    found: int,
    max_bad_fraction: float,
    on_problem: Callable[[str], None],
) -> None:
    text = f"{wanted - found} of {wanted} samples in {shards.folder} cannot be used"
    if wanted - found > max_bad_fraction * wanted or not found:
        raise D2VError(
            text,
            expected=f"at most {max_bad_fraction * wanted:g} (data.max_bad_fraction)",
            remedy="Run `d2v prepare RECIPE --check`, mend the data, or raise the limit.",
        )
    on_problem(text)
