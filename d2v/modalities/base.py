"""What every modality promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Generator, Tensor

from d2v.core.encoder import EncoderSettings
from d2v.settings import Settings
from d2v.types import Batch, Frontend, Mask, SourceItem


class SourceSettings(Settings):
    """Where raw data lies."""

    source: str | None = None
    """A folder, a .csv or .tsv file, or `builtin:digits`."""
    path_column: str = "path"
    """Column of a table with each sample's file, relative to the table's folder."""
    label_column: str = "label"
    """Column of a table with the labels; a table may do without."""
    split_column: str = "split"
    """Column of a table with train, val or test; a table may do without."""


class Modality(ABC):
    """One modality. Small and picklable: worker processes carry it along.

    A stored example is a tensor whose meaning the modality fixes.
    """

    @abstractmethod
    def read_source(self, source: SourceSettings) -> Iterator[SourceItem]:
        """Raw samples in a fixed order. Raises UsageError where the source makes no sense."""

    @abstractmethod
    def encode(self, item: SourceItem) -> dict[str, bytes]:
        """What is stored of one raw sample: extension -> content. Raises BadSampleError."""

    @abstractmethod
    def decode(self, parts: dict[str, bytes], generator: Generator | None) -> Tensor:
        """One example from what is stored; random changes from the generator, None for none."""

    @abstractmethod
    def collate(self, examples: Sequence[Tensor]) -> Batch:
        """Examples side by side, padding marked."""

    @abstractmethod
    def build_frontend(self, encoder: EncoderSettings) -> Frontend:
        """The module that turns a batch into tokens."""

    @abstractmethod
    def sample_mask(self, batch: Batch, generators: Sequence[Generator]) -> Mask:
        """Where the model must predict; one generator a sample."""

    @abstractmethod
    def baseline_features(self, batch: Batch) -> dict[str, Tensor]:
        """Features that need no training: name -> (B, F) float. What an encoder must beat."""

    @abstractmethod
    def plan(self, encoder: EncoderSettings) -> ModalityPlan:
        """Figures for `--dry-run`."""

    @abstractmethod
    def show_masks(self, batch: Batch, mask: Mask, path: Path) -> None:
        """Draw some samples with their masks into a PNG."""


@dataclass(frozen=True, kw_only=True)
class ModalityPlan:
    """What a dry run tells of a modality.

    Args:
        num_tokens: tokens of one sample, prefix tokens included.
        num_masked: how many of them the model predicts, about.
        frontend_flops: multiply-adds times two, one sample through the frontend.
        text: one line.
    """

    num_tokens: int
    num_masked: int
    frontend_flops: float
    text: str
