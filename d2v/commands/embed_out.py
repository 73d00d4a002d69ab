"""The finished file or folder of features, and what says how they were made.

FILE, FILE.json (how), FILE.index.jsonl (of a .npy: of what each row is), FILE.errors.jsonl (what
could not be used); of a folder of shards the last ones are features.json and errors.jsonl in it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from d2v.commands.embed_formats import Format, index_of
from d2v.commands.embed_parts import Parts, differences, partial_folder
from d2v.data.files import sync_folder, whole_file, writing
from d2v.errors import UsageError

Record = dict[str, Any]
"""What lies beside finished features: `weights` (where they lay), `settings` (what decides the
bytes), `rows` and `errors` (how many), `shape` (of the first row's features)."""
_KIND = "d2v-features"


def record_of(out: Path, form: Format) -> Path:
    """Where it says how features were made."""
    return out / "features.json" if form.is_folder else out.with_name(f"{out.name}.json")


def errors_of(out: Path, form: Format) -> Path:
    """Where the inputs stand that could not be used."""
    return out / "errors.jsonl" if form.is_folder else out.with_name(f"{out.name}.errors.jsonl")


def check_out(out: Path, form: Format, inputs: Sequence[Path | bytes]) -> None:
    """Refuse a place where features must not be written.

    Raises:
        UsageError: something else is there, or it lies within the inputs.
    """
    if os.path.lexists(out) and _record(out, form) is None and not _is_empty(out, form):
        raise UsageError(
            f"{out} is there already, and d2v embed did not make it",
            remedy="Choose another --out, or move it away.",
        )
    for given in inputs:
        if not isinstance(given, Path) or not given.is_dir():
            continue
        if out.resolve().is_relative_to(given.resolve()):
            raise UsageError(
                f"{out} lies in the input {given}",
                expected="a place outside it: what is written would become an input",
                remedy="Choose another --out.",
            )


def finished(out: Path, form: Format, settings: Mapping[str, Any]) -> Record | None:
    """What an earlier run with the same settings has finished; None where nothing is there.

    Raises:
        UsageError: it was made with other settings.
    """
    record = _record(out, form)
    if record is None or partial_folder(out).exists() or not out.exists():
        return None
    if differing := differences(record["settings"], settings):
        raise UsageError(
            f"{out} was made with {'; '.join(differing)}",
            remedy="Pass --fresh to replace it, or choose another --out.",
        )
    return record


def assemble(
    parts: Parts, out: Path, form: Format, settings: Mapping[str, Any], weights: Path
) -> Record:
    """Write the file from its parts, put it in its place, and remove the parts."""
    parts.end_part()
    assert parts.shape is not None, "no row"
    record = {
        "format": _KIND,
        "weights": str(weights),
        "settings": dict(settings),
        "rows": parts.num_rows,
        "errors": parts.num_errors,
        "shape": list(parts.shape),
    }
    result = parts.folder / "result"
    made = result / out.name
    with writing(out):
        shutil.rmtree(result, ignore_errors=True)
        result.mkdir()
        form.write(made, parts.rows(), parts.num_rows, parts.shape)
        if parts.num_errors:
            with whole_file(errors_of(made, form)) as file:
                for row in parts.errors():
                    file.write(json.dumps(row).encode() + b"\n")
        with whole_file(record_of(made, form)) as file:
            file.write(json.dumps(record, indent=1).encode() + b"\n")
        _put(made, out, form)
        sync_folder(out.parent)
        shutil.rmtree(parts.folder)
    return record


def _put(made: Path, out: Path, form: Format) -> None:
    """Take the place of older features; what says how they were made goes first and comes last."""
    if form.is_folder:
        shutil.rmtree(out, ignore_errors=True)
        made.rename(out)
        return
    for old in (record_of(out, form), errors_of(out, form), index_of(out)):
        old.unlink(missing_ok=True)
    _flush(made)
    made.rename(out)
    for place in (index_of, lambda path: errors_of(path, form), lambda path: record_of(path, form)):
        with suppress(FileNotFoundError):
            place(made).rename(place(out))


def _flush(path: Path) -> None:
    """Not every library that writes a file does it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _record(out: Path, form: Format) -> Record | None:
    try:
        record = json.loads(record_of(out, form).read_bytes())
    except (OSError, ValueError):
        return None
    is_ours = isinstance(record, dict) and record.get("format") == _KIND
    return record if is_ours else None


def _is_empty(out: Path, form: Format) -> bool:
    return form.is_folder and out.is_dir() and not any(out.iterdir())
