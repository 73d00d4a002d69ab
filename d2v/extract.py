"""Frozen features of whole splits."""

from collections.abc import Callable

import torch
from torch import Tensor

from d2v.build import FrozenEncoder
from d2v.core.features import Pool, pooled_features
from d2v.core.probing import FeatureSet
from d2v.data.loader import read_split
from d2v.data.shards import Shards
from d2v.errors import D2VError
from d2v.modalities import Features, Modality
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


def extract(
    shards: Shards,
    modality: Modality,
    function: Features,
    *,
    batch_size: int,
    num_workers: int = 0,
    limit: int | None = None,
    max_bad_fraction: float = 0.0,
    on_problem: Callable[[str], None] = lambda text: None,
) -> FeatureSet:
    """Features and labels of a split's labelled samples, in stored order.

    Args:
        shards: the split.
        modality: decodes and collates.
        function: what to compute.
        batch_size: samples at once.
        num_workers: processes that read ahead.
        limit: only so many samples, evenly spaced.
        max_bad_fraction: share of unusable samples that is tolerated.
        on_problem: told how many samples are unusable, if there are any.

    Raises:
        D2VError: too many unusable samples, or nothing but those.
    """
    features, labels = [], []
    for batch in read_split(
        shards, modality, batch_size=batch_size, num_workers=num_workers, limit=limit
    ):
        assert batch.labels is not None
        features.append(function(batch))
        labels.append(batch.labels)
    wanted = len(shards) if limit is None else min(limit, len(shards))
    found = sum(len(part) for part in labels)
    if found < wanted:
        text = f"{wanted - found} of {wanted} samples in {shards.folder} cannot be used"
        if wanted - found > max_bad_fraction * wanted or not found:
            raise D2VError(
                text,
                expected=f"at most {max_bad_fraction * wanted:g} (data.max_bad_fraction)",
                remedy="Run `d2v prepare RECIPE --check`, mend the data, or raise the limit.",
            )
        on_problem(text)
    every, label = torch.cat(features), torch.cat(labels)
    known = label >= 0
    return FeatureSet(features=every[known.to(every.device)], labels=label[known].to(every.device))
