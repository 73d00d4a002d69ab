"""The few types that every floor shares.

Letters: B batch, T tokens, D width, H heads, M masked tokens of the whole batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class SourceItem:
    """One raw sample as the user has it, before it is read.

    Either `path` names a file or `content` holds the bytes (data that ships inside a package).
    """

    name: str
    """Stable name for reports: the path relative to the source, with forward slashes."""
    path: Path | None = None
    content: bytes | None = None
    label: str | None = None
    split: str | None = None
    """"train", "val" or "test" where the source itself says so, else None."""

    def read(self) -> bytes:
        """The raw bytes. Raises OSError where the file cannot be read."""
        if self.content is not None:
            return self.content
        assert self.path is not None
        return self.path.read_bytes()


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Examples side by side.

    Args:
        inputs: what the frontend reads; the modality fixes shape and dtype, first axis B.
        padding: (B, T) bool, True where there is no data; None where nothing is padded.
        labels: (B,) int64 class ids, -1 where unknown; None for unlabelled data.
        samples: (B,) int64, the samples' numbers in their split.
    """

    inputs: Tensor
    padding: Tensor | None = None
    labels: Tensor | None = None
    samples: Tensor | None = None

    def __len__(self) -> int:
        return self.inputs.shape[0]

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device; copies do not wait for the device."""
        return replace(self, **_moved(self, device))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory."""
        return replace(self, **_pinned(self))


@dataclass(frozen=True, kw_only=True)
class Mask:
    """Where the model must predict.

    Args:
        predict: (B, T) bool, True where the model must predict; never True on padding.
        positions: (M,) int64, the True places of `predict.flatten()`. Made on the CPU with the
            mask, so that selecting on a GPU needs no host synchronisation.
        replacement: (B, T) int64 token ids the student reads instead of the originals, for
            modalities made of tokens; None where a learned vector stands at the masked places.
    """

    predict: Tensor
    positions: Tensor
    replacement: Tensor | None = None

    @staticmethod
    def of(predict: Tensor, replacement: Tensor | None = None) -> Mask:
        """A mask from its boolean grid."""
        return Mask(
            predict=predict,
            positions=predict.flatten().nonzero().squeeze(1),
            replacement=replacement,
        )

    def to(self, device: torch.device) -> Mask:
        """The same mask on another device; copies do not wait for the device."""
        return replace(self, **_moved(self, device))

    def pin_memory(self) -> Mask:
        """The same mask in page-locked memory."""
        return replace(self, **_pinned(self))


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """What a frontend hands to the encoder.

    Args:
        values: (B, T, D) float.
        padding: (B, T) bool, True where there is no data; None where nothing is padded.
        attention_bias: (1 or B, H, T, T) float, added to the attention logits; None for none.
        num_prefix: tokens before the data (CLS): never masked, never a target.
    """

    values: Tensor
    padding: Tensor | None = None
    attention_bias: Tensor | None = None
    num_prefix: int = 0


class Frontend(nn.Module, ABC):
    """A module that turns a batch into tokens and owns the mask embedding."""

    @abstractmethod
    def features(self, batch: Batch) -> Tensor:
        """Everything that does not depend on the mask, computed once a step: (B, T, ...)."""

    @abstractmethod
    def forward(self, features: Tensor, mask: Mask | None) -> Tokens:
        """Tokens with positions, masked places replaced; None masks nothing."""

    @abstractmethod
    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights anew from the generator."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """An objective's answer to one micro-batch.

    Args:
        total: scalar, the loss summed over what it counts; the engine divides by the global count,
            so that the mean is exact however a batch is cut over devices and micro-batches.
        count: scalar, how many units `total` sums.
        monitors: name -> scalar tensor without gradient, for logging and guards.
    """

    total: Tensor
    count: Tensor
    monitors: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Guard:
    """A monitor that must stay above a floor, and what to tell the user when it does not."""

    monitor: str
    minimum: float
    cause: str
    remedy: str


def _pinned(what: Batch | Mask) -> dict[str, Any]:
    return {
        name: value.pin_memory() for name, value in vars(what).items() if isinstance(value, Tensor)
    }


def _moved(what: Batch | Mask, device: torch.device) -> dict[str, Any]:
    return {
        name: value.to(device, non_blocking=True)
        for name, value in vars(what).items()
        if isinstance(value, Tensor)
    }


class Objective(nn.Module, ABC):
    """What the engine trains: a module that answers a micro-batch with a loss."""

    @abstractmethod
    def forward(self, batch: Batch, mask: Mask, *, monitor: bool = False) -> Loss:
        """Loss summed over what it counts; monitors where asked for."""

    @abstractmethod
    def after_update(self, step: int) -> dict[str, float]:
        """Called in the open after optimiser update number `step`; figures to log."""

    @abstractmethod
    def guards(self) -> list[Guard]:
        """Monitors that must stay above a floor."""

    @abstractmethod
    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights anew from the generator."""
