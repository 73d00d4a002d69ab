"""What every modality promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator
from torch import Generator, Tensor

from d2v.core.encoder import EncoderSettings
from d2v.errors import UsageError
from d2v.modalities.figures import ModalityPlan
from d2v.samples import SourceItem, StoredSample
from d2v.settings import Settings
from d2v.types import Batch, Frontend, Mask

Features = Callable[[Batch], Tensor]
"""Batch -> (B, F) float, sparse (COO) where most of it is zero."""


class SourceSettings(Settings):
    """Where raw data lies, and how to read it."""

    source: str | None = None
    """A folder, a file, or data that comes with d2v (`builtin:digits`)."""
    files: dict[Literal["train", "val", "test"], str] | None = None
    """Split -> file below the source, where names and columns do not tell the splits."""
    path_column: str = "path"
    """Column of a table with each sample's file, relative to the table's folder."""
    label_from: Literal["source", "speaker"] = "source"
    """What a label is. source: what folders or the label column say; speaker: who speaks, and then
    speakers need not stay in one split."""
    label_kind: Literal["class", "number"] = "class"
    """What a label means. class: the name of one; number: a value, which a task can predict."""
    label_column: str = "label"
    """Column of a table with the labels; a table may do without."""
    split_column: str = "split"
    """Column of a table with train, val or test; a table may do without."""
    speaker_column: str = "speaker"
    """Column of a table with who speaks; speakers stay in one split."""
    transcript_column: str = "transcript"
    """Column of a table with what is said."""
    start_column: str = "start"
    """Column of a table with where in its file a sample begins, in seconds."""
    end_column: str = "end"
    """Column of a table with where it ends, in seconds."""
    text_column: str = "text"
    """Column of a table, or field of a JSON line, with the text."""
    pair_column: str | None = None
    """Column or field with the second text of a pair."""
    whole_texts: bool = False
    """Whether each text is one sample, cut where it is too long; false: only what has a label or a
    second text, and others are documents, which may give several."""
    documents: Literal["file", "blank_line"] = "file"
    """What one document is in a plain text file: the file, or all up to the next blank line."""
    header: bool = True
    """Whether a table names its columns; false: columns are called 0, 1, 2, ..."""
    quoting: bool = True
    """Whether a table quotes fields; false: a quotation mark is a character like any other."""

    @model_validator(mode="after")
    def _check_label(self) -> SourceSettings:
        if self.label_kind == "number" and self.label_from == "speaker":
            raise ValueError("label_kind number and label_from speaker exclude each other")
        return self

    def refuse_unread(self, read: Collection[str], noun: str) -> None:
        """Refuse what would be set in vain.

        Args:
            read: the settings that a modality reads.
            noun: what it calls its samples, one of them.

        Raises:
            UsageError: another one is not at its default.
        """
        for name, known in SourceSettings.model_fields.items():
            value = getattr(self, name)
            if name not in read and value != known.default:
                raise UsageError(
                    f"data.{name}={value} does nothing: no {noun} is read with it",
                    expected=f"for {noun}s only {', '.join(f'data.{key}' for key in read)}",
                    remedy=f"Leave data.{name} out.",
                )


class Modality(ABC):
    """One modality. Small and picklable: worker processes carry it along.

    Built from its settings and, where encoding needs what `learn` wrote, the folder of that.
    A stored example is a tensor whose meaning the modality fixes.
    """

    @property
    @abstractmethod
    def length_unit(self) -> LengthUnit:
        """What a sample's length is told in to people."""

    @property
    @abstractmethod
    def seconds_per_token(self) -> float | None:
        """From the beginning of one token to that of the next; None where tokens lie in no time."""

    @abstractmethod
    def read_source(self, source: SourceSettings) -> Iterator[SourceItem]:
        """Raw samples in a fixed order. Raises UsageError where the source makes no sense."""

    @abstractmethod
    def read_inputs(
        self, inputs: Sequence[Path | bytes], source: SourceSettings
    ) -> Iterator[SourceItem]:
        """Raw samples that a trained model is applied to, in the order of the inputs, unlabelled.

        What cannot be used comes as an item with its problem.

        Args:
            inputs: files and folders; bytes are what came through standard input.
            source: how the model's training data were read.

        Raises:
            UsageError: an input is not there, or a folder holds nothing to read; before the first
                item.
        """

    @abstractmethod
    def learn(self, items: Callable[[], Iterable[SourceItem]], folder: Path) -> None:
        """Write into `folder` what encoding must know of all the data; nothing where it is there.

        Called once, for the set that pre-training reads, before anything is encoded.
        """

    @abstractmethod
    def encode(self, item: SourceItem) -> list[StoredSample]:
        """What is stored of one raw item: at least one sample. Raises BadSampleError."""

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """What a reader of the shards must know, as JSON; kept in every index."""

    @property
    @abstractmethod
    def common_about(self) -> tuple[str, ...]:
        """Keys of `about` in which all data of one model must agree; others differ harmlessly."""

    @abstractmethod
    def check_data(self, about: Mapping[str, Any]) -> None:
        """Refuse shards whose `about` does not fit these settings. Raises UsageError."""

    @abstractmethod
    def summarise(self, totals: Mapping[str, Mapping[str, float]]) -> Summarised:
        """Words and files from what the samples' `totals` add up to: split -> name -> sum."""

    @abstractmethod
    def decode(
        self, parts: dict[str, bytes], generator: Generator | None, limit: int | None = None
    ) -> Tensor:
        """One example from what is stored.

        Args:
            parts: extension -> content.
            generator: of random changes; None for none.
            limit: longest length wanted, in the unit of `StoredSample.length`; what is longer is
                cropped, at a place that the generator draws (without one, at its beginning).
        """

    def num_tokens(self, length: int) -> int | None:
        """Tokens of a sample of so much length, as stored, where targets must fit; else None."""
        return None

    @abstractmethod
    def collate(self, examples: Sequence[Tensor]) -> Batch:
        """Examples side by side, padding marked."""

    @abstractmethod
    def build_frontend(self, encoder: EncoderSettings) -> Frontend:
        """The module that turns a batch into tokens."""

    @abstractmethod
    def sample_mask(self, batch: Batch, generators: Sequence[Generator]) -> Mask:
        """Where the model must predict, one place a sample at least; one generator a sample."""

    @abstractmethod
    def baselines(self, train: Callable[[], Iterable[Batch]]) -> dict[str, Features]:
        """Features that need no training: name -> function. What an encoder must beat.

        Args:
            train: reads the training split, for what must be counted on it.
        """

    @abstractmethod
    def plan(self, encoder: EncoderSettings, length: float | None = None) -> ModalityPlan:
        """Figures for `--dry-run`; `length`: of a mean sample, where it is known."""

    @abstractmethod
    def show_masks(self, batch: Batch, mask: Mask, path: Path) -> None:
        """Draw some samples with their masks into a PNG."""


@dataclass(frozen=True, kw_only=True)
class LengthUnit:
    """How lengths are told to people.

    Args:
        name: plural of the unit, "seconds".
        size: lengths as stored in one unit, 16,000.
        at_once: total length that any model encodes at once, where no gradients are kept; None for
            no limit.
    """

    name: str
    size: int
    at_once: float | None = None


@dataclass(frozen=True, kw_only=True)
class Summarised:
    """What preparing tells of a modality.

    Args:
        lines: for the report.
        files: name -> content, written beside the splits.
    """

    lines: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
