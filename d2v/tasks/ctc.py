"""Speech recognition: a character for each frame or none, read greedily or with a language model.

Letters: B batch, T tokens (frames), V symbols, L labels, N answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from d2v.core.alignment import character_errors, word_errors
from d2v.core.encoder import Encoder
from d2v.errors import GuardError
from d2v.tasks import transcripts
from d2v.tasks.base import Answer, Judge, Task
from d2v.tasks.ctc_model import CtcModel, CtcSettings
from d2v.tasks.decoding import Decoded, Decoder, greedy
from d2v.tasks.language_model import (
    check_language_model,
    fit_language_model,
    load_language_model,
)
from d2v.tasks.worst import Heard, write_worst
from d2v.types import TRANSCRIPT, Batch, Frontend

_DETAILS = "json"
"""Member with the normalised transcript."""


@dataclass(frozen=True)
class Ctc(Task):
    """Transcripts.

    Args:
        settings: of the task.
        symbols: of the vocabulary, the blank first.
        decoder: reads outputs; None reads them greedily.
    """

    settings: CtcSettings
    symbols: tuple[str, ...]
    decoder: Decoder | None = field(default=None, compare=False)
    needs_member: ClassVar[str | None] = TRANSCRIPT
    target_members: ClassVar[tuple[str, ...]] = (_DETAILS,)

    @classmethod
    def of_data(cls, settings: CtcSettings, folder: Path) -> Ctc:
        """The task with the vocabulary of prepared data; the language model is checked.

        Raises:
            UsageError: there are no transcripts, or the ARPA file cannot be used.
        """
        symbols = transcripts.vocabulary_of(folder)
        if settings.language_model is not None:
            check_language_model(settings.language_model, symbols)
        return cls(settings, symbols)

    def with_language_model(self, folder: Path) -> Ctc:
        """The task that decodes with what `fit_readings` left in a folder. Raises UsageError."""
        return replace(self, decoder=load_language_model(self.symbols, folder))

    @property
    def main_score(self) -> str:
        """1 - WER; below 0 where there are more errors than words."""
        return "word_accuracy"

    @property
    def masks_input(self) -> bool:
        """As set."""
        return self.settings.mask_inputs

    def target(self, parts: Mapping[str, bytes]) -> str | None:
        """The normalised transcript."""
        return transcripts.transcript_of(parts.get(_DETAILS))

    def problem(self, target: Any, num_tokens: int | None) -> str | None:
        """A transcript that the symbols cannot spell, or that no path of so many frames gives."""
        if strange := transcripts.strange_characters(target, self.symbols):
            return f"its transcript has {strange[0]!r}, which is not in the vocabulary"
        needed = transcripts.frames_needed(transcripts.as_ids(target, self.symbols))
        if num_tokens is not None and needed > num_tokens:
            return (
                f"its transcript of {len(target)} characters takes {needed} frames at least, and "
                f"it has {num_tokens}"
            )
        return None

    def collate(self, targets: Sequence[Any]) -> Tensor:
        """Label lines, (B, L) int64, -1 behind their ends; empty rows where there is none."""
        return transcripts.side_by_side(
            [None if text is None else transcripts.as_ids(text, self.symbols) for text in targets]
        )

    def truths(self, batch: Batch) -> list[Any]:
        """Transcripts; characters outside the vocabulary are kept, and count as errors."""
        if batch.targets is None:
            return [None] * len(batch)
        lines = transcripts.apart(batch.targets)
        return [None if line is None else transcripts.as_text(line, self.symbols) for line in lines]

    def build(self, frontend: Frontend, encoder: Encoder) -> CtcModel:
        """The model."""
        return CtcModel(frontend, encoder, self.settings, self.symbols)

    def about(self) -> dict[str, Any]:
        """The vocabulary."""
        return {"symbols": list(self.symbols)}

    def decode(self, log_probs: Tensor) -> Decoded:
        """Words out of (T, V) log-probabilities without padding."""
        if self.decoder is None:
            return greedy(log_probs, self.symbols)
        return self.decoder.decode(log_probs)

    def judge(self, answers: Sequence[Answer]) -> Judge:
        """Errors over all words and over all characters, spaces included; who says anything."""
        texts = [self.decode(answer.output).text for answer in answers]
        pairs = [(answer.target, text) for answer, text in zip(answers, texts, strict=True)]
        units = (word_errors, character_errors)
        counts = np.array(
            [[(found.total, found.length) for found in (unit(*pair) for unit in units)]
             for pair in pairs]
        )  # (N, 2 units, 2)  # fmt: skip
        spoke = np.array([bool(text) for text in texts])

        def figures(places: NDArray[np.int64]) -> dict[str, float]:
            errors, lengths = counts[places].sum(0).T  # (2 units,) each
            wer, cer = (errors / lengths).tolist()
            share = float(spoke[places].mean())
            return {"word_accuracy": 1 - wer, "wer": wer, "cer": cer, "decoded_share": share}

        return figures

    def check_scores(self, history: Sequence[Mapping[str, float]]) -> None:
        """Stop where nothing was decoded for `blank_patience` scores in a row."""
        shares = [row["decoded_share"] for row in history if "decoded_share" in row]
        patience = self.settings.blank_patience
        if patience is not None and len(shares) >= patience and not any(shares[-patience:]):
            raise GuardError(
                f"Nothing but blanks and word boundaries on val, {patience} times in a row",
                expected="some characters by now",
                remedy="A higher learning rate, more steps or a pre-trained encoder help; where it "
                "only takes longer, raise finetune.task.blank_patience.",
            )

    def describe(self, answer: Answer, seconds_per_token: float | None) -> dict[str, Any]:
        """The transcript, and its words with where they begin and end, in seconds."""
        found = self.decode(answer.output)
        words: list[dict[str, Any]] = [{"word": word.text} for word in found.words]
        if seconds_per_token is not None:
            for row, word in zip(words, found.words, strict=True):
                row["start"] = round(word.first_frame * seconds_per_token, 3)
                row["end"] = round((word.last_frame + 1) * seconds_per_token, 3)
        return {"transcript": found.text, "words": words}

    def fit_readings(
        self, train: Iterable[Any], val: Sequence[Answer], folder: Path
    ) -> dict[str, Task]:
        """Decoding with a language model, where one is set."""
        if self.settings.language_model is None:
            return {}
        name, decoder = fit_language_model(
            self.settings.language_model,
            self.symbols,
            (text for text in train if text is not None),
            [(answer.output, answer.target) for answer in val if answer.target is not None],
            folder,
        )
        return {name: replace(self, decoder=decoder)}

    def report(self, answers: Sequence[Answer], sources: Sequence[str], folder: Path) -> list[str]:
        """The utterances with the most errors, as a list."""
        heard = [
            Heard(source, answer.target, self.decode(answer.output).text)
            for answer, source in zip(answers, sources, strict=True)
            if answer.target is not None
        ]
        path = folder / "worst.txt"
        wrong = write_worst(heard, path)
        told = f"{wrong} of {len(heard)} utterances have errors: the worst are in {path}"
        return [told, *(self.decoder.remarks if self.decoder is not None else ())]
