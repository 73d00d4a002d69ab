"""The files of a finished preparation: indexes, lists of what was turned away, the summary."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from d2v.data.files import WholeFile, remove_temporaries, whole_file
from d2v.data.index import FORMAT, VERSION
from d2v.data.journal import JOURNAL, Journal
from d2v.data.plan import SPLITS
from d2v.data.summary import PrepareSummary, SplitSummary
from d2v.errors import UsageError

WORK = ".prepare"
"""Folder of the journal and the scratch files, beside the splits; gone when all is done."""
SUMMARY = "summary.json"
"""Written last: where it lies, the result is complete."""
LISTS = {"rejected": "rejected.jsonl", "duplicates": "duplicates.jsonl"}
MAX_REASONS = 1000
"""Distinct reasons counted one by one; the rest together, so that memory stays flat."""


def finish(
    dest: Path, journal: Journal, splits: list[str], classes: list[str], run: dict[str, Any]
) -> PrepareSummary:
    """Assemble indexes and lists from the journal, then remove the journal."""
    for split in splits:
        _write_index(dest / split / "index.json", journal, split, classes)
    for kind, name in LISTS.items():
        with whole_file(dest / name) as file:
            for entry in journal.entries(kind, journal.parts):
                file.write(_line(entry))
    summary = _summary(journal, splits, classes)
    with whole_file(dest / SUMMARY) as file:
        record = {"run": run, "summary": summary.as_json()}
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
    # Only a call that says what it reads can be told from another one.
    if any(made_with[key] != run[key] for key in run if "" not in (made_with[key], run[key])):
        raise UsageError(
            f"{dest} was prepared with other settings or from another source",
            expected=f"those recorded in {path}",
            remedy="Use --fresh to prepare it again, or choose another folder.",
        )
    shutil.rmtree(dest / WORK, ignore_errors=True)  # a kill came just before this line
    return summary


def clear(dest: Path) -> None:
    """Remove what preparing has written into a folder, and nothing else."""
    # The summary first: what a kill leaves behind must not pass for a finished result.
    (dest / SUMMARY).unlink(missing_ok=True)
    shutil.rmtree(dest / WORK, ignore_errors=True)
    for path in _outputs(dest):
        path.unlink()
    for folder in (dest, *(dest / split for split in SPLITS)):
        remove_temporaries(folder)
        if folder != dest and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


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
    ours = [dest / name for name in LISTS.values()]
    for split in SPLITS:
        ours.append(dest / split / "index.json")
        shard = re.compile(rf"{split}-\d{{6,}}\.tar")
        ours += [path for path in (dest / split).glob("*.tar") if shard.fullmatch(path.name)]
    return sorted(path for path in ours if path.exists())


def _write_index(path: Path, journal: Journal, split: str, classes: list[str]) -> None:
    """One shard a line, so that a reader holds one shard's entries at a time."""
    parts = [part for part in journal.of(split) if part.shard is not None]
    head = {
        "format": FORMAT,
        "version": VERSION,
        "split": split,
        "num_samples": sum(part.counts.get("stored", 0) for part in parts),
        "classes": classes,
    }
    with whole_file(path) as file:
        file.write(json.dumps(head).encode()[:-1] + b', "shards": [')
        for number, part in enumerate(parts):
            assert part.shard is not None
            file.write(b",\n" if number else b"\n")
            file.write(json.dumps(vars(part.shard)).encode()[:-1] + b', "samples": [')
            _write_samples(file, journal.entries("stored", [part]))
            file.write(b"]}")
        file.write(b"\n]}\n")


def _write_samples(file: WholeFile, entries: Any) -> None:
    separator = b""
    for entry in entries:
        sample = {key: entry[key] for key in ("key", "source", "label", "members")}
        file.write(separator + json.dumps(sample).encode())
        separator = b", "


def _summary(journal: Journal, splits: list[str], classes: list[str]) -> PrepareSummary:
    counts: Counter[str] = Counter()
    for part in journal.parts:
        counts.update(part.counts)
    reasons: Counter[str] = Counter()
    for entry in journal.entries("rejected", journal.parts):
        known = entry["reason"] in reasons or len(reasons) < MAX_REASONS
        reasons[entry["reason"] if known else "other reasons"] += 1
    return PrepareSummary(
        splits={
            split: _split_summary(journal, split) for split in reversed(SPLITS) if split in splits
        },
        classes=classes,
        total=counts["stored"] + counts["rejected"] + counts["dropped"],
        stored=counts["stored"],
        rejected=counts["rejected"],
        duplicates=counts["duplicates"],
        dropped=counts["dropped"],
        reasons=dict(sorted(reasons.items(), key=lambda entry: (-entry[1], entry[0]))),
    )


def _split_summary(journal: Journal, split: str) -> SplitSummary:
    shards = [part.shard for part in journal.of(split) if part.shard is not None]
    return SplitSummary(
        num_samples=sum(shard.num_samples for shard in shards),
        num_shards=len(shards),
        num_bytes=sum(shard.bytes for shard in shards),
    )


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry).encode() + b"\n"
