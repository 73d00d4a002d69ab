"""Features computed from the waveform: log-mel spectra (torchaudio's filters).

For small data and small machines: nothing here is learned, and nothing can collapse.
Letters: B batch, S samples, F frames (10 ms), T tokens (20 ms), N bands.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torchaudio.functional import melscale_fbanks

from d2v.errors import UsageError
from d2v.modalities.speech.geometry import Geometry
from d2v.modalities.speech.positions import PositionSettings
from d2v.modalities.speech.rate import RATE_HZ
from d2v.settings import Settings

_MIN_DEVIATION = 1e-3
"""A band that never changes is not blown up."""


class LogMelSettings(Settings):
    """Log-mel spectra instead of learned convolutions."""

    kind: Literal["logmel"] = "logmel"
    """Tokens from log-mel spectra."""
    normalise: bool = True
    """Whether every recording is brought to mean 0 and variance 1 before it is cropped."""
    num_bands: int = Field(80, ge=1)
    """Mel bands from 0 Hz to half the sampling rate."""
    window: int = Field(400, ge=2)
    """Samples of a frame's Hann window; 400 are 25 ms."""
    hop: int = Field(160, ge=1)
    """Samples between frames; 160 are 10 ms."""
    num_stacked: int = Field(2, ge=1)
    """Frames side by side in a token; 2 make one token each 20 ms."""
    floor: float = Field(1e-5, gt=0)
    """Least power of a band before the logarithm; a recording of variance 1 has about 4."""
    positions: PositionSettings = PositionSettings()

    @model_validator(mode="after")
    def _check(self) -> "LogMelSettings":
        if self.hop > self.window:
            raise ValueError(f"hop {self.hop} is above window {self.window}: samples are skipped")
        if self.num_bands > self.window // 4:
            raise ValueError(
                f"num_bands {self.num_bands} is more than a window of {self.window} samples "
                f"resolves (at most {self.window // 4})"
            )
        return self

    @property
    def frame_geometry(self) -> Geometry:
        """Of single frames; a window lies within the recording, nothing is padded."""
        return Geometry(receptive_field=self.window, stride=self.hop)

    @property
    def geometry(self) -> Geometry:
        """Of tokens: T = (S - window - (num_stacked - 1) hop) // (num_stacked hop) + 1."""
        return Geometry(
            receptive_field=self.window + (self.num_stacked - 1) * self.hop,
            stride=self.num_stacked * self.hop,
        )

    @property
    def width(self) -> int:
        """Numbers of a feature."""
        return self.num_bands * self.num_stacked

    def flops(self, num_samples: int) -> float:
        """Multiply-adds times two: the filters; the Fourier transform is small beside them."""
        frames = self.frame_geometry.num_tokens(num_samples)
        return 2.0 * frames * (self.window // 2 + 1) * self.num_bands

    def kept_values(self, num_samples: int) -> float:
        """Numbers kept for the backward pass: the features."""
        return float(self.geometry.num_tokens(num_samples) * self.width)


class LogMel(nn.Module):
    """(B, S) -> (B, F, N): logarithm of the power in each mel band, never less than float32."""

    def __init__(self, settings: LogMelSettings) -> None:
        super().__init__()
        with torch.device("cpu"):  # torchaudio reads its own numbers: a meta device has none
            filters = melscale_fbanks(
                settings.window // 2 + 1,
                0.0,
                RATE_HZ / 2,
                settings.num_bands,
                RATE_HZ,
                norm="slaney",
                mel_scale="slaney",  # the other scale's lowest bands lie between two frequencies
            )
        self.register_buffer("filters", filters, persistent=False)
        window = torch.hann_window(settings.window).clone()  # else a part of a longer tensor
        self.register_buffer("window", window, persistent=False)
        self.settings = settings

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        """Log power of each frame that lies within the samples; of a short input, one frame."""
        filters, window = self.get_buffer("filters"), self.get_buffer("window")
        with torch.autocast(inputs.device.type, enabled=False):
            samples = inputs.to(window.dtype)
            if samples.shape[1] < self.settings.window:  # one frame at least
                samples = F.pad(samples, (0, self.settings.window - samples.shape[1]))
            frames = samples.unfold(1, self.settings.window, self.settings.hop)
            power = torch.fft.rfft(frames * window).abs().square()  # (B, F, window / 2 + 1)
            spectrum: Tensor = (power @ filters).clamp_min(self.settings.floor).log()
        return spectrum


class StackedLogMel(nn.Module):
    """Log-mel frames, standardised with the training data's figures, several to a token."""

    def __init__(self, settings: LogMelSettings) -> None:
        super().__init__()
        self.spectrum = LogMel(settings)
        self.register_buffer("mean", torch.zeros(settings.num_bands))
        self.register_buffer("deviation", torch.ones(settings.num_bands))
        self.settings = settings

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, S) -> (B, T, num_stacked * N)."""
        mean, deviation = self.get_buffer("mean"), self.get_buffer("deviation")
        x: Tensor = (self._whole(inputs) - mean) / deviation
        return x.reshape(x.shape[0], -1, self.settings.width)

    @torch.no_grad()
    def calibrate(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        """Mean and deviation of each band over all frames of the tokens that hold data.

        Args:
            batches: waveforms (B, S) and their padding (B, T) bool.

        Raises:
            UsageError: there is nothing to measure.
        """
        bands = self.settings.num_bands
        count, total, squares = 0, *torch.zeros(2, bands, dtype=torch.float64)
        for inputs, padding in batches:
            x = self._whole(inputs.to(self.get_buffer("mean").device)).double()  # (B, F, N)
            if padding is None:
                x = x.flatten(0, 1)
            else:
                keep = (~padding).repeat_interleave(self.settings.num_stacked, 1)
                x = x[keep.to(x.device)]
            x = x.cpu()
            count, total, squares = count + len(x), total + x.sum(0), squares + x.square().sum(0)
        if count == 0:
            raise UsageError(
                "There is no recording to take the mean and deviation of log-mel bands from",
                expected="at least one batch of the training split",
            )
        mean = total / count
        deviation = (squares / count - mean.square()).clamp_min(0).sqrt()
        self.get_buffer("mean").copy_(mean)
        self.get_buffer("deviation").copy_(deviation.clamp_min(_MIN_DEVIATION))

    def initialise(self, generator: torch.Generator) -> None:
        """Nothing: no weights, and the figures are those of the data."""

    def _whole(self, inputs: Tensor) -> Tensor:
        """Frames that fill whole tokens. (B, S) -> (B, T * num_stacked, N)."""
        num_frames = self.settings.geometry.num_tokens(inputs.shape[1]) * self.settings.num_stacked
        spectrum: Tensor = self.spectrum(inputs)
        return spectrum[:, :num_frames]
