"""Texts as a modality: the promises of modalities/base.py kept."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor
from torch.nn.utils.rnn import pad_sequence

from d2v.core.encoder import EncoderSettings
from d2v.modalities.base import (
    Features,
    LengthUnit,
    Modality,
    SourceSettings,
    Summarised,
)
from d2v.modalities.figures import ModalityPlan
from d2v.modalities.text.baseline import tf_idf
from d2v.modalities.text.fit import check_data
from d2v.modalities.text.frontend import FrontendSettings, TextFrontend
from d2v.modalities.text.inputs import read_inputs
from d2v.modalities.text.learn import learn_tokenizer
from d2v.modalities.text.masks import MaskSettings, token_masks
from d2v.modalities.text.pictures import draw_masks
from d2v.modalities.text.source import read_source
from d2v.modalities.text.store import StoreSettings, encode_text, read_tokens, summarise_texts
from d2v.modalities.text.tokenizer import TokenizerSettings, about_tokenizer
from d2v.samples import SourceItem, StoredSample
from d2v.settings import Settings
from d2v.types import Batch, Frontend, Mask

_TOKENS_AT_ONCE = 65_536
"""Features of that many tokens, four times as wide inside a block of the published model, take
0.8 GB."""


class TextSettings(Settings):
    """Everything about texts."""

    name: Literal["text"]
    frontend: FrontendSettings = FrontendSettings()
    tokenizer: TokenizerSettings = TokenizerSettings()
    mask: MaskSettings = MaskSettings()
    store: StoreSettings = StoreSettings()
    baseline_tokens: int = Field(8192, ge=1)
    """Tokens that the TF-IDF baseline counts: those that most training texts have."""

    prepare_sections: ClassVar[tuple[str, ...]] = ("store", "tokenizer")
    """Sections that decide what preparing writes."""
    model_sections: ClassVar[tuple[str, ...]] = ("frontend", "tokenizer")
    """Sections that decide which tensors a model has, and what they mean."""

    @property
    def has_cls(self) -> bool:
        """`<s>` begins every sample. It may be masked, and is a target like any other token."""
        return True

    def check_encoder(self, encoder: EncoderSettings) -> None:
        """Any encoder fits."""

    @model_validator(mode="after")
    def _check(self) -> "TextSettings":
        if self.store.block_tokens > self.frontend.max_tokens:
            raise ValueError(
                f"store.block_tokens {self.store.block_tokens} is more than frontend.max_tokens "
                f"{self.frontend.max_tokens}: there is no position for the last tokens"
            )
        return self


@dataclass(frozen=True)
class Text(Modality):
    """Texts."""

    settings: TextSettings
    learned: Path | None = None

    @property
    def length_unit(self) -> LengthUnit:
        """Lengths are stored and told in tokens."""
        return LengthUnit(name="tokens", size=1, at_once=_TOKENS_AT_ONCE)

    @property
    def seconds_per_token(self) -> None:
        """Tokens of a text lie in no time."""

    def read_source(self, source: SourceSettings) -> Iterator[SourceItem]:
        """Plain files, JSON lines, tables, folders of these, built-in documentation."""
        return read_source(source)

    def read_inputs(
        self, inputs: Sequence[Path | bytes], source: SourceSettings
    ) -> Iterator[SourceItem]:
        """Lines of files; rows of tables and JSON lines with the columns of the training data."""
        return read_inputs(inputs, source)

    def learn(self, items: Callable[[], Iterable[SourceItem]], folder: Path) -> None:
        """The tokenizer: trained, or copied from where the settings say."""
        learn_tokenizer(items, self.settings.tokenizer, self.settings.store, folder)

    def encode(self, item: SourceItem) -> list[StoredSample]:
        """Blocks of token ids; of a labelled text or a pair exactly one."""
        return encode_text(item, self.settings.store, self.settings.tokenizer, self._folder)

    def about(self) -> dict[str, Any]:
        """Which tokenizer made the ids, and how many a sample has at most."""
        known = about_tokenizer(self._folder, self.settings.tokenizer)
        return {**known, "block_tokens": self.settings.store.block_tokens}

    @property
    def common_about(self) -> tuple[str, ...]:
        """The tokenizer; blocks may be of any size."""
        return ("tokenizer_sha256",)

    def check_data(self, about: Mapping[str, Any]) -> None:
        """Refuse ids that the settings do not know, and samples that are too long."""
        check_data(about, self.settings.tokenizer, self.settings.frontend)

    def summarise(self, totals: Mapping[str, Mapping[str, float]]) -> Summarised:
        """Documents, sentences, tokens; the tokenizer's file."""
        return summarise_texts(totals, self._folder)

    def decode(
        self, parts: dict[str, bytes], generator: Generator | None, limit: int | None = None
    ) -> Tensor:
        """(T,) int64 ids. A crop keeps `<s>` in front."""
        tokens = read_tokens(parts, self.settings.tokenizer)
        if limit is None or len(tokens) <= limit:
            return tokens
        start = 0
        if generator is not None:
            start = int(torch.randint(len(tokens) - limit + 1, (), generator=generator))
        return torch.cat([tokens[:1], tokens[start + 1 : start + limit]])

    def collate(self, examples: Sequence[Tensor]) -> Batch:
        """(B, T) int64, `<pad>` on the right; what is padding is told by lengths alone."""
        pad_id = self.settings.tokenizer.pad_id
        inputs = pad_sequence(list(examples), batch_first=True, padding_value=float(pad_id))
        lengths = torch.tensor([len(example) for example in examples])
        padding = torch.arange(inputs.shape[1]) >= lengths.unsqueeze(1)
        return Batch(inputs=inputs, padding=padding if bool(padding.any()) else None)

    def build_frontend(self, encoder: EncoderSettings) -> Frontend:
        """Embedding, positions, norm."""
        return TextFrontend(self.settings.frontend, self.settings.tokenizer, encoder)

    def sample_mask(self, batch: Batch, generators: Sequence[Generator]) -> Mask:
        """Spans of tokens, and what the student reads in their place."""
        return token_masks(batch, self.settings.mask, self.settings.tokenizer, generators)

    def baselines(self, train: Callable[[], Iterable[Batch]]) -> dict[str, Features]:
        """TF-IDF over the model's own tokens, counted on the training split."""
        tokenizer = self.settings.tokenizer
        counted = tf_idf(
            train(), num_tokens=tokenizer.size, special_ids=tokenizer.special_ids,
            num_counted=self.settings.baseline_tokens,
        )  # fmt: skip
        return {"TF-IDF": counted}

    def plan(self, encoder: EncoderSettings, length: float | None = None) -> ModalityPlan:
        """Figures for a dry run; looking up embeddings multiplies nothing."""
        longest = self.settings.store.block_tokens
        num_tokens = longest if length is None else max(1, round(length))
        masked = self.settings.mask.num_masked(num_tokens)
        return ModalityPlan(
            num_tokens=num_tokens,
            num_masked=masked,
            frontend_flops=0.0,
            exact_kind="random" if self.settings.mask.kind == "spans" else None,
            text=f"{num_tokens} tokens (at most {longest}) out of "
            f"{self.settings.tokenizer.size:,}, about {masked} masked",
        )

    def show_masks(self, batch: Batch, mask: Mask, path: Path) -> None:
        """A cell a token, coloured by what the student reads there."""
        draw_masks(batch, mask, self.settings.tokenizer.mask, path)

    @property
    def _folder(self) -> Path:
        assert self.learned is not None, "built without what learn wrote"
        return self.learned
