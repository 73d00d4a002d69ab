"""The tensors of a Hugging Face folder: one file or several, safetensors or pickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from d2v.errors import UsageError
from d2v.exchange.json_file import read_json
from d2v.exchange.pickled import check_values, read_pickled

WHOLE = ("model.safetensors", "pytorch_model.bin")
"""Names of a file that holds everything, the safer one first."""
_INDEX = ".index.json"


def folder_tensors(folder: Path) -> dict[str, Tensor]:
    """Everything that the weights of a folder hold.

    Args:
        folder: with `model.safetensors` or `pytorch_model.bin`, whole or in parts with an index.

    Raises:
        UsageError: there are none, or they are damaged, or not of tensors alone.
    """
    for name in WHOLE:
        if (folder / name).is_file():
            return file_tensors(folder / name)
        index = folder / f"{name}{_INDEX}"
        if index.is_file():
            return _several(folder, index)
    raise UsageError(
        f"There are no weights in {folder}",
        expected=f"{' or '.join(WHOLE)}, or parts of it with an index ({WHOLE[0]}{_INDEX})",
        remedy="Download the whole folder of the model.",
    )


def _several(folder: Path, index: Path) -> dict[str, Tensor]:
    """The parts that an index names."""
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
        raise UsageError(f"{index} has no weight_map", expected="tensor -> file")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(where.values())):
        if Path(name).name != name:
            raise UsageError(f"{index} names a file elsewhere: {name}", expected="one beside it")
        found = file_tensors(folder / name)
        if twice := sorted(tensors.keys() & found.keys()):
            raise UsageError(
                f"{folder / name} holds {twice[0]}, which another part holds as well",
                remedy="Download the folder again.",
            )
        tensors |= found
    return tensors


def file_tensors(path: Path) -> dict[str, Tensor]:
    """Everything that one file of weights holds. Raises UsageError as `folder_tensors`."""
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UsageError(
                f"{path} cannot be read: {error}",
                expected="a whole safetensors file",
                remedy="Download it again.",
            ) from error
    content: Mapping[str, object] = read_pickled(path)
    other = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if other:
        raise UsageError(
            f"{path} holds {other[0]!r}, which is no tensor",
            expected="names and tensors alone, as Hugging Face writes them",
        )
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    for name, value in tensors.items():
        check_values(name, value, str(path))
    return tensors
