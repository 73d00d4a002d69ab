"""Tiny speech frontends, ragged waveforms, and the frontend written out in loops."""

import math
from typing import Any

import torch
from torch import Tensor

from d2v.core.encoder import EncoderSettings
from d2v.modalities.speech.convolution import ConvolutionSettings
from d2v.modalities.speech.frontend import FrontendSettings, SpeechFrontend
from d2v.modalities.speech.logmel import LogMelSettings
from d2v.modalities.speech.modality import Speech, SpeechSettings
from d2v.modalities.speech.positions import PositionSettings
from d2v.types import Batch
from tests.maths_case import normal, seeded, shaken, tiny_settings

LAYERS = ((6, 10, 5), (8, 3, 2), (5, 3, 2), (6, 2, 2))
"""A token each 40 samples, 60 samples behind each."""
POSITIONS = PositionSettings(num_layers=3, kernel=5, groups=3)
CONVOLUTION = ConvolutionSettings(layers=LAYERS, positions=POSITIONS)
LOGMEL = LogMelSettings(num_bands=6, window=40, hop=16, positions=POSITIONS)
FRONTENDS: dict[str, FrontendSettings] = {"convolution": CONVOLUTION, "logmel": LOGMEL}


def modality(kind: str = "convolution", **changes: Any) -> Speech:
    return Speech(SpeechSettings(name="speech", frontend=FRONTENDS[kind], **changes))


def build(settings: FrontendSettings, encoder: EncoderSettings | None = None) -> SpeechFrontend:
    """Float64 with arbitrary weights, width 12."""
    frontend = SpeechFrontend(settings, encoder or tiny_settings())
    frontend.initialise(seeded(0))
    frontend.double()
    shaken(frontend)
    if settings.kind == "logmel":
        window = torch.hann_window(LOGMEL.window, dtype=torch.float64)
        frontend.extractor.get_buffer("spectrum.window").copy_(window)
        frontend.extractor.get_buffer("mean").copy_(normal(8, LOGMEL.num_bands))
        frontend.extractor.get_buffer("deviation").copy_(normal(9, LOGMEL.num_bands).abs() + 0.5)
    return frontend


def waves(*lengths: int, seed: int = 1) -> list[Tensor]:
    """Standard normal, float64."""
    return [normal(seed + number, length) for number, length in enumerate(lengths)]


def batch_of(kind: str, examples: list[Tensor]) -> Batch:
    return modality(kind).collate(examples)


# Written out


def slow_length(num_samples: int, layers: tuple[tuple[int, int, int], ...]) -> int:
    """Reference 2.2: floor((n - k) / s) + 1, layer by layer."""
    for _, kernel, stride in layers:
        num_samples = math.floor((num_samples - kernel) / stride) + 1
    return num_samples


def slow_norm(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Of one vector, biased variance."""
    mean = x.sum() / len(x)
    return (x - mean) / ((x - mean).square().sum() / len(x) + eps).sqrt()


def slow_gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def slow_convolutions(extractor: Any, wave: Tensor) -> Tensor:
    """One recording (S,) -> (T, C): frame by frame."""
    x = wave.unsqueeze(1)  # (S, 1)
    biases = list(extractor.biases) or [torch.zeros(())] * len(extractor.weights)
    for weight, bias, norm, (_, kernel, stride) in zip(
        extractor.weights, biases, extractor.norms, extractor.settings.layers, strict=True
    ):
        frames = []
        for t in range((len(x) - kernel) // stride + 1):
            window = x[t * stride : t * stride + kernel]  # (kernel, C)
            frame = torch.stack([(row * window.T).sum() for row in weight]) + bias
            frames.append(slow_gelu(slow_norm(frame) * norm.weight + norm.bias))
        x = torch.stack(frames)
    top = extractor.norm  # its eps is the encoder's
    return torch.stack([slow_norm(row, top.eps) * top.weight + top.bias for row in x])


def slow_logmel(extractor: Any, wave: Tensor) -> Tensor:
    """One recording (S,) -> (T, num_stacked * N): a discrete Fourier transform by its sum."""
    s = extractor.settings
    n = torch.arange(s.window, dtype=torch.float64)
    hann = 0.5 - 0.5 * torch.cos(2 * math.pi * n / s.window)
    frames = []
    for first in range(0, len(wave) - s.window + 1, s.hop):
        windowed = wave[first : first + s.window] * hann
        power = []
        for k in range(s.window // 2 + 1):
            angle = 2 * math.pi * k * n / s.window
            power.append((windowed * angle.cos()).sum() ** 2 + (windowed * angle.sin()).sum() ** 2)
        bands = torch.stack(power) @ extractor.spectrum.filters
        logs = torch.maximum(bands, torch.tensor(s.floor, dtype=torch.float64)).log()
        frames.append((logs - extractor.mean) / extractor.deviation)
    tokens = [
        torch.cat(frames[t : t + s.num_stacked])
        for t in range(0, len(frames) - s.num_stacked + 1, s.num_stacked)
    ]
    return torch.stack(tokens)


def slow_positions(positions: Any, x: Tensor) -> Tensor:
    """One recording without padding (T, D) -> (T, D)."""
    s = positions.settings
    half, size = s.kernel // 2, x.shape[1] // s.groups
    for weight, bias in zip(positions.weights, positions.biases, strict=True):
        rows = []
        for t in range(len(x)):
            groups = list(bias.split(size))
            for j in range(max(0, half - t), min(s.kernel, len(x) - t + half)):
                for g, seen in enumerate(x[t + j - half].split(size)):
                    groups[g] = groups[g] + weight[g * size : (g + 1) * size, :, j] @ seen
            rows.append(slow_gelu(slow_norm(torch.cat(groups))))
        x = torch.stack(rows)
    return x


def slow_tokens(frontend: SpeechFrontend, wave: Tensor, hidden: list[bool] | None) -> Tensor:
    """One recording to the encoder's input (T, D)."""
    slow = slow_convolutions if frontend.extractor.settings.kind == "convolution" else slow_logmel
    features = slow(frontend.extractor, wave)
    x = features @ frontend.projection.weight.T + frontend.projection.bias
    if hidden is not None:
        x = torch.stack(
            [frontend.mask_token if h else row for h, row in zip(hidden, x, strict=True)]
        )
    return x + slow_positions(frontend.positions, x)
