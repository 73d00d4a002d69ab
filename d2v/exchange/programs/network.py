"""A trained model as one module from raw numbers to plain tensors, as exporters can trace it.

Letters: B batch, C channels, S side of a picture in pixels or samples of a recording, T tokens,
D width, V classes or symbols.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from d2v.core.features import mean_over_tokens
from d2v.exchange.outgoing import Outgoing
from d2v.modalities.speech.geometry import Geometry
from d2v.types import Batch

TOKENS, POOLED, COUNTS = "tokens", "pooled", "num_tokens"
ANSWERS = {"classify": "logits", "regress": "value", "ctc": "log_probs"}
"""Task -> what its output is called."""
_STANDARD_EPS = 1e-5
"""As where recordings are read (`d2v.modalities.speech.decode.standardise`)."""


class Network(nn.Module):
    """Frontend, encoder and, of a task model, its head; masks nothing."""

    def __init__(self, outgoing: Outgoing) -> None:
        super().__init__()
        self.frontend, self.encoder = outgoing.frontend, outgoing.encoder
        self.head: nn.Module | None = None
        self.own_norm, self.answer = False, answer_name(outgoing)
        if outgoing.model is not None:
            self.head = outgoing.model.kept_parts()["head"]
            self.read_head = outgoing.model.read_head  # a method: no second copy of the weights
            self.own_norm = outgoing.model.own_norm

    def forward(self, inputs: Tensor, num_tokens: Tensor | None = None) -> dict[str, Tensor]:
        """All that the model says.

        Args:
            inputs: what the frontend reads.
            num_tokens: (B,) int64, how many tokens of each row hold data; None for all.

        Returns:
            `tokens` (B, T, D), the encoder's output as the head reads it; `pooled` (B, D), its mean
            over the tokens that hold data, without CLS; the task's answer; `num_tokens` (B,) int64
            where rows may be padded.
        """
        features = self.frontend.features(Batch(inputs=inputs))
        padding = None
        if num_tokens is not None:
            places = torch.arange(features.shape[1], device=features.device)
            padding = places >= num_tokens.unsqueeze(1)  # (B, T)
        tokens = self.frontend(features, None, padding)
        encoded = self.encoder(tokens)
        x = encoded.before_norm if self.own_norm else encoded.last  # (B, T, D)
        first = tokens.num_prefix
        data = None if tokens.padding is None else tokens.padding[:, first:]
        outputs = {TOKENS: x, POOLED: mean_over_tokens(x[:, first:], data)}
        if self.head is not None:
            answer = self.read_head(self.head, x, tokens.padding, first)
            outputs[self.answer] = answer.values
        if num_tokens is not None:
            outputs[COUNTS] = num_tokens
        return outputs


def answer_name(outgoing: Outgoing) -> str:
    """What the output of the model's task is called; empty for an encoder alone."""
    if outgoing.model is None:
        return ""
    assert outgoing.recipe.finetune is not None
    return ANSWERS[outgoing.recipe.finetune.task.name]


class PictureProgram(nn.Module):
    """Of pictures."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """`pictures`: (B, C, S, S) uint8."""
        outputs: dict[str, Tensor] = self.network(pictures)
        return outputs


class RecordingProgram(nn.Module):
    """Of recordings; standardises each over its own samples where the model was trained so."""

    def __init__(self, network: Network, geometry: Geometry, *, standardised: bool) -> None:
        super().__init__()
        self.network, self.geometry, self.standardised = network, geometry, standardised

    def forward(self, waveforms: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """What lies behind a recording's length is not read.

        Args:
            waveforms: (B, S) float32 at 16 kHz, full scale 1.
            lengths: (B,) int64, in samples; at least one token's.
        """
        behind = torch.arange(waveforms.shape[1], device=waveforms.device) >= lengths.unsqueeze(1)
        x = waveforms.masked_fill(behind, 0)
        if self.standardised:
            count = lengths.unsqueeze(1).to(x.dtype)
            x = (x - x.sum(1, keepdim=True) / count).masked_fill(behind, 0)
            variance = x.square().sum(1, keepdim=True) / count
            x = x / (variance + _STANDARD_EPS).sqrt()
        last = lengths - self.geometry.receptive_field
        num_tokens = torch.div(last, self.geometry.stride, rounding_mode="floor") + 1
        outputs: dict[str, Tensor] = self.network(self._read_part(x), num_tokens)
        return outputs

    def _read_part(self, x: Tensor) -> Tensor:
        """Samples that tokens read: without the others, exporters see how many tokens there are.

        Picked by their numbers, because of a slice they would want to know whether it fits.
        """
        count = self.geometry.num_tokens(x.shape[1])
        end = self.geometry.receptive_field + (count - 1) * self.geometry.stride
        return x.index_select(1, torch.arange(end, device=x.device))


class TextProgram(nn.Module):
    """Of texts."""

    def __init__(self, network: Network, pad_id: int) -> None:
        super().__init__()
        self.network, self.pad_id = network, pad_id

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        """`ids`: (B, T) int64, `<pad>` on the right."""
        outputs: dict[str, Tensor] = self.network(ids, (ids != self.pad_id).sum(1))
        return outputs
