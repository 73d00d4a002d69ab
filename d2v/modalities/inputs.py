"""What a trained model is applied to: files and folders that a person names, or standard input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from d2v.errors import UsageError
from d2v.modalities.listing import Kind, entries, files, none_found
from d2v.samples import SourceItem

STDIN = "-"
"""The name of what came through standard input."""
Named = tuple[str, Path | bytes]
"""What an input is called in reports, and where it is."""


def named_inputs(
    inputs: Sequence[Path | bytes], kind: Kind, has: Callable[[str], bool] | None = None
) -> Iterator[Named]:
    """Every file among the inputs, in their order; those of a folder in that of their names.

    A file that is named itself is taken whatever it is called: what cannot be read of it is said
    later, with a reason.

    Args:
        inputs: files, folders, and the bytes of standard input.
        kind: of files taken out of folders.
        has: whether a file of that name is one; null for what `kind` says.

    Raises:
        UsageError: one is not there, or a folder holds no such file; before the first is given.
    """
    has = has or kind.has
    for given in inputs:
        if isinstance(given, Path):
            _check(given, kind, has)
    return _named(inputs, has)


def input_items(inputs: Sequence[Path | bytes], kind: Kind) -> Iterator[SourceItem]:
    """One item a file, without label or split. Raises UsageError like `named_inputs`."""
    return map(_item, named_inputs(inputs, kind))


def _item(named: Named) -> SourceItem:
    name, given = named
    if isinstance(given, bytes):
        return SourceItem(name=name, content=given)
    return SourceItem(name=name, path=given)


def _named(inputs: Sequence[Path | bytes], has: Callable[[str], bool]) -> Iterator[Named]:
    for given in inputs:
        if isinstance(given, bytes):
            yield STDIN, given
        elif given.is_dir():
            for name in filter(has, files(given)):
                yield (given / name).as_posix(), given / name
        else:
            yield given.as_posix(), given


def _check(given: Path, kind: Kind, has: Callable[[str], bool]) -> None:
    if not given.exists():
        raise UsageError(
            f"The input {given} does not exist",
            expected=f"{kind.noun}s, folders of these, or - for standard input",
        )
    if given.is_dir() and not any(map(has, files(given, entries))):
        raise none_found(given, kind)
