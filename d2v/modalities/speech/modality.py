"""Recordings of speech as a modality: the promises of modalities/base.py kept."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Generator, Tensor
from torch.nn.utils.rnn import pad_sequence

from d2v.core.encoder import EncoderSettings
from d2v.errors import BadSampleError, UsageError
from d2v.modalities.base import (
    Features,
    LengthUnit,
    Modality,
    SourceSettings,
    Summarised,
)
from d2v.modalities.figures import ModalityPlan
from d2v.modalities.inputs import input_items
from d2v.modalities.speech.baseline import LogMelStatistics
from d2v.modalities.speech.convolution import ConvolutionSettings
from d2v.modalities.speech.decode import crop, read_recording, standardise
from d2v.modalities.speech.frontend import FrontendSettings, SpeechFrontend
from d2v.modalities.speech.masks import MaskSettings, span_masks
from d2v.modalities.speech.pictures import draw_masks
from d2v.modalities.speech.rate import RATE_HZ
from d2v.modalities.speech.source import RECORDINGS, read_source
from d2v.modalities.speech.store import StoreSettings, encode_audio
from d2v.modalities.speech.transcripts import summarise
from d2v.samples import SourceItem, StoredSample
from d2v.settings import Settings
from d2v.types import Batch, Frontend, Mask

_USUAL_SECONDS = 10
"""Length that a plan is made for where the data is not there yet."""
_SECONDS_AT_ONCE = 64.0
"""The published convolutions make 1.6 million numbers of a second in their first layer: these take
0.8 GB (measured on a CPU in float32)."""


class SpeechSettings(Settings):
    """Everything about recordings of speech."""

    name: Literal["speech"]
    frontend: FrontendSettings = Field(ConvolutionSettings(), discriminator="kind")
    mask: MaskSettings = MaskSettings()
    store: StoreSettings = StoreSettings()

    prepare_sections: ClassVar[tuple[str, ...]] = ("store",)
    """Sections that decide what preparing writes."""
    model_sections: ClassVar[tuple[str, ...]] = ("frontend",)
    """Sections that decide which tensors a model has."""

    @property
    def has_cls(self) -> bool:
        """No CLS token stands before a recording."""
        return False

    def check_encoder(self, encoder: EncoderSettings) -> None:
        """Raises ValueError where the two do not fit."""
        groups = self.frontend.positions.groups
        if encoder.dim % groups:
            raise ValueError(
                f"modality.frontend.positions.groups {groups} does not divide encoder.dim "
                f"{encoder.dim}"
            )
        if self.mask.channel_ratio > 0 and self.mask.channel_length >= encoder.dim:
            raise ValueError(
                f"modality.mask.channel_length {self.mask.channel_length} must be below "
                f"encoder.dim {encoder.dim}: some channels must be left"
            )


@dataclass(frozen=True)
class Speech(Modality):
    """Recordings of speech. An example is a waveform, (S,) float32 at 16 kHz."""

    settings: SpeechSettings
    learned: Path | None = None

    @property
    def length_unit(self) -> LengthUnit:
        """Samples are told in seconds."""
        return LengthUnit(name="seconds", size=RATE_HZ, at_once=_SECONDS_AT_ONCE)

    @property
    def seconds_per_token(self) -> float:
        """The frontend's stride."""
        return self.settings.frontend.geometry.stride / RATE_HZ

    def read_source(self, source: SourceSettings) -> Iterator[SourceItem]:
        """LibriSpeech's layout, tables, folder trees, flat folders."""
        return read_source(source)

    def read_inputs(
        self, inputs: Sequence[Path | bytes], source: SourceSettings
    ) -> Iterator[SourceItem]:
        """One recording a file."""
        return input_items(inputs, RECORDINGS)

    def learn(self, items: Callable[[], Iterable[SourceItem]], folder: Path) -> None:
        """Nothing: a recording is stored without knowledge of the others."""

    def encode(self, item: SourceItem) -> list[StoredSample]:
        """One channel at 16 kHz; a long recording may give several samples."""
        return encode_audio(item, self.settings.store)

    def about(self) -> dict[str, Any]:
        """The sampling rate."""
        return {"sample_rate_hz": RATE_HZ}

    @property
    def common_about(self) -> tuple[str, ...]:
        """The sampling rate."""
        return ("sample_rate_hz",)

    def check_data(self, about: Mapping[str, Any]) -> None:
        """Refuse recordings of another sampling rate. Raises UsageError."""
        rate = about.get("sample_rate_hz")
        if rate != RATE_HZ:
            raise UsageError(
                f"The shards hold recordings at {rate or 'an unknown rate of'} Hz",
                expected=f"{RATE_HZ} Hz",
                remedy="Prepare them anew with d2v prepare RECIPE --fresh.",
            )

    def summarise(self, totals: Mapping[str, Mapping[str, float]]) -> Summarised:
        """Hours, speakers, rates, characters."""
        return summarise(totals)

    def decode(
        self, parts: dict[str, bytes], generator: Generator | None, limit: int | None = None
    ) -> Tensor:
        """A waveform, standardised as a whole where that is set, then cropped.

        Never to less than one token takes.
        """
        samples = read_recording(parts)
        needed = self.settings.frontend.geometry.receptive_field
        if len(samples) < needed:
            raise BadSampleError(f"{len(samples)} samples, but one token takes {needed}")
        if self.settings.frontend.normalise:
            samples = standardise(samples)
        if not bool(samples.isfinite().all()):
            raise BadSampleError("some of its samples are not finite")
        return crop(samples, None if limit is None else max(limit, needed), generator)

    def num_tokens(self, length: int) -> int:
        """As the frontend makes them."""
        return self.settings.frontend.geometry.num_tokens(length)

    def collate(self, examples: Sequence[Tensor]) -> Batch:
        """(B, S) float32, zeros behind what is shorter; padding marked in tokens."""
        lengths = [len(example) for example in examples]
        return Batch(
            inputs=pad_sequence(list(examples), batch_first=True),
            padding=self.settings.frontend.geometry.padding(lengths),
        )

    def build_frontend(self, encoder: EncoderSettings) -> Frontend:
        """Features, projection, mask vector, positions."""
        return SpeechFrontend(self.settings.frontend, encoder, self.settings.mask)

    def sample_mask(self, batch: Batch, generators: Sequence[Generator]) -> Mask:
        """Spans of tokens, and of channels where set, another draw for each recording."""
        counts = self.settings.frontend.geometry.real_tokens(batch.inputs, batch.padding)
        return span_masks(counts.tolist(), self.settings.mask, generators)

    def baselines(self, train: Callable[[], Iterable[Batch]]) -> dict[str, Features]:
        """Mean and deviation of the log-mel spectrum over time."""
        return {"log-mel statistics": LogMelStatistics(self.settings.frontend.geometry)}

    def plan(self, encoder: EncoderSettings, length: float | None = None) -> ModalityPlan:
        """Figures for a dry run, of a sample of so many (or ten seconds') samples."""
        frontend = self.settings.frontend
        num_samples = _USUAL_SECONDS * RATE_HZ if length is None else round(length)
        tokens = frontend.geometry.num_tokens(num_samples)
        masked = self.settings.mask.num_masked(tokens)
        features = frontend.flops(num_samples) + 2.0 * tokens * frontend.width * encoder.dim
        positions = frontend.positions.flops(tokens, encoder.dim)
        positions_kept = frontend.positions.kept_values(tokens, encoder.dim)
        return ModalityPlan(
            num_tokens=tokens,
            num_masked=masked,
            frontend_flops=features + positions,
            feature_flops=features,
            kept_values=frontend.kept_values(num_samples) + positions_kept,
            view_flops=positions,
            view_kept_values=positions_kept,
            exact_kind="blocks" if self.settings.mask.kind == "spans" else None,
            text=f"{num_samples / RATE_HZ:.1f} s of sound, a token each "
            f"{1000 * frontend.geometry.stride / RATE_HZ:g} ms: {tokens} tokens, about {masked} "
            "masked",
        )

    def show_masks(self, batch: Batch, mask: Mask, path: Path) -> None:
        """Spectrograms with the masked stretches tinted."""
        draw_masks(batch, mask, self.settings.frontend.geometry, path)
