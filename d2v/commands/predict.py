"""`d2v predict`: a fine-tuned model applied to files, folders or standard input."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TextIO

import torch

from d2v.commands.asking import Asker, Row
from d2v.errors import D2VError, UsageError
from d2v.hardware import resolve_device, resolve_precision
from d2v.model_folder import LoadedModel, load_model
from d2v.report import Report

_TOP = 5
"""Classes in a cell of the table, where nothing else is asked."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of which model.

    Args:
        run: a run directory, its finetune stage, or a model folder.
        inputs: files and folders; bytes are what came through standard input.
        format: table for people, jsonl (an object a line) for programs.
        top: the likeliest classes to name; None for five in a table and all in JSON.
        batch_size: samples at once.
        with_readings: whether a language model that lies in the folder helps.
        verbosity: -1 quiet, 0 normal, 1 verbose.
    """

    run: Path
    inputs: tuple[Path | bytes, ...]
    format: Literal["table", "jsonl"] = "jsonl"
    top: int | None = None
    batch_size: int = 16
    with_readings: bool = True
    verbosity: int = 0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How it went.

    Args:
        num_inputs: rows.
        num_bad: how many of them hold an error.
        report: the table; None where lines were written.
    """

    num_inputs: int
    num_bad: int
    report: Report | None = None

    def raise_if_bad(self) -> None:
        """Raises D2VError where an input could not be used: its row says why."""
        if self.num_bad:
            raise D2VError(
                f"{self.num_bad:,} of {self.num_inputs:,} inputs could not be used",
                expected="inputs like those that the model was trained on",
                remedy="The error of each is in its row; the other rows are complete.",
            )


def run(request: Request, file: TextIO) -> Outcome:
    """Ask the model about every input, in their order.

    Args:
        request: what is asked.
        file: JSON lines are written to, each as soon as it is known.

    Raises:
        UsageError: no such model or input, or nothing in the inputs.
    """
    loaded = load_model(request.run, with_readings=request.with_readings)
    source = loaded.recipe.data_set("finetune")[1]
    items = loaded.modality.read_inputs(request.inputs, source)
    first = next(items, None)
    if first is None:
        raise UsageError(
            "There is nothing in the inputs", expected="at least one file, or a line of text"
        )
    rows = _asker(loaded, request).rows(chain([first], items))
    if request.format == "table":
        table = list(rows)
        num_bad = sum("error" in row for row in table)
        return Outcome(
            num_inputs=len(table), num_bad=num_bad, report=_report(table, loaded, request)
        )
    count = num_bad = 0
    for row in rows:
        count, num_bad = count + 1, num_bad + ("error" in row)
        file.write(json.dumps(_shortened(row, request.top)) + "\n")
        file.flush()
    return Outcome(num_inputs=count, num_bad=num_bad)


@contextmanager
def opened(output: Path | None, stdout: TextIO) -> Iterator[TextIO]:
    """Where to write: standard output, or a file that is whole or not there.

    Raises:
        UsageError: the file cannot be written.
    """
    if output is None:
        yield stdout
        return
    special = output.exists() and not output.is_file()  # a pipe or device keeps its name
    partial = output if special else output.with_name(f".{output.name}.partial")
    try:
        file = partial.open("w", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UsageError(
            f"The output {output} cannot be written: {error.strerror}",
            remedy="Name a file in a folder that exists.",
        ) from error
    try:
        with file:
            yield file
        if not special:
            partial.replace(output)
    finally:
        if not special:
            partial.unlink(missing_ok=True)


def _asker(loaded: LoadedModel, request: Request) -> Asker:
    recipe, settings = loaded.recipe, loaded.recipe.finetune
    assert settings is not None
    if recipe.device == "cuda":  # where it was trained; here is what this machine has
        recipe = recipe.model_copy(update={"device": "auto"})
    device = torch.device(resolve_device(recipe))
    loaded.model.to(device)
    return Asker(
        loaded=loaded,
        device=device,
        precision=resolve_precision(settings.precision, recipe.encoder, device.type),
        batch_size=request.batch_size,
    )


def _shortened(row: Row, top: int | None) -> Row:
    """Rankings cut to their first entries."""
    return {
        name: dict(list(value.items())[:top]) if isinstance(value, dict) else value
        for name, value in row.items()
    }


def _report(rows: Iterable[Row], loaded: LoadedModel, request: Request) -> Report:
    """A table with a column for every name that occurs."""
    rows = [_shortened(row, request.top or _TOP) for row in rows]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return Report(
        headline="" if request.verbosity < 0 else f"Answers of {loaded.folder}",
        columns=columns,
        rows=[[_cell(row.get(name, "")) for name in columns] for row in rows],
    )


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {share:.3f}" for name, share in value.items())
    if isinstance(value, list):
        return ", ".join(f"{word['word']} {word['start']:.2f}-{word['end']:.2f}" for word in value)
    return f"{value:.4f}" if isinstance(value, float) else str(value)
