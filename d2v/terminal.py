"""What a person sees of an error and of a report. Used by the command line alone."""

import re
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TextIO

import typer

from d2v.errors import D2VError, InterruptedRunError, StoppedError, UsageError
from d2v.report import Report

# rich is imported where it is used: `d2v --help` must not wait for it.

_NUMBER = re.compile(r"[-+±<>~]*\d.*|[-–—]?")


class _TerminatedError(BaseException):
    """SIGTERM, as Ctrl-C is KeyboardInterrupt: nothing that handles errors may take it for one."""


@contextmanager
def explained_errors(verbose: bool = False) -> Iterator[None]:
    """Turn an exception into a message and an exit code.

    Args:
        verbose: print the traceback of failed runs too; of wrong usage it would say nothing.

    Raises:
        typer.Exit: with the error's own code, 1 for what nobody foresaw, 130 for Ctrl-C.
    """
    try:
        with _sigterm_as_error():
            yield
    except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
        raise  # Typer knows what to do
    except KeyboardInterrupt:
        complain("stopped by Ctrl-C.", label="Stopped")
        raise typer.Exit(InterruptedRunError.exit_code) from None
    except _TerminatedError:
        complain("SIGTERM came. The same command continues where it stopped.", label="Stopped")
        raise typer.Exit(StoppedError.exit_code) from None
    except Exception as error:
        foreseen = isinstance(error, D2VError | OSError | MemoryError) or _out_of_memory(error)
        if not foreseen or (verbose and not isinstance(error, UsageError)):
            traceback.print_exc()
        stopped = isinstance(error, StoppedError | InterruptedRunError)
        complain(_explanation(error), label="Stopped" if stopped else "Error")
        raise typer.Exit(error.exit_code if isinstance(error, D2VError) else 1) from None


@contextmanager
def _sigterm_as_error() -> Iterator[None]:
    """SIGTERM unwinds the stack like Ctrl-C, so that nothing half-written stays behind.

    Training installs its own handler for its time: it finishes the step and writes a checkpoint.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise _TerminatedError

    earlier = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


def complain(message: str, *, label: str = "Error") -> None:
    """Print a message to stderr, wrapped to the terminal; in a pipe each line stays whole."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    colour = "bold red" if label == "Error" else "bold yellow"
    text = Text.assemble((f"{label}:", colour), " ", _printable(message))
    console.print(text, soft_wrap=not console.is_terminal)


def show(report: Report, file: TextIO | None = None) -> None:
    """Print a report: a framed table on a terminal, plain aligned columns in a pipe or file.

    Args:
        report: what a command answered.
        file: to print to; None for standard output.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, file=file)
    whole = not console.is_terminal
    if report.headline:
        console.print(Text(_printable(report.headline), style="bold"), soft_wrap=whole)
    if report.text:
        console.print(Text(_printable(report.text)), soft_wrap=True)
    if report.columns:
        _print_table(report, plain=whole, file=file)
    for remark in report.remarks:
        console.print(Text(_printable(remark)), soft_wrap=whole)


def _print_table(report: Report, *, plain: bool, file: TextIO | None) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None if plain else box.SIMPLE_HEAD, pad_edge=not plain, header_style="bold")
    for number, name in enumerate(report.columns):
        numeric = all(_NUMBER.fullmatch(row[number]) for row in report.rows)
        table.add_column(Text(name), justify="right" if numeric else "left", no_wrap=plain)
    for number, row in enumerate(report.rows):
        style = "bold" if number == report.highlight else None
        cells = [Text(_printable(cell)) for cell in row]  # Text: a cell may contain [brackets]
        table.add_row(*cells, style=style)
    console = Console(highlight=False, width=100_000 if plain else None, file=file)
    console.print(table, soft_wrap=plain)


def _printable(text: str) -> str:
    """File and class names may hold anything: no control codes, no bytes that are no text."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text
    )


def _explanation(error: Exception) -> str:
    if isinstance(error, D2VError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error}. Check that the path exists, may be written, and that the disk has space."
    if isinstance(error, MemoryError) or _out_of_memory(error):
        detail = str(error).partition("\n")[0].rstrip(".")
        return f"out of memory. {detail}. Use a smaller batch on each device or a smaller encoder."
    return (
        "this is a bug in d2v, not a mistake of yours. Please report it with the traceback above, "
        f"the command and the output of --print-config. ({type(error).__name__}: {error})"
    )


def _out_of_memory(error: Exception) -> bool:
    return type(error).__name__ == "OutOfMemoryError"  # torch's; torch may not even be loaded
