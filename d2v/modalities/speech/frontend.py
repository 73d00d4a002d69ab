"""From waveforms to tokens: features, projection, mask vector, convolutional positions.

The layer norm behind the positions belongs to the encoder (`encoder.input_norm`).
Letters: B batch, S samples, T tokens, C channels of a feature, D width.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from d2v.core.alibi import Alibi
from d2v.core.encoder import EncoderSettings
from d2v.modalities.speech.convolution import Convolutions, ConvolutionSettings
from d2v.modalities.speech.logmel import LogMelSettings, StackedLogMel
from d2v.modalities.speech.masks import MaskSettings, channel_masks
from d2v.modalities.speech.positions import ConvolutionalPositions
from d2v.types import Batch, Frontend, Mask, Tokens

FrontendSettings = ConvolutionSettings | LogMelSettings
"""Two ways to features; `kind` tells which."""
_PUBLISHED_MASK = MaskSettings()


class SpeechFrontend(Frontend):
    """Features of the waveform with a mask vector and positions."""

    def __init__(
        self,
        settings: FrontendSettings,
        encoder: EncoderSettings,
        mask: MaskSettings = _PUBLISHED_MASK,
    ) -> None:
        super().__init__()
        self.mask_settings = mask
        self.extractor: Convolutions | StackedLogMel
        if settings.kind == "convolution":
            self.extractor = Convolutions(settings, encoder.norm_eps)
        else:
            self.extractor = StackedLogMel(settings)
        self.projection = nn.Linear(settings.width, encoder.dim)
        self.mask_token = nn.Parameter(torch.empty(encoder.dim))
        self.positions = ConvolutionalPositions(settings.positions, encoder.dim)
        self.alibi = Alibi(encoder.num_heads) if settings.positions.alibi else None

    def features(self, batch: Batch) -> Tensor:
        """Projected features. (B, S) float -> (B, T, D); places with padding hold no meaning."""
        projected: Tensor = self.projection(self.extractor(batch.inputs))
        return projected

    def forward(self, features: Tensor, mask: Mask | None, padding: Tensor | None) -> Tokens:
        """Tokens for the encoder.

        Args:
            features: (B, T, D) projected features.
            mask: masked places are replaced by one learned vector, then hidden channels set to
                zero; None masks nothing.
            padding: (B, T) bool, True where there is no data; None for nowhere.

        Returns:
            (B, T, D) with positions added, zero where there is padding; bias by distance
            (1, H, T, T) where it is asked for.
        """
        x = features
        if mask is not None:
            x = torch.where(mask.predict.unsqueeze(-1), self.mask_token.to(x.dtype), x)
            if mask.channel_seeds is not None:
                hidden = channel_masks(x.shape[2], self.mask_settings, mask.channel_seeds)
                x = x.masked_fill(hidden.to(x.device, non_blocking=True).unsqueeze(1), 0)
        return self._placed(x, padding)

    def views(self, features: Tensor, mask: Mask, padding: Tensor | None) -> Tokens:
        """Tokens of every view: its masked places are silent to the positions of the others.

        Source: reference section 4.3, bookkeeping (`encoder_zero_mask`).
        """
        times = len(mask.predict) // len(features)
        x = features.repeat_interleave(times, dim=0).masked_fill(mask.predict.unsqueeze(-1), 0)
        return self._placed(x, None if padding is None else padding.repeat_interleave(times, dim=0))

    def _placed(self, x: Tensor, padding: Tensor | None) -> Tokens:
        if padding is not None:
            x = x.masked_fill(padding.unsqueeze(-1), 0)
        bias = None if self.alibi is None else self.alibi(x.shape[1])
        return Tokens(values=x + self.positions(x, padding), padding=padding, attention_bias=bias)

    def calibrate(self, batches: Iterable[Batch]) -> None:
        """The deviations of log-mel bands; convolutions need nothing."""
        if isinstance(self.extractor, StackedLogMel):
            self.extractor.calibrate((batch.inputs, batch.padding) for batch in batches)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Every part as in the reference (section 2.2): the mask vector uniform in 0..1.

        The projection keeps PyTorch's start of a linear layer.
        """
        self.extractor.initialise(generator)
        bound = 1 / math.sqrt(self.projection.in_features)
        for parameter in (self.projection.weight, self.projection.bias):
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
        nn.init.uniform_(self.mask_token, generator=generator)
        self.positions.initialise(generator)
        if self.alibi is not None:
            self.alibi.initialise()
