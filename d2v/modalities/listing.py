"""The files of a source, in an order that depends on names alone; what their folders say of them.

Every modality reads its folders through here, so that hidden files, links, splits and classes mean
the same everywhere.
"""

from __future__ import annotations

import heapq
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from d2v.errors import UsageError
from d2v.modalities.base import SourceSettings
from d2v.samples import SourceItem

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}
"""What people call their splits."""
ENTRIES_IN_MEMORY = 200_000
"""Names of one folder that are sorted in memory."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """The kind of file that a modality looks for.

    Args:
        noun: what a person calls one, "picture"; its plural takes an s.
        suffixes: how the names end, in lower case, dot included.
        layouts: how such files may lie, for error messages.
    """

    noun: str
    suffixes: frozenset[str]
    layouts: str

    def has(self, name: str) -> bool:
        """Whether a file of this name is one."""
        return suffix_of(name) in self.suffixes


def suffix_of(name: str) -> str:
    """The end of a file's name in lower case, dot included; empty where there is none."""
    return os.path.splitext(name)[1].lower()


def source_path(source: str | None, kind: Kind, builtins: Collection[str]) -> Path:
    """The file or folder that a source names.

    Args:
        source: as set; one of `builtins` has been dealt with before.
        kind: of files looked for.
        builtins: names of data that comes with d2v.

    Raises:
        UsageError: nothing is set, or nothing is there.
    """
    if not source:
        raise UsageError(
            "No source is set",
            expected="; or ".join(
                [f"a path: {kind.layouts}", *filter(None, [", ".join(builtins)])]
            ),
            remedy="Set data.source=PATH.",
        )
    if source.startswith("builtin:"):
        raise UsageError(f"There is no {source}", expected=", ".join(builtins))
    path = Path(source).expanduser()
    if not path.exists():
        raise UsageError(
            f"The source {source} does not exist",
            expected=f"a path on this machine: {kind.layouts}",
            remedy="Set data.source=PATH; a relative path starts where d2v is called.",
        )
    return path


def split_files(root: Path, settings: SourceSettings) -> list[tuple[str, Path]]:
    """Split and path of the files that `data.files` names below a source.

    Raises:
        UsageError: one of them is not there.
    """
    named: list[tuple[str, Path]] = [
        (split, root / name) for split, name in (settings.files or {}).items()
    ]
    for split, path in named:
        if not path.is_file():
            raise UsageError(
                f"data.files.{split} names {path}, which is not there",
                expected=f"a file below the source {root}",
            )
    return named


def refuse_single_file(path: Path, kind: Kind) -> UsageError:
    """The error for a source that is a file and no table."""
    return UsageError(
        f"The source {path} is a single file",
        expected=f"one of: {kind.layouts}",
        remedy="Name the folder around it; unpack it first if it is an archive.",
    )


def folder_items(root: Path, kind: Kind) -> Iterator[SourceItem]:
    """Every file below a folder, with the label and the split that the folders' names tell.

    Files of other kinds are listed too: they are turned away later, with a reason.
    A file's label is the first folder below the source (or below train/, val/, test/).

    Raises:
        UsageError: there is no file of this kind, or splits and classes lie side by side.
    """
    with_kind = folders_with(root, kind)
    if not with_kind and not any(map(kind.has, entries(root))):
        raise none_found(root, kind)
    is_split = are_splits(root, with_kind, kind)
    labels = {name: folders_with(root / name, kind) for name in with_kind if is_split}
    for name in files(root):
        top, *rest = name.split("/")
        if top in labels and rest:
            split, label = SPLIT_NAMES[top], rest[0] if rest[0] in labels[top] else None
        else:
            split, label = None, top if top in with_kind and not is_split else None
        yield SourceItem(name=name, path=root / name, label=label, split=split)


def folders_with(root: Path, kind: Kind) -> set[str]:
    """Names of the folders in `root` that have a file of this kind somewhere below."""
    names = [name[:-1] for name in entries(root) if name.endswith("/")]
    return {name for name in names if any(map(kind.has, files(root / name, entries)))}


def are_splits(root: Path, folders: set[str], kind: Kind) -> bool:
    """Whether the folders with files are train, val and test rather than classes."""
    splits = folders & SPLIT_NAMES.keys()
    if "train" in splits and len(splits) > 1 and splits != folders:
        raise UsageError(
            f"{root} holds splits ({', '.join(sorted(splits))}) and other folders with "
            f"{kind.noun}s ({', '.join(sorted(folders - splits)[:5])})",
            expected="either train/, val/ and test/, or one folder a class",
            remedy=f"Move the other folders away, or list the {kind.noun}s in a .csv.",
        )
    return "train" in splits and splits == folders


def none_found(root: Path, kind: Kind) -> UsageError:
    """The error for a folder without one file of this kind."""
    suffixes = Counter(suffix_of(name) or "(none)" for name in files(root, entries))
    if not suffixes:
        return UsageError(f"The source {root} is empty", expected=f"{kind.noun}s in {kind.layouts}")
    found = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(5))
    return UsageError(
        f"The source {root} has {suffixes.total()} files and no {kind.noun} among them ({found})",
        expected=f"files ending in {' '.join(sorted(kind.suffixes))}",
    )


def entries(folder: Path) -> Iterator[str]:
    """Names in a folder as they come, hidden ones left out; those of folders end in a slash."""
    try:
        with os.scandir(folder) as scanned:
            for entry in scanned:
                if not entry.name.startswith("."):
                    yield entry.name + "/" if _is_folder(entry) else entry.name
    except OSError as error:
        raise UsageError(
            f"The folder {folder} cannot be read: {error.strerror}",
            remedy="Check its permissions.",
        ) from error


def sorted_entries(folder: Path) -> Iterator[str]:
    """The same, sorted; through files on disk where there are too many for memory."""
    names = entries(folder)
    run = sorted(islice(names, ENTRIES_IN_MEMORY))
    if len(run) < ENTRIES_IN_MEMORY:
        yield from run
        return
    with ExitStack() as scratch:
        runs: list[Iterable[str]] = []
        while run:
            file = scratch.enter_context(tempfile.TemporaryFile("w+", encoding="ascii"))
            file.writelines(json.dumps(name) + "\n" for name in run)  # names may hold newlines
            file.seek(0)
            runs.append(map(json.loads, file))
            run = sorted(islice(names, ENTRIES_IN_MEMORY))
        yield from heapq.merge(*runs)


def files(root: Path, listing: Callable[[Path], Iterator[str]] = sorted_entries) -> Iterator[str]:
    """Paths of all files below a folder, relative to it, with forward slashes.

    Args:
        root: the folder; links to folders are followed, but not in circles.
        listing: `sorted_entries` for a fixed order, `entries` where order does not matter.
    """
    stack = [(listing(root), "", _identity(root))]
    while stack:
        names, prefix, _ = stack[-1]
        name = next(names, None)
        if name is None:
            stack.pop()
        elif not name.endswith("/"):
            yield prefix + name
        else:
            folder = root / (prefix + name)
            identity = _identity(folder)
            # A link to a folder above would be walked for ever.
            if all(identity != above for _, _, above in stack):
                stack.append((listing(folder), prefix + name, identity))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself; listed as a file, rejected when it is read
        return False


def _identity(folder: Path) -> tuple[int, int]:
    stat = folder.stat()
    return stat.st_dev, stat.st_ino
