"""Files that other libraries pickled, read without running anything that is in them.

torch's restricted reader makes tensors and plain containers, and refuses whatever else a file asks
for by name. Some checkpoints hold their configuration as objects of classes that are not here: for
these, and for nothing else, a stand-in is handed to the reader. It keeps what the file says of an
object and does nothing.
"""

from __future__ import annotations

import re
import warnings
from collections import ChainMap, Counter, OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2v.errors import UsageError
from d2v.exchange.pickled_size import check_size, is_zip

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
_DEPTH = 64
"""Levels within each other that are followed."""
_MOST = 1_000_000
"""Values that are followed: few bytes can refer to the same things again and again."""
_LARGEST = 2**63
"""Numbers beyond it are no settings."""
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
        except UsageError:
            raise
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
        _strip(content)
        return content


def as_plain(value: Any) -> Any:
    """A configuration as dictionaries, lists and values; None for what says nothing.

    Args:
        value: may hold stand-ins of omegaconf's nodes, namespaces, dataclasses and enums.

    Raises:
        UsageError: it is nested too deeply, or holds too much, to be a configuration.
    """
    return _plain(value, 0, iter(range(_MOST)))


def _plain(value: Any, depth: int, left: Iterator[int]) -> Any:
    if depth > _DEPTH:
        raise UsageError(f"A configuration is nested more than {_DEPTH} levels deep")
    if next(left, None) is None:
        raise UsageError(f"A configuration holds more than {_MOST:,} values")
    if isinstance(value, StandIn):
        return _plain(_content(value), depth + 1, left)
    if isinstance(value, Mapping):
        return {
            name: _plain(one, depth + 1, left)
            for name, one in value.items()
            if isinstance(name, str | int)
        }
    if isinstance(value, list | tuple):
        return [_plain(one, depth + 1, left) for one in value]
    if isinstance(value, int) and abs(value) >= _LARGEST:
        return None
    return value if isinstance(value, str | int | float | bool) else None


def flat_tensors(content: Mapping[str, Any], place: str) -> dict[str, Tensor]:
    """All tensors of nested dictionaries, names joined by dots; half precision becomes float32.

    Args:
        content: what is no tensor and no dictionary in it is passed over.
        place: names the file, for errors.

    Raises:
        UsageError: a tensor without values, or of a kind that no model's weights are; two of one
            name; too many.
    """
    found: dict[str, Tensor] = {}
    for name, value in _named(content, (), iter(range(_MOST))):
        if name in found:
            raise UsageError(f"{place} holds two tensors that are both called {name}")
        check_values(name, value, place)
        found[name] = value.detach().float() if value.is_floating_point() else value
    return found


def _named(
    content: Mapping[str, Any], above: tuple[str, ...], left: Iterator[int]
) -> Iterator[tuple[str, Tensor]]:
    for key, value in content.items():
        names = (*above, str(key))
        if next(left, None) is None:
            raise UsageError(f"A state holds more than {_MOST:,} values")
        if isinstance(value, Tensor):
            yield ".".join(names), value
        elif isinstance(value, Mapping) and len(names) <= _DEPTH:
            yield from _named(value, names, left)


def check_values(name: str, value: Tensor, place: str) -> None:
    """Refuse a tensor that is no dense one with all its values in the file. Raises UsageError."""
    if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized:
        raise UsageError(
            f"{name} of {place} is a {value.layout} tensor on {value.device}",
            expected="dense tensors of float32 or half precision",
        )
    held = value.untyped_storage().nbytes()
    if value.nbytes > held:  # would be spread out where its precision changes
        raise UsageError(
            f"{name} of {place} is {list(value.shape)}, and there are {held:,} bytes of it",
            expected="every value of a tensor in the file",
        )


def _strip(content: Any) -> None:
    """Take away what a file put over the methods of dictionaries and tensors."""
    waiting, seen = [content], set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, OrderedDict | Counter | Tensor):
            vars(one).clear()
        if isinstance(one, Mapping):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set):
            waiting += one
        elif isinstance(one, StandIn):
            waiting += [one.arguments, one.state]


def _load(path: Path, known: Mapping[str, Any]) -> Any:
    check_size(path)
    pairs: list[Any] = [(stand_in, name) for name, stand_in in known.items()]
    with torch.serialization.safe_globals(pairs), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch warns of here ends in an error of ours
        return torch.load(str(path), map_location="cpu", weights_only=True, mmap=is_zip(path))


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
        state = dict(ChainMap(*(one for one in reversed(state) if isinstance(one, dict))))
    if isinstance(state, Mapping):
        for name in ("_content", "_val"):
            if name in state:
                return state[name]
        return state
    return stand_in.arguments[0] if len(stand_in.arguments) == 1 else None


def _unreadable(path: Path, error: Exception) -> UsageError:
    words = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    reason = next(iter(words.splitlines()), "") or type(error).__name__
    return UsageError(
        f"{path} cannot be read: {reason[:_SHOWN]}",
        expected="a whole file of torch.save",
        remedy="Download or copy it again.",
    )
