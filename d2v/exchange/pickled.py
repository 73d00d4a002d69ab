"""Files that other libraries pickled, read without running anything that is in them.

torch's restricted reader makes tensors and plain containers, and refuses whatever else a file asks
for by name. Some checkpoints hold their configuration as objects of classes that are not here: for
these, and for nothing else, a stand-in is handed to the reader. It keeps what the file says of an
object and does nothing.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2v.errors import UsageError

_HARMLESS = re.compile(
    r"argparse\.Namespace"
    r"|(omegaconf|fairseq|fairseq_cli|examples|data2vec|deepspeed)\.[\w.]+"
    r"|typing\.\w+|_?operator\.getitem"  # how `List[str]` is written down
    r"|builtins\.(dict|list|tuple|str|int|float|bool|bytes|object)"  # types of settings, never made
    r"|pathlib\.(Pure)?(Posix|Windows)?Path"
    r"|numpy\.(core|_core)\.multiarray\.(scalar|_reconstruct)|numpy\.(dtype|ndarray|dtypes\.\w+)"
)
"""Names that a stand-in takes the place of, whatever is meant by them elsewhere: configurations of
fairseq and its extensions, of omegaconf, of DeepSpeed, and the numbers in them."""
_REFUSED = re.compile(
    r"GLOBAL (\S+) was not an allowed global|load unsupported GLOBAL (\S+) whose module"
)
_ZIP = b"PK\x03\x04"
_DEPTH = 64
"""Levels within each other that are followed."""
_SHOWN = 200
"""Characters of torch's own words that an error shows."""


class StandIn:
    """What a file says of an object whose class is not here: data, no behaviour.

    Without a `__dict__`, so that nothing in a file can put a method into it.
    """

    __slots__ = ("arguments", "state")

    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> StandIn:
        """Keep the arguments; the reader calls this where a file makes an object."""
        made = super().__new__(cls)
        made.arguments, made.state = arguments, None
        return made

    def __setstate__(self, state: Any) -> None:
        """Keep the state; the reader calls this where a file fills an object."""
        self.state = state


def _plain_dict(*_: Any) -> dict[Any, Any]:
    """What stands for a dictionary with defaults: what makes them is dropped."""
    return {}


def read_pickled(path: Path) -> dict[str, Any]:
    """The content of a file of `torch.save`: tensors on the CPU, plain values, stand-ins.

    Args:
        path: in the zip or the older format; a zip file is mapped, not copied, into memory.

    Returns:
        The dictionary that was saved; `as_plain` turns the stand-ins in it into plain values.

    Raises:
        UsageError: the file asks for something else, is damaged, or is no such file.
    """
    known: dict[str, Any] = {"collections.defaultdict": _plain_dict}
    while True:
        try:
            content = _load(path, known)
        except Exception as error:  # a damaged file can make the reader raise anything
            name = _asked_for(error)
            if name is None:
                raise _unreadable(path, error) from error
            if name in known or not _HARMLESS.fullmatch(name):
                raise UsageError(
                    f"{path} asks for {name}, and reading a model takes no such thing",
                    expected="tensors, plain values, and the configuration objects of fairseq",
                    remedy="Nothing of it was run. Get the file from its authors, or as "
                    "safetensors, which can only hold tensors.",
                ) from None
            known[name] = StandIn
            continue
        if not isinstance(content, dict):
            raise UsageError(
                f"{path} holds {type(content).__name__}", expected="a dictionary of tensors"
            )
        return content


def as_plain(value: Any, _depth: int = 0) -> Any:
    """A configuration as dictionaries, lists and values; None for what says nothing.

    Args:
        value: may hold stand-ins of omegaconf's nodes, namespaces, dataclasses and enums.

    Raises:
        UsageError: it is nested too deeply to be a configuration.
    """
    if _depth > _DEPTH:
        raise UsageError(f"A configuration is nested more than {_DEPTH} levels deep")
    if isinstance(value, StandIn):
        return as_plain(_content(value), _depth + 1)
    if isinstance(value, Mapping):
        return {
            name: as_plain(one, _depth + 1)
            for name, one in value.items()
            if isinstance(name, str | int)
        }
    if isinstance(value, list | tuple):
        return [as_plain(one, _depth + 1) for one in value]
    return value if isinstance(value, str | int | float | bool) else None


def flat_tensors(content: Mapping[str, Any], place: str, _depth: int = 0) -> dict[str, Tensor]:
    """All tensors of nested dictionaries, names joined by dots; half precision becomes float32.

    Args:
        content: what is no tensor and no dictionary in it is passed over.
        place: names the file, for errors.

    Raises:
        UsageError: a tensor without values, or of a kind that no model's weights are.
    """
    found: dict[str, Tensor] = {}
    for name, value in content.items():
        if isinstance(value, Tensor):
            if value.layout is not torch.strided or value.device.type != "cpu" or _quantised(value):
                raise UsageError(
                    f"{name} of {place} is a {value.layout} tensor on {value.device}",
                    expected="dense tensors of float32 or half precision",
                )
            found[str(name)] = value.detach().float() if value.is_floating_point() else value
        elif isinstance(value, Mapping) and _depth < _DEPTH:
            inner = flat_tensors(value, place, _depth + 1)
            found |= {f"{name}.{below}": tensor for below, tensor in inner.items()}
    return found


def _load(path: Path, known: Mapping[str, Any]) -> Any:
    with path.open("rb") as file:
        is_zip = file.read(len(_ZIP)) == _ZIP
    pairs: list[Any] = [(stand_in, name) for name, stand_in in known.items()]
    with torch.serialization.safe_globals(pairs), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch warns of here ends in an error of ours
        return torch.load(str(path), map_location="cpu", weights_only=True, mmap=is_zip)


def _asked_for(error: Exception) -> str | None:
    """The name that the restricted reader stopped at; None where something else went wrong."""
    found = _REFUSED.search(str(error))
    if found is None:
        return None
    name = found[1] or found[2]
    return name if "." in name else f"builtins.{name}"  # torch leaves that part out


def _content(stand_in: StandIn) -> Any:
    """A configuration's content, a node's value, attributes, or an enum's one argument."""
    state = stand_in.state
    if isinstance(state, tuple) and len(state) == 2:  # attributes, and those in slots
        state = {**(state[0] or {}), **(state[1] or {})}
    if isinstance(state, Mapping):
        for name in ("_content", "_val"):
            if name in state:
                return state[name]
        return state
    return stand_in.arguments[0] if len(stand_in.arguments) == 1 else None


def _quantised(tensor: Tensor) -> bool:
    return bool(tensor.is_quantized)


def _unreadable(path: Path, error: Exception) -> UsageError:
    words = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    reason = next(iter(words.splitlines()), "") or type(error).__name__
    return UsageError(
        f"{path} cannot be read: {reason[:_SHOWN]}",
        expected="a whole file of torch.save",
        remedy="Download or copy it again.",
    )
