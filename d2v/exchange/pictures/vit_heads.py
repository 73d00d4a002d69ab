"""The classifier on top of a picture transformer: norm of the pooled vector, one linear layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor

from d2v.exchange.links import both
from d2v.exchange.task_head import TaskHead

_NORM, _HEAD = "fc_norm", "head"


def classifier(
    tensors: Mapping[str, Tensor],
    left_out: dict[str, str],
    *,
    pool: Literal["mean", "first"] | None = None,
    classes: Sequence[str] | None = None,
) -> TaskHead | None:
    """The classifier of a file; None where there is none. Adds to `left_out` what is of no use.

    Args:
        tensors: of the file.
        left_out: pattern -> reason.
        pool: what it reads; None: the mean where it has a norm of its own, else CLS.
        classes: names of its outputs; None: their numbers.
    """
    weight = tensors.get(f"{_HEAD}.weight")
    has_norm = f"{_NORM}.weight" in tensors
    if weight is None:
        if has_norm:
            left_out[rf"{_NORM}\..*"] = "the norm of a classifier's head, and there is none"
        return None
    if pool is None:
        pool = "mean" if has_norm or "cls_token" not in tensors else "first"
    links = [*both("head.last", _HEAD)]
    if has_norm:
        links += both("head.norm", _NORM)
    count = weight.shape[0]
    names = list(classes) if classes is not None else [str(number) for number in range(count)]
    return TaskHead(
        task={"name": "classify", "head": {"pool": pool, "norm": has_norm}},
        about={"classes": names},
        links=links,
    )
