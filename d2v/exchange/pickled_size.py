"""Pickled files that would ask for more memory than they have bytes, refused before they are read.

torch's restricted reader unpacks what is compressed, and makes empty bytes of any length that a
file names: a file of a few bytes could take all memory there is.
"""

from __future__ import annotations

import mmap
import re
import zipfile
from pathlib import Path
from typing import IO

from d2v.errors import UsageError

ZIP = b"PK\x03\x04"
"""What files of torch.save begin with; older ones are a row of pickles."""
_INFLATING = re.compile(
    rb"c(?:__builtin__|builtins)\n(bytearray)\n|ctorch\._utils\n(_rebuild_device_tensor_\w+)\n"
)
"""How a pickle asks for a function whose result may be of any size. No model's file does."""


def is_zip(path: Path) -> bool:
    """Whether it is in the zip format."""
    with path.open("rb") as file:
        return file.read(len(ZIP)) == ZIP


def check_size(path: Path) -> None:
    """Refuse what is compressed, or asks for bytes that it does not hold.

    Args:
        path: of either format.

    Raises:
        UsageError: says what it is.
        OSError, BadZipFile: it is damaged.
    """
    with path.open("rb") as file:
        name = _inflating(file, path)
    if name is not None:
        raise UsageError(
            f"{path} asks for {name}, which can take any amount of memory",
            expected="tensors, plain values, and the configuration objects of fairseq",
            remedy="Nothing of it was run. Get the file from its authors, or as safetensors.",
        )


def _inflating(file: IO[bytes], path: Path) -> str | None:
    if file.read(len(ZIP)) != ZIP:
        if file.seek(0, 2) == 0:
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _name(_INFLATING.search(content))
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(one.compress_type != zipfile.ZIP_STORED for one in entries):
            raise UsageError(
                f"{path} is compressed",
                expected="a file as torch.save writes it",
                remedy="Unpack it, or download it again from its authors.",
            )
        pickles = [one for one in entries if one.filename.endswith(".pkl")]
        asked = [_name(_INFLATING.search(archive.read(one))) for one in pickles]
    return next((name for name in asked if name is not None), None)


def _name(found: re.Match[bytes] | None) -> str | None:
    if found is None:
        return None
    return "builtins.bytearray" if found[1] else f"torch._utils.{found[2].decode()}"
