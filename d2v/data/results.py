"""The files of a finished preparation: indexes, lists of what was turned away, the summary."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from d2v.data.files import WholeFile, remove_temporaries, whole_file
from d2v.data.index import FORMAT, VERSION
from d2v.data.journal import JOURNAL, Journal
from d2v.data.plan import SPLITS
from d2v.data.summary import PrepareSummary, summary_of
from d2v.errors import UsageError

WORK = ".prepare"
"""Folder of the journal and the scratch files, beside the splits; gone when all is done."""
SUMMARY = "summary.json"
"""Written last: where it lies, the result is complete."""
LISTS = {
    "rejected": "rejected.jsonl",
    "duplicates": "duplicates.jsonl",
    "warnings": "warnings.jsonl",
}
FILES = "files"
"""Where the names of other files are noted: in the summary, and beside the journal before that."""
SUBSETS = "subsets.json"
"""Named parts of the train split; written when all else is there, and again when they change."""
_SAMPLE = ("key", "source", "label", "length", "members")
"""What an index says of a sample; a length of 1 is left out."""

Summarise = Callable[[Mapping[str, Mapping[str, float]]], Mapping[str, bytes]]
"""Split -> name -> sum of the samples' totals, to files beside the splits: name -> content."""


def finish(
    dest: Path,
    journal: Journal,
    groups: dict[str, int],
    classes: list[str],
    run: dict[str, Any],
    summarise: Summarise,
) -> PrepareSummary:
    """Assemble indexes, lists and other files from the journal, then remove the journal.

    Args:
        dest: folder of the splits.
        journal: with all parts.
        groups: split -> distinct groups stored; its keys are the splits there are.
        classes: label names.
        run: what names the preparation; its `about` goes into every index.
        summarise: says which other files to write.
    """
    for split in groups:
        _write_index(dest / split / "index.json", journal, split, classes, run["about"])
    for kind, name in LISTS.items():
        with whole_file(dest / name) as file:
            for entry in journal.entries(kind, journal.parts):
                file.write(_line(entry))
    summary = summary_of(journal, groups, classes)
    totals = {split: dict(part.totals) for split, part in summary.splits.items()}
    files = summarise(totals)
    _write_files(dest, files)
    with whole_file(dest / SUMMARY) as file:
        record = {"run": run, "summary": summary.as_json(), FILES: sorted(files)}
        file.write(json.dumps(record, indent=1).encode() + b"\n")
    shutil.rmtree(dest / WORK)
    return summary


def finished(dest: Path, run: dict[str, Any]) -> PrepareSummary | None:
    """The summary of a finished preparation, or None where there is none."""
    path = dest / SUMMARY
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_bytes())
        made_with, summary = record["run"], PrepareSummary.from_json(record["summary"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is damaged ({error})", remedy="Use --fresh.") from None
    if made_with != run:
        raise UsageError(
            f"{dest} was prepared with other settings or from another source",
            expected=f"those recorded in {path}",
            remedy="Use --fresh to prepare it again, or choose another folder.",
        )
    shutil.rmtree(dest / WORK, ignore_errors=True)  # a kill came just before this line
    return summary


def clear(dest: Path) -> None:
    """Remove what preparing has written into a folder, and nothing else."""
    work = dest / WORK
    if (dest / SUMMARY).exists():
        # The summary goes first: what a kill leaves behind must not pass for a finished result. The
        # names that it holds are needed to the end.
        _note_files(dest, _file_names(dest))
        (dest / SUMMARY).unlink()
    (work / JOURNAL).unlink(missing_ok=True)
    for path in _outputs(dest):
        path.unlink()
    for folder in (dest, *(dest / split for split in SPLITS)):
        remove_temporaries(folder)
        if folder != dest and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    shutil.rmtree(work, ignore_errors=True)


def begin(dest: Path) -> Path:
    """The work folder, cleaned of a killed run's leftovers. Refuses to overwrite strangers."""
    work = dest / WORK
    if not (work / JOURNAL).exists() and (found := _outputs(dest)):
        raise UsageError(
            f"{found[0]} is already there, and no journal says where it comes from",
            expected="an empty folder, or one that d2v prepare has begun",
            remedy="Choose another folder, or use --fresh to replace the shards there.",
        )
    work.mkdir(exist_ok=True)
    remove_leftovers(dest)
    return work


def remove_leftovers(dest: Path) -> None:
    """What a kill or an error left half-written."""
    for folder in (dest / WORK, dest, *(dest / split for split in SPLITS)):
        remove_temporaries(folder)


def _outputs(dest: Path) -> list[Path]:
    ours = [dest / name for name in (*LISTS.values(), SUBSETS, *_file_names(dest))]
    for split in SPLITS:
        ours.append(dest / split / "index.json")
        shard = re.compile(rf"{split}-\d{{6,}}\.tar")
        ours += [path for path in (dest / split).glob("*.tar") if shard.fullmatch(path.name)]
    return sorted(path for path in ours if path.is_file())


def _write_files(dest: Path, files: Mapping[str, bytes]) -> None:
    """Write the files that a summary asked for; what they are called is noted before."""
    known, reserved = _file_names(dest), {*SPLITS, *LISTS.values(), SUMMARY, SUBSETS}
    for name in files:
        assert _is_plain(name), name
        assert name not in reserved, name
        if (dest / name).exists() and name not in known:
            raise UsageError(
                f"{dest / name} is already there, and d2v prepare has not written it",
                remedy="Move it away, then start the same command again: it continues.",
            )
    _note_files(dest, {*known, *files})
    for name, content in files.items():
        with whole_file(dest / name) as file:
            file.write(content)


def _note_files(dest: Path, names: set[str]) -> None:
    """Remember beside the journal what is ours, so that `clear` finds it after a kill."""
    with whole_file(dest / WORK / f"{FILES}.json") as file:
        file.write(json.dumps({FILES: sorted(names)}).encode())


def _file_names(dest: Path) -> set[str]:
    """Files beside the splits that the modality asked for, as far as they are noted anywhere."""
    names: set[str] = set()
    for path in (dest / SUMMARY, dest / WORK / f"{FILES}.json"):
        with suppress(OSError, ValueError, AttributeError, TypeError):  # gone or damaged: no names
            names.update(map(str, json.loads(path.read_bytes()).get(FILES, [])))
    return set(filter(_is_plain, names))


def _is_plain(name: str) -> bool:
    """A file name and no way out of the folder; not hidden, as temporary files are."""
    return name != "" and Path(name).name == name and not name.startswith(".")


def _write_index(
    path: Path, journal: Journal, split: str, classes: list[str], about: dict[str, Any]
) -> None:
    """One shard a line, so that a reader holds one shard's entries at a time."""
    parts = [part for part in journal.of(split) if part.shard is not None]
    head = {
        "format": FORMAT,
        "version": VERSION,
        "split": split,
        "num_samples": sum(part.shard.num_samples for part in parts if part.shard),
        "classes": classes,
        "about": about,
    }
    with whole_file(path) as file:
        file.write(json.dumps(head).encode()[:-1] + b', "shards": [')
        for number, part in enumerate(parts):
            assert part.shard is not None
            file.write(b",\n" if number else b"\n")
            file.write(json.dumps(vars(part.shard)).encode()[:-1] + b', "samples": [')
            _write_samples(file, journal.entries("sample", [part]))
            file.write(b"]}")
        file.write(b"\n]}\n")


def _write_samples(file: WholeFile, entries: Any) -> None:
    separator = b""
    for entry in entries:
        sample = {key: entry[key] for key in _SAMPLE if key in entry}
        file.write(separator + json.dumps(sample).encode())
        separator = b", "


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry).encode() + b"\n"
