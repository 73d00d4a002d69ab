"""Folders laid out like LibriSpeech: recordings, and beside them `*.trans.txt` with what is said.

Each line of a `.trans.txt` is an utterance's id and its words; the recording is called by the id.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from d2v.errors import UsageError
from d2v.modalities.listing import SPLIT_NAMES, Kind, entries, files, none_found
from d2v.samples import SourceItem

TRANSCRIPTS = ".trans.txt"
LINE = re.compile(rb"(\S+)(?:\s+(.*))?", re.DOTALL)


def is_librispeech(root: Path) -> bool:
    """Whether there are transcripts of this kind below a folder."""
    return any(name.endswith(TRANSCRIPTS) for name in files(root, entries))


def librispeech_items(root: Path, kind: Kind) -> Iterator[SourceItem]:
    """Every recording with its transcript, and every transcript that lacks its recording.

    The split is told by a folder above that begins like one (`train-clean-100`, `dev`), the
    speaker by the id (`speaker-chapter-number`), else by the first folder below the split's.

    Raises:
        UsageError: no recording at all, or transcripts that cannot be read.
    """
    if not any(map(kind.has, files(root, entries))):
        raise none_found(root, kind)
    seen: set[str] = set()  # ids: a few dozen megabytes for LibriSpeech
    folder = _Folder(root, "", kind)
    for name in files(root):
        prefix, _, last = name.rpartition("/")
        if prefix != folder.prefix:
            folder = _Folder(root, prefix, kind)
        if last.endswith(TRANSCRIPTS):
            yield from folder.leftovers(last)
        elif kind.has(last):
            yield folder.item(last, seen)
        else:
            yield SourceItem(name=name, path=root / name)


class _Folder:
    """One folder's transcripts, by utterance."""

    def __init__(self, root: Path, prefix: str, kind: Kind) -> None:
        self.prefix = prefix
        self._path = root / prefix
        names = list(entries(self._path))
        self._recorded = {_stem(name) for name in names if kind.has(name)}
        self._words: dict[str, bytes] = {}
        self._leftovers: dict[str, list[SourceItem]] = {}
        for name in sorted(name for name in names if name.endswith(TRANSCRIPTS)):
            self._leftovers[name] = list(self._read(name))

    def leftovers(self, name: str) -> list[SourceItem]:
        """Lines of a file of transcripts that belong to no recording."""
        return self._leftovers[name]

    def item(self, name: str, seen: set[str]) -> SourceItem:
        """A recording; `seen`: ids so far, of the whole source, to which its own is added."""
        utterance = _stem(name)
        details, problem = {"transcript": ""}, None
        try:
            details["transcript"] = self._words.get(utterance, b"").decode()
        except UnicodeDecodeError as error:
            problem = f"its transcript is not UTF-8: byte {error.start} of the words"
        if utterance in seen:
            problem = "its utterance id is another recording's already"
        seen.add(utterance)
        split, speaker = _split_and_speaker(self.prefix, utterance)
        if speaker:
            details["speaker"] = speaker
        return SourceItem(
            name=f"{self.prefix}/{name}".lstrip("/"),
            path=self._path / name,
            split=split,
            group=speaker,
            details=details,
            problem=problem,
        )

    def _read(self, name: str) -> Iterator[SourceItem]:
        path = self._path / name
        try:
            lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
        except OSError as error:
            raise UsageError(
                f"The transcripts {path} cannot be read: {error.strerror}",
                remedy="Check their permissions.",
            ) from error
        for number, line in enumerate(lines, 1):
            found = LINE.fullmatch(line.strip())
            if found is None:
                continue
            utterance = found[1].decode(errors="backslashreplace")
            place = f"{self.prefix}/{name}, line {number}".lstrip("/")
            if utterance in self._words:
                problem = "a second transcript of the same utterance"
            elif utterance not in self._recorded:
                problem = "a transcript without its recording"
            else:
                problem = None
            self._words.setdefault(utterance, found[2] or b"")
            if problem:
                yield SourceItem(name=place, problem=problem)


def _split_and_speaker(prefix: str, utterance: str) -> tuple[str | None, str | None]:
    folders = prefix.split("/") if prefix else []
    said = [number for number, name in enumerate(folders) if _split_of(name)]
    below = folders[said[0] + 1 :] if said else folders
    named = re.fullmatch(r"([^-]+)-[^-]+-[^-]+", utterance)
    speaker = named[1] if named else (below[0] if below else None)
    return (_split_of(folders[said[0]]) if said else None), speaker


def _split_of(folder: str) -> str | None:
    """`train-clean-100` -> train, `dev-other` -> val."""
    return SPLIT_NAMES.get(re.split("[-_.]", folder.lower())[0])


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]
