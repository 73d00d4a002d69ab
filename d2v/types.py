"""The few types that every floor shares.

Letters: B batch, T tokens, D width, H heads, L blocks, M masked tokens of the whole batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

_T = TypeVar("_T", bound="Batch | Mask")

NUMBER = "number"
"""Extension of the member that holds a sample's number (ASCII), where labels are numbers."""
TRANSCRIPT = "txt"
"""Extension of the member that holds what is said or written in a sample, as given (UTF-8)."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Examples side by side.

    Args:
        inputs: what the frontend reads; the modality fixes shape and dtype, first axis B.
        padding: (B, T) bool, True where there is no data; None where nothing is padded.
        labels: (B,) int64 class ids, -1 where unknown; None for unlabelled data.
        samples: (B,) int64, the samples' numbers in their split.
        targets: what a task wants of each sample where that is no class: (B,) float32 values, NaN
            where unknown, or (B, L) int64 rows of symbols, -1 behind their ends; None without one.
        missing: how many samples should be here beside them and cannot be used.
    """

    inputs: Tensor
    padding: Tensor | None = None
    labels: Tensor | None = None
    samples: Tensor | None = None
    targets: Tensor | None = None
    missing: int = 0

    def __len__(self) -> int:
        return self.inputs.shape[0]

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device; copies do not wait for the device."""
        return _each(self, lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory."""
        return _each(self, Tensor.pin_memory)


@dataclass(frozen=True, kw_only=True)
class Mask:
    """Where the model must predict.

    Args:
        predict: (B, T) bool, True where the model must predict; never True on padding.
        positions: (M,) int64, the True places of `predict.flatten()`. Made on the CPU with the
            mask, so that selecting on a GPU needs no host synchronisation.
        replacement: (B, T) int64 token ids the student reads instead of the originals, for
            modalities made of tokens; None where a learned vector stands at the masked places.
        channel_seeds: one a sample, where channels are hidden besides: set to zero over all
            tokens. Seeds rather than places, for the width is known to the frontend alone.
        visible: (B, V) int64, the places that hold data and are not masked, in order; made on the
            CPU for students that read nothing else. None where the student reads every place.
        visible_padding: (B, V) bool, True where a row of `visible` has fewer places than V; None
            where all have as many.
    """

    predict: Tensor
    positions: Tensor
    replacement: Tensor | None = None
    channel_seeds: tuple[int, ...] | None = None
    visible: Tensor | None = None
    visible_padding: Tensor | None = None

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
        return _each(self, lambda tensor: tensor.to(device, non_blocking=True))

    def with_visible(self, padding: Tensor | None) -> Mask:
        """The same mask, and which places stay visible.

        Args:
            padding: (B / S, T) bool of the samples, S rows of the mask for each; None for nowhere.

        A row that hides all of its places, as one of a single token must, shows its first one:
        attention without anything to attend to is not a number.
        """
        unseen = self.predict
        if padding is not None:
            unseen = unseen | padding.repeat_interleave(len(unseen) // len(padding), dim=0)
        counts = (~unseen).sum(1).clamp_min(1)
        places = unseen.to(torch.uint8).argsort(dim=1, stable=True)[:, : int(counts.max())]
        beyond = torch.arange(places.shape[1]) >= counts.unsqueeze(1)
        return replace(self, visible=places, visible_padding=beyond if bool(beyond.any()) else None)

    def pin_memory(self) -> Mask:
        """The same mask in page-locked memory."""
        return _each(self, Tensor.pin_memory)


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """What a frontend hands to the encoder.

    Args:
        values: (B, T, D) float.
        padding: (B, T) bool, True where there is no data; None where nothing is padded.
        attention_bias: (1 or B, H, T, T) float, added to the attention logits, or one for each of
            the L blocks, (L, 1 or B, H, T, T); None for none.
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
    def forward(self, features: Tensor, mask: Mask | None, padding: Tensor | None) -> Tokens:
        """Tokens with positions, masked places replaced.

        Args:
            features: what `features` gave.
            mask: None masks nothing.
            padding: (B, T) bool, the batch's, True where there is no data; None for nowhere.
        """

    def views(self, features: Tensor, mask: Mask, padding: Tensor | None) -> Tokens:
        """Tokens with positions, for a student that reads only what the masks leave visible.

        Args:
            features: what `features` gave, (B, T, ...).
            mask: of N views, those of one sample side by side.
            padding: (B, T) bool, True where there is no data; None for nowhere.

        Returns:
            One row a sample, or one a view where what is masked bears on what is not; what stands
            at masked places holds no meaning.
        """
        tokens: Tokens = self(features, None, padding)
        return tokens

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns that the tokens form, without prefix; None where they lie in a line."""
        return None

    @abstractmethod
    def calibrate(self, batches: Iterable[Batch]) -> None:
        """Take figures of the training data into buffers (a mean, say), before the first update."""

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


class Objective(nn.Module, ABC):
    """What the engine trains: a module that answers a micro-batch with a loss."""

    @property
    @abstractmethod
    def trains_all_always(self) -> bool:
        """Whether every micro-batch gives every parameter a gradient."""

    @abstractmethod
    def forward(self, batch: Batch, mask: Mask | None, *, monitor: bool = False) -> Loss:
        """Loss summed over what it counts; monitors where asked for."""

    def before_update(self, step: int) -> None:
        """Called in the open before optimiser update number `step` (0-based); most need nothing."""

    @abstractmethod
    def after_update(self, step: int) -> dict[str, float]:
        """Called in the open after optimiser update number `step`; figures to log."""

    @abstractmethod
    def guards(self) -> list[Guard]:
        """Monitors that must stay above a floor."""

    @abstractmethod
    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights anew from the generator."""


def _each(what: _T, change: Callable[[Tensor], Tensor]) -> _T:
    """The same with every tensor changed."""
    changed: dict[str, Any] = {
        name: change(one) for name, one in vars(what).items() if isinstance(one, Tensor)
    }
    return replace(what, **changed)
