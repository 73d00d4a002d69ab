"""`d2v export`: a trained model for another library, loaded there again and compared."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from d2v.commands.outgoing import Chosen, outgoing_model
from d2v.engine.whole_folder import as_json, whole_folder
from d2v.errors import D2VError, UsageError
from d2v.exchange.huggingface.export import export_huggingface
from d2v.exchange.outgoing import Exported, Outgoing
from d2v.exchange.pictures.timm_export import export_timm
from d2v.exchange.programs.export import export_onnx, export_torch
from d2v.report import Report

MANIFEST = "export.json"
"""Says that d2v wrote the folder, so that it may be replaced."""

Target = Literal["hf", "timm", "onnx", "torch"]
_WRITERS: dict[Target, Callable[[Outgoing, Path], Exported]] = {
    "hf": export_huggingface,
    "timm": export_timm,
    "onnx": export_onnx,
    "torch": export_torch,
}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be exported, and where to.

    Args:
        run: a run directory, a model folder, or a checkpoint.
        dest: folder to write.
        to: which library.
        encoder: the encoder, even where there is a fine-tuned model.
        teacher: with the teacher's weights.
        licence: for the model card.
        fresh: replace an earlier export.
        verbosity: -1 quiet, 0 normal, 1 verbose.
    """

    run: Path
    dest: Path
    to: Target
    encoder: bool = False
    teacher: bool = False
    licence: str | None = None
    fresh: bool = False
    verbosity: int = 0


def run(request: Request) -> Report:
    """Write the folder, whole or not at all.

    Raises:
        UsageError: there is no such run, DEST is taken, or the library cannot express the model.
        D2VError: the library gives other outputs; nothing is left.
    """
    dest = request.dest.expanduser()
    check_free(dest, run=request.run, fresh=request.fresh)
    _check_licence(request.licence)
    chosen = Chosen(encoder=request.encoder, teacher=request.teacher, licence=request.licence)
    outgoing = outgoing_model(request.run.expanduser(), chosen)
    try:
        with whole_folder(dest) as partial:
            exported = _WRITERS[request.to](outgoing, partial)
            told = {
                "to": request.to,
                "what": exported.what,
                "name": outgoing.name,
                "network": outgoing.network,
                "largest_difference": exported.largest_difference,
            }
            (partial / MANIFEST).write_bytes(as_json(told))
    except OSError as error:
        raise D2VError(
            f"{dest} could not be written: {error.strerror or error}",
            remedy="Make room or mend the permissions, then start the same command again.",
        ) from error
    return _report(request, outgoing, exported, dest)


def check_free(dest: Path, *, run: Path, fresh: bool) -> None:
    """Refuse a folder that holds something, unless it is an earlier export to be replaced.

    Args:
        dest: to be written.
        run: what is exported; it must not lie in there.
        fresh: whether an earlier export may go.

    Raises:
        UsageError: says what is there.
    """
    if dest.resolve() == Path.cwd():  # the folder is put in its place: this one would be gone
        raise UsageError(
            f"{dest} is the folder that you are in", remedy="Name one that is not there."
        )
    if run.resolve().is_relative_to(dest.resolve()):
        raise UsageError(
            f"{run} lies in {dest}, which would be replaced", remedy="Name another folder."
        )
    if not dest.exists() or (dest.is_dir() and not any(dest.iterdir())):
        return
    if not _is_export(dest):
        raise UsageError(
            f"{dest} exists, and d2v export did not write it",
            expected="a folder that is not there yet",
            remedy="Name another one.",
        )
    if not fresh:
        raise UsageError(
            f"{dest} holds an earlier export", remedy="Pass --fresh to replace it, or name another."
        )


def _check_licence(licence: str | None) -> None:
    """It stands in the front matter of a model card. Raises UsageError."""
    if licence is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", licence):
        raise UsageError(
            f"--licence {licence!r} is no identifier of a licence",
            expected="letters, digits and . + -, as in apache-2.0 or cc-by-nc-4.0",
        )


def _is_export(dest: Path) -> bool:
    try:
        return "largest_difference" in json.loads((dest / MANIFEST).read_bytes())
    except (OSError, ValueError, TypeError):
        return False


def _report(request: Request, outgoing: Outgoing, exported: Exported, dest: Path) -> Report:
    loading = exported.how_to_load.replace("DEST", str(dest))
    return Report(
        headline=f"Exported the {outgoing.network} of {outgoing.name} to {dest}: {exported.what}",
        columns=["file", "KB"],
        rows=[
            [name, f"{(dest / name).stat().st_size / 1000:,.1f}"]
            for name in (*exported.files, MANIFEST)
        ],
        remarks=[
            f"Loaded there again and asked the same: the largest difference is "
            f"{exported.largest_difference:.2g}.",
            *([] if request.verbosity < 0 else [*exported.remarks, "", loading]),
        ],
    )
