"""A recogniser of characters: encoder, projection to symbols, CTC loss.

Letters: B batch, T tokens (frames), D width, V symbols, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from d2v.core.encoder import Encoder
from d2v.tasks.language_model import LanguageModelSettings
from d2v.tasks.model import Outputs, TaskModel, TaskSettings
from d2v.tasks.transcripts import UNKNOWN
from d2v.types import Batch, Frontend, Loss, Mask

_BLANK = 0


class CtcSettings(TaskSettings):
    """The characters of a transcript (reference section 3.2)."""

    whole_samples: ClassVar[bool] = True
    name: Literal["ctc"]
    dropout: float = Field(0.0, ge=0, lt=1)
    """Of the encoder's output, before the projection to symbols."""
    mask_inputs: bool = True
    """Whether training hides stretches of the input, and channels, as `modality.mask` says; set
    `finetune.modality.mask` for other stretches than in pre-training."""
    zero_infinity: bool = True
    """Whether a transcript that no path can give counts nothing; false: it stops the run."""
    language_model: LanguageModelSettings | None = None
    """Decode with a language model, too, once trained; null: greedily alone."""
    blank_patience: int | None = Field(20, ge=1)
    """Scores on val in a row with nothing decoded at all, after which the run is stopped; null:
    never. A recogniser begins like this; it must not stay so."""


class CtcHead(nn.Module):
    """Dropout and a projection to symbols."""

    def __init__(self, dim: int, num_symbols: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(dim, num_symbols)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, V) log-probabilities in float32 (float64 where x is)."""
        logits: Tensor = self.projection(self.dropout(x))
        return (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(2)

    @torch.no_grad()
    def initialise(self, generator: Generator) -> None:
        """Xavier uniform, zero bias (reference section 3.2)."""
        nn.init.xavier_uniform_(self.projection.weight, generator=generator)
        nn.init.zeros_(self.projection.bias)


class CtcModel(TaskModel):
    """A recogniser that the engine can train."""

    def __init__(
        self, frontend: Frontend, encoder: Encoder, settings: CtcSettings, symbols: Sequence[str]
    ) -> None:
        self.task_settings, self.num_symbols = settings, len(symbols)
        self.unknown = symbols.index(UNKNOWN)
        head = CtcHead(encoder.settings.dim, len(symbols), settings.dropout)
        super().__init__(frontend, encoder, head, settings)

    def forward(self, batch: Batch, mask: Mask | None, *, monitor: bool = False) -> Loss:
        """-log p(transcript) summed over the utterances that have one (Graves et al. 2006)."""
        assert batch.targets is not None
        log_probs, frames = self.read_head(self.head, *self.encode(batch, mask))
        assert frames is not None
        known = batch.targets >= 0  # (B, L)
        labels = batch.targets.clamp_min(0)
        labels = labels.where(labels < self.num_symbols, self.unknown)
        lengths = known.sum(1)
        each = F.ctc_loss(
            log_probs.transpose(0, 1), labels, frames, lengths, blank=_BLANK, reduction="none",
            zero_infinity=self.task_settings.zero_infinity,
        )  # fmt: skip
        total = each.where(lengths > 0, 0).sum()
        count = (lengths > 0).sum()
        monitors = {}
        if monitor:
            equal = (labels[:, 1:] == labels[:, :-1]) & known[:, 1:]
            too_long = lengths + equal.sum(1) > frames
            spoken = torch.arange(log_probs.shape[1], device=frames.device) < frames.unsqueeze(1)
            blank = (log_probs.detach().argmax(2) == _BLANK) & spoken
            monitors = {
                "too_long": too_long.sum() / count.clamp_min(1),
                "blank_share": blank.sum() / spoken.sum().clamp_min(1),
            }
        return Loss(total=total, count=count, monitors=monitors)

    def read_head(
        self, head: nn.Module, x: Tensor, padding: Tensor | None, num_prefix: int
    ) -> Outputs:
        """Log-probabilities (B, T, V) and how many frames of each row are no padding (B,)."""
        log_probs: Tensor = head(x[:, num_prefix:])
        if padding is None:
            shape = log_probs.shape
            return Outputs(log_probs, torch.full(shape[:1], shape[1], device=x.device))
        return Outputs(log_probs, (~padding[:, num_prefix:]).sum(1))

    def initialise_head(self, generator: Generator) -> None:
        """Draw the projection."""
        assert isinstance(self.head, CtcHead)
        self.head.initialise(generator)
