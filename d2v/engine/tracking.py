"""What a run writes while it trains: metrics.jsonl, TensorBoard, a bar or lines for a person."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from d2v.engine.checkpoint import replace_durably

_SHOWN = {
    "loss": "loss {:.4f}",
    "learning_rate": "lr {:.1e}",
    "tau": "tau {:.5f}",
    "target_std": "target {:.2f}",
    "prediction_std": "pred {:.2f}",
    "target_spread": "spread {:.2f}",
    "samples_per_second": "{:.0f} samples/s",
    "knn": "kNN {:.3f}",
    "train_accuracy": "train {:.3f}",
    "accuracy": "accuracy {:.3f}",
    "matthews": "Matthews {:.3f}",
    "pearson": "Pearson {:.3f}",
    "wer": "WER {:.3f}",
}


class Tracker:
    """One logged step in, three places out. Use as a context manager."""

    def __init__(
        self, folder: Path, stage: str, *, total_steps: int, start_step: int, verbosity: int
    ) -> None:
        """Open the files, forgetting steps that are about to be done again.

        Args:
            folder: the run directory.
            stage: name shown to the person.
            total_steps: length of the run.
            start_step: updates already done, according to the checkpoint.
            verbosity: -1 prints nothing, 0 a bar or, in a pipe, some lines, 1 all lines.
        """
        self.stage, self.total_steps, self.verbosity = stage, total_steps, verbosity
        self.metrics_path = folder / "metrics.jsonl"
        _truncate(self.metrics_path, start_step)
        self.file: TextIO = self.metrics_path.open("a", encoding="utf-8")
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=start_step + 1)
        self.console = Console()
        on_terminal = self.console.is_terminal and verbosity >= 0
        self.progress = _progress(self.console) if on_terminal else None
        self.task = (
            self.progress.add_task(stage, total=total_steps, completed=start_step, figures="")
            if self.progress
            else None
        )
        self.last_line_share = start_step / max(1, total_steps)

    def __enter__(self) -> "Tracker":
        """Start the bar."""
        if self.progress:
            self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the files and the bar."""
        if self.progress:
            self.progress.stop()
        self.file.close()
        self.board.close()

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Write the figures of update `step` everywhere."""
        row = {"step": step, **{name: _short(value) for name, value in figures.items()}}
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()
        for name, value in figures.items():
            self.board.add_scalar(name, value, step)
        shown = "  ".join(
            text.format(figures[name]) for name, text in _SHOWN.items() if name in figures
        )
        if self.progress and self.task is not None:
            self.progress.update(self.task, completed=step, figures=shown)
        elif self.verbosity >= 0:
            self._line(step, shown)

    def say(self, text: str) -> None:
        """A warning for the person, above the bar; --quiet does not silence it."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def flush(self) -> None:
        """Hand everything to the system: a kill loses nothing that was logged before."""
        self.board.flush()

    def _line(self, step: int, shown: str) -> None:
        share = step / self.total_steps
        if self.verbosity > 0 or share - self.last_line_share > 0.0499 or step == self.total_steps:
            self.last_line_share = share
            print(f"{self.stage} {step}/{self.total_steps}  {shown}", flush=True)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The logged steps of a run, oldest first; a torn last line is left out."""
    path = folder / "metrics.jsonl"
    return _whole_rows(path.read_text(encoding="utf-8")) if path.exists() else []


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
        console=console,
    )


def _truncate(path: Path, start_step: int) -> None:
    """Drop what was logged after the checkpoint that the run continues from."""
    if path.exists():
        rows = _whole_rows(path.read_text(encoding="utf-8"))
        kept = [json.dumps(row) + "\n" for row in rows if row["step"] <= start_step]
        replace_durably(path, "".join(kept).encode())


def _whole_rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def _short(value: float) -> float | None:
    """Seven digits; null for what JSON cannot say."""
    return float(f"{value:.7g}") if math.isfinite(value) else None
