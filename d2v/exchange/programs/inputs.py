"""What a program is called with, for each modality: shapes, meaning, and samples to try it on.

Letters: B batch, C channels, S side of a picture in pixels or samples of a recording, T tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.export import Dim
from torch.nn.utils.rnn import pad_sequence

from d2v.core.seeding import generator_for
from d2v.exchange.outgoing import Outgoing
from d2v.exchange.programs.network import Network, PictureProgram, RecordingProgram, TextProgram
from d2v.modalities import Modality
from d2v.modalities.speech.decode import standardise
from d2v.modalities.speech.frontend import FrontendSettings as SpeechFrontendSettings
from d2v.modalities.speech.modality import SpeechSettings
from d2v.modalities.speech.rate import RATE_HZ
from d2v.modalities.text.modality import TextSettings
from d2v.modalities.vision.modality import VisionSettings
from d2v.types import Batch

Dynamic = dict[str, dict[int, Any]]
"""Input -> axis -> `torch.export.Dim`."""
_TRIED_TOKENS = 60
"""Of the longest recording that a program is tried on, about."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Random samples.

    Args:
        inputs: name -> tensor, as the program is called.
        batch: the same samples as d2v reads and batches them.
    """

    inputs: dict[str, Tensor]
    batch: Batch


class Inputs(ABC):
    """What a program of one modality is called with."""

    @abstractmethod
    def program(self, network: Network) -> nn.Module:
        """The module to trace; its `forward` names the inputs."""

    @abstractmethod
    def dynamic(self) -> Dynamic:
        """Axes of any size."""

    @abstractmethod
    def draw(self, sizes: Sequence[float], number: int) -> Drawn:
        """Random samples, the `number`-th draw; `sizes`: a row each, 0 shortest to 1 longest."""

    @abstractmethod
    def describe(self) -> dict[str, dict[str, Any]]:
        """Input -> shape, dtype, meaning."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Further numbers that a caller must know."""


@dataclass(frozen=True)
class Pictures(Inputs):
    """Squares of pixels."""

    settings: VisionSettings
    modality: Modality

    def program(self, network: Network) -> nn.Module:
        """One input."""
        return PictureProgram(network)

    def dynamic(self) -> Dynamic:
        """Pictures have one size."""
        return {"pictures": {0: Dim("batch", min=1)}}

    def draw(self, sizes: Sequence[float], number: int) -> Drawn:
        """Noise."""
        s = self.settings.frontend
        shape = (len(sizes), s.channels, s.image_size, s.image_size)
        pixels = torch.randint(256, shape, generator=_generator(number), dtype=torch.uint8)
        return Drawn(inputs={"pictures": pixels}, batch=self.modality.collate(list(pixels)))

    def describe(self) -> dict[str, dict[str, Any]]:
        """As Pillow gives them, channels first."""
        s, share = self.settings.frontend, self.settings.augment.evaluation_scale
        colours = "RGB" if s.channels == 3 else "greyscale"
        square = "the middle square" + (f", {share:g} of the shorter side," if share < 1 else "")
        meaning = (
            f"{colours} pixels, 0 to 255; the program normalises them. d2v cuts out {square} and "
            "resizes it (bicubic, antialiased)."
        )
        shape = ["batch", s.channels, s.image_size, s.image_size]
        return {"pictures": {"shape": shape, "dtype": "uint8", "meaning": meaning}}

    def facts(self) -> dict[str, Any]:
        """Size, and how many tokens stand before the patches."""
        s = self.settings.frontend
        return {"image_size": s.image_size, "prefix_tokens": int(s.cls_token)}


@dataclass(frozen=True)
class Recordings(Inputs):
    """Waveforms at 16 kHz."""

    settings: SpeechFrontendSettings
    modality: Modality

    def program(self, network: Network) -> nn.Module:
        """Waveforms and their lengths."""
        s = self.settings
        return RecordingProgram(network, s.geometry, standardised=s.normalise)

    def dynamic(self) -> Dynamic:
        """Any number of any length; exporters take one token and several for different things."""
        batch, samples = Dim("batch", min=1), Dim("samples", min=self._least_row)
        return {"waveforms": {0: batch, 1: samples}, "lengths": {0: batch}}

    def draw(self, sizes: Sequence[float], number: int) -> Drawn:
        """Quiet noise beside zero, so that standardising matters."""
        generator, geometry = _generator(number), self.settings.geometry
        longest = _TRIED_TOKENS * geometry.stride
        lengths = [geometry.receptive_field + round(longest * size) for size in sizes]
        waves = [0.1 * torch.randn(length, generator=generator) + 0.05 for length in lengths]
        read = [standardise(wave) for wave in waves] if self.settings.normalise else waves
        inputs = {
            "waveforms": pad_sequence(waves, batch_first=True),
            "lengths": torch.tensor(lengths),
        }
        return Drawn(inputs=inputs, batch=self.modality.collate(read))

    def describe(self) -> dict[str, dict[str, Any]]:
        """Not standardised by the caller."""
        done = (
            "each recording is brought to mean 0 and variance 1 within the program"
            if self.settings.normalise
            else "read as they are"
        )
        one, two = self.settings.geometry.receptive_field, self._least_row
        return {
            "waveforms": {
                "shape": ["batch", "samples"],
                "dtype": "float32",
                "meaning": f"one channel at {RATE_HZ} Hz, full scale 1; {done}. Anything may stand "
                f"behind the end of shorter ones; a row has at least {two} samples.",
            },
            "lengths": {
                "shape": ["batch"],
                "dtype": "int64",
                "meaning": f"samples of each recording, at least {one}.",
            },
        }

    @property
    def _least_row(self) -> int:
        """Samples of two tokens."""
        geometry = self.settings.geometry
        return geometry.receptive_field + geometry.stride

    def facts(self) -> dict[str, Any]:
        """Rate, and which samples a token reads."""
        geometry = self.settings.geometry
        return {
            "sample_rate_hz": RATE_HZ,
            "samples_per_token": geometry.stride,
            "samples_of_first_token": geometry.receptive_field,
            "prefix_tokens": 0,
        }


@dataclass(frozen=True)
class Ids(Inputs):
    """Token ids of texts."""

    settings: TextSettings
    modality: Modality

    def program(self, network: Network) -> nn.Module:
        """One input."""
        return TextProgram(network, self.settings.tokenizer.pad_id)

    def dynamic(self) -> Dynamic:
        """As many tokens as there are positions."""
        tokens = Dim("tokens", min=2, max=self.settings.frontend.max_tokens)
        return {"ids": {0: Dim("batch", min=1), 1: tokens}}

    def draw(self, sizes: Sequence[float], number: int) -> Drawn:
        """Ids without `<pad>`, between `<s>` and `</s>`."""
        generator, t = _generator(number), self.settings.tokenizer
        room = self.settings.frontend.max_tokens - 3
        rows = []
        for size in sizes:
            ids = torch.randint(t.size, (3 + round(room * size),), generator=generator)
            ids[0], ids[-1] = t.bos_id, t.eos_id
            rows.append(ids.masked_fill(ids == t.pad_id, t.unk_id))
        padded = pad_sequence(rows, batch_first=True, padding_value=float(t.pad_id))
        return Drawn(inputs={"ids": padded}, batch=self.modality.collate(rows))

    def describe(self) -> dict[str, dict[str, Any]]:
        """How a text becomes ids."""
        t = self.settings.tokenizer
        meaning = (
            f"<s> A </s> for a text and <s> A </s></s> B </s> for a pair, the tokenizer's ids "
            f"between {t.bos_id} (<s>) and {t.eos_id} (</s>), {t.pad_id} (<pad>) on the right of "
            f"the shorter ones; at most {self.settings.frontend.max_tokens} of them."
        )
        return {"ids": {"shape": ["batch", "tokens"], "dtype": "int64", "meaning": meaning}}

    def facts(self) -> dict[str, Any]:
        """Special tokens and the longest text."""
        t = self.settings.tokenizer
        return {
            "bos_id": t.bos_id,
            "pad_id": t.pad_id,
            "eos_id": t.eos_id,
            "unk_id": t.unk_id,
            "max_tokens": self.settings.frontend.max_tokens,
            "prefix_tokens": 0,
        }


def inputs_of(outgoing: Outgoing) -> Inputs:
    """Of the model's modality."""
    settings = outgoing.recipe.modality
    if isinstance(settings, VisionSettings):
        return Pictures(settings, outgoing.modality)
    if isinstance(settings, SpeechSettings):
        return Recordings(settings.frontend, outgoing.modality)
    assert isinstance(settings, TextSettings)
    return Ids(settings, outgoing.modality)


def _generator(number: int) -> Generator:
    return generator_for("exported program", number)
