"""The model of a downstream task: frontend, encoder and a head, trained together or in turns.

Letters: B batch, T tokens, D width, C classes.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from contextlib import nullcontext
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from d2v.core.ema import ema_update
from d2v.core.encoder import Encoder
from d2v.settings import Settings
from d2v.types import Batch, Frontend, Guard, Mask, Objective

Freeze = Literal["nothing", "frontend", "encoder"]


class TaskSettings(Settings):
    """What every task can be told."""

    whole_samples: ClassVar[bool] = False
    """Whether a target holds for a whole sample alone, so that none may be cropped."""

    freeze: Freeze = "nothing"
    """What keeps its weights for good. frontend: all before the blocks; encoder: frontend and
    blocks, so that the head alone learns."""
    freeze_steps: int = Field(0, ge=0)
    """Updates at the beginning in which only the head learns (reference section 3.2)."""
    average: float | None = Field(None, gt=0, lt=1)
    """Decay of a moving average of the weights, an update, which is scored and kept in their place;
    null for none."""


class Outputs(NamedTuple):
    """What a model says of a batch: float32, one row a sample.

    `lengths` (B,) int64 tells how many tokens of each row hold data; None where rows are whole.
    """

    values: Tensor
    lengths: Tensor | None = None

    def rows(self) -> list[Tensor]:
        """Each sample's values without padding, float32 on the CPU."""
        values = self.values.float().cpu()
        if self.lengths is None:
            return list(values)
        return [row[:count] for row, count in zip(values, self.lengths.tolist(), strict=True)]


class TaskModel(Objective):
    """Frontend, encoder and a head. Trained by the engine, scored through `predict`."""

    def __init__(
        self, frontend: Frontend, encoder: Encoder, head: nn.Module, settings: TaskSettings
    ) -> None:
        super().__init__()
        self.frontend, self.encoder, self.head = frontend, encoder, head
        self.settings = settings
        self.own_norm = False  # the head has a norm in place of the encoder's final one
        self.only_head = settings.freeze == "encoder"
        if settings.freeze != "nothing":
            frontend.requires_grad_(False)
        if settings.freeze == "encoder":
            encoder.requires_grad_(False)
        self.averaged = nn.ModuleDict()
        if settings.average is not None:
            self.averaged = nn.ModuleDict(
                {name: copy.deepcopy(part) for name, part in self._parts().items()}
            )
            self.averaged.requires_grad_(False).eval()

    @property
    def trains_all_always(self) -> bool:
        """No: the mask vector may never be used, and the head may learn alone."""
        return False

    def before_update(self, step: int) -> None:
        """Freeze, then thaw."""
        frozen = self.settings.freeze == "encoder"
        self.only_head = frozen or step < self.settings.freeze_steps

    def after_update(self, step: int) -> dict[str, float]:
        """Move the average of the weights, where there is one."""
        decay = self.settings.average
        if decay is not None:
            for name, part in self._parts().items():
                kept = self.averaged[name]
                ema_update(list(kept.parameters()), list(part.parameters()), tau=decay)
                for old, new in zip(kept.buffers(), part.buffers(), strict=True):
                    old.copy_(new)
        return {}

    def guards(self) -> list[Guard]:
        """None: labels do not collapse."""
        return []

    def train(self, mode: bool = True) -> TaskModel:
        """The average never drops anything out."""
        super().train(mode)
        self.averaged.eval()
        return self

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights anew; the average starts as their copy."""
        self.frontend.initialise(generator)
        self.encoder.initialise(generator)
        self.initialise_head(generator)
        self.copy_to_average()

    @abstractmethod
    def initialise_head(self, generator: torch.Generator) -> None:
        """Draw the head's weights."""

    def copy_to_average(self) -> None:
        """Start the average anew from the present weights."""
        for name, part in self.averaged.items():
            part.load_state_dict(self._parts()[name].state_dict())

    def kept_parts(self) -> dict[str, nn.Module]:
        """The parts that are scored and handed on: the average where there is one."""
        return dict(self.averaged.items()) if self.settings.average is not None else self._parts()

    def encode(self, batch: Batch, mask: Mask | None) -> tuple[Tensor, Tensor | None, int]:
        """The encoder's output in training.

        Returns:
            (B, T, D) with prefix tokens; padding (B, T), True where there is no data; the number
            of prefix tokens.
        """
        with torch.no_grad() if self.only_head else nullcontext():
            return _encoded(self.frontend, self.encoder, batch, mask, final_norm=not self.own_norm)

    @torch.no_grad()
    def predict(self, batch: Batch) -> Outputs:
        """What the kept weights say of a batch; call it in eval mode."""
        parts = self.kept_parts()
        frontend, encoder = parts["frontend"], parts["encoder"]
        assert isinstance(frontend, Frontend)
        assert isinstance(encoder, Encoder)
        x, padding, num_prefix = _encoded(
            frontend, encoder, batch, None, final_norm=not self.own_norm
        )
        return self.read_head(parts["head"], x, padding, num_prefix)

    @abstractmethod
    def read_head(
        self, head: nn.Module, x: Tensor, padding: Tensor | None, num_prefix: int
    ) -> Outputs:
        """The encoder's output (B, T, D) through a head."""

    def _parts(self) -> dict[str, nn.Module]:
        return {"frontend": self.frontend, "encoder": self.encoder, "head": self.head}


def _encoded(
    frontend: Frontend, encoder: Encoder, batch: Batch, mask: Mask | None, *, final_norm: bool
) -> tuple[Tensor, Tensor | None, int]:
    tokens = frontend(frontend.features(batch), mask, batch.padding)
    encoded = encoder(tokens)
    x = encoded.last if final_norm else encoded.before_norm
    return x, tokens.padding, tokens.num_prefix
