"""Checkpoints that are whole or not there: written aside, flushed, hashed, renamed, then named.

checkpoints/step-000000400/   model.safetensors optimizer.safetensors state.json manifest.json
checkpoints/latest.json       written last
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from d2v.errors import D2VError, UsageError

_FORMAT: dict[str, Any] = {"format": "d2v-checkpoint", "version": 1}
_PARTIAL = ".partial-"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint that was read back and whose hashes are right."""

    step: int
    path: Path
    tensors: dict[str, dict[str, Tensor]]
    """File stem ("model", "optimizer") -> name -> tensor on the CPU."""
    state: dict[str, Any]
    """Whatever JSON the loop keeps beside the tensors."""
    digest: str
    """sha256 of the manifest: names the whole content."""


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any]
) -> Path:
    """Write one checkpoint; a kill at any moment leaves the earlier ones as they were.

    Args:
        folder: `checkpoints/` of the run.
        step: optimiser updates done.
        tensors: file stem -> name -> tensor; on any device.
        state: JSON beside the tensors.

    Returns:
        The checkpoint's folder.

    Raises:
        D2VError: the disk is full or not writable; nothing half-written is left.
    """
    final = folder / _name(step)
    partial = folder / f"{_PARTIAL}{final.name}"
    try:
        clean_up(folder)
        partial.mkdir(parents=True)
        contents = {f"{stem}.safetensors": save(_on_cpu(part)) for stem, part in tensors.items()}
        contents["state.json"] = _json(state)
        hashes = {name: _sha256(content) for name, content in contents.items()}
        contents["manifest.json"] = _json({**_FORMAT, "step": step, "sha256": hashes})
        for name, content in contents.items():
            write_durably(partial / name, content)
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        sync_folder(folder)
        replace_durably(folder / "latest.json", _json({"checkpoint": final.name, "step": step}))
    except OSError as error:
        _remove(partial)
        raise D2VError(
            f"The checkpoint {final} could not be written: {error.strerror or error}",
            remedy="Earlier checkpoints are untouched. Make room or mend the permissions, then "
            "start the same command again: it continues from the last one.",
        ) from error
    return final


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint and check every hash.

    Raises:
        UsageError: it is of a newer format.
        D2VError: a file is missing or altered; says which.
    """
    manifest_bytes = _read(path / "manifest.json")
    step, hashes = _manifest(path / "manifest.json", manifest_bytes)
    contents = {name: _read(path / name) for name in hashes}
    for name, content in contents.items():
        if _sha256(content) != hashes[name]:
            raise _damaged(path / name, "its sha256 is not the one in manifest.json")
    try:
        tensors = {
            name.removesuffix(".safetensors"): load(content)
            for name, content in contents.items()
            if name.endswith(".safetensors")
        }
        state = json.loads(contents["state.json"])
    except (ValueError, KeyError, SafetensorError) as error:
        raise _damaged(path, f"its content makes no sense ({error})") from error
    return Checkpoint(
        step=step, path=path, tensors=tensors, state=state, digest=_sha256(manifest_bytes)
    )


def _manifest(path: Path, content: bytes) -> tuple[int, dict[str, str]]:
    """Step and hashes."""
    try:
        manifest = json.loads(content)
        version, step = int(manifest["version"]), int(manifest["step"])
        hashes = {str(name): str(digest) for name, digest in manifest["sha256"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, "it is not a manifest") from error
    if version > _FORMAT["version"]:
        raise UsageError(
            f"{path.parent} has checkpoint format {version}",
            expected=f"at most {_FORMAT['version']}",
            remedy="Install a newer d2v, or pass --fresh to start over.",
        )
    return step, hashes


def load_latest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint of a run, and what was wrong with newer ones.

    Returns:
        None where the run has no checkpoint at all; messages for the user.

    Raises:
        UsageError: the newest is of a newer format: going back would throw work away.
        D2VError: there are checkpoints and none of them is whole.
    """
    found = sorted(folder.glob("step-*"), reverse=True)
    messages: list[str] = []
    for path in found:
        try:
            checkpoint = load_checkpoint(path)
            if path.name != _name(checkpoint.step):
                raise _damaged(path / "manifest.json", f"it is of step {checkpoint.step}")
            return checkpoint, messages
        except UsageError:
            raise
        except D2VError as error:
            messages.append(f"{error} Passed over.")
    if found:
        raise D2VError(
            " ".join(messages),
            expected="at least one whole checkpoint",
            remedy=f"None of the checkpoints in {folder} can be used. Pass --fresh to start over.",
        )
    return None, messages


def prune(newest: Path, *, keep_last: int, best: str | None) -> None:
    """Delete all checkpoints but `newest`, those before it up to `keep_last`, and the best.

    Later ones than `newest` are damaged: the run went back behind them.
    """
    older: list[Path] = []
    later: list[Path] = []
    for path in sorted(newest.parent.glob("step-*")):
        (later if path.name > newest.name else older).append(path)
    for path in older[:-keep_last] + later:
        if path.name != best or path in later:
            # Renamed first: a kill while deleting must not leave something named step-*.
            _remove(path.rename(path.with_name(f"{_PARTIAL}{path.name}")))


def clean_up(folder: Path) -> None:
    """Remove what a kill left half-written."""
    for path in folder.glob(f"{_PARTIAL}*"):
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_durably(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_durably(path: Path, content: bytes) -> None:
    """Replace a file at once: a reader or a kill sees the old or the new content, never half."""
    partial = path.with_name(f"{_PARTIAL}{path.name}")
    try:
        write_durably(partial, content)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _name(step: int) -> str:
    return f"step-{step:09d}"


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error


def _damaged(path: Path, reason: str) -> D2VError:
    return D2VError(f"The checkpoint file {path} cannot be used: {reason}")
