"""Proves: a foreign pickle gives tensors and settings, and runs nothing, whatever is in it."""

import argparse
import builtins
import enum
import os
import sys
import types
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from d2v.errors import UsageError
from d2v.exchange.pickled import StandIn, as_plain, flat_tensors, read_pickled

FORMATS = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])


class Calls:
    """An object whose unpickling calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments


def save(path: Path, content: Any, *, is_zip: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    return path


@pytest.fixture
def of_fairseq(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """A module that calls itself fairseq's while a file is written, and is gone when it is read."""
    module = types.ModuleType("fairseq.dataclass.constants")

    class Mode(enum.Enum):
        layer_norm = "layer_norm"

    class Dictionary:
        def __init__(self) -> None:
            self.symbols = ["<s>", "A"]

    for kind in (Mode, Dictionary):
        kind.__module__, kind.__qualname__ = module.__name__, kind.__name__
        setattr(module, kind.__name__, kind)
    for name in ("fairseq", "fairseq.dataclass"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


# What is refused


@FORMATS
@pytest.mark.parametrize(
    ("function", "named"),
    [
        (os.system, "posix.system"),
        (builtins.open, "io.open"),
        (builtins.exec, "builtins.exec"),
        (builtins.getattr, "builtins.getattr"),
        (torch.hub.load, "torch.hub.load"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_pickle_that_calls_a_function__runs_nothing_and_is_refused_by_name(
    tmp_path: Path, function: Callable[..., Any], named: str, is_zip: bool
) -> None:
    made = tmp_path / "made"
    arguments: dict[Any, tuple[Any, ...]] = {
        os.system: (f"touch {made}",),
        builtins.open: (str(made), "w"),
        builtins.exec: (f"open({str(made)!r}, 'w')",),
        builtins.getattr: (1, "real"),
        torch.hub.load: (str(made), "model"),
    }
    content = {"model": {"weight": torch.ones(2)}, "cfg": Calls(function, *arguments[function])}
    path = save(tmp_path / "model.pt", content, is_zip=is_zip)
    with pytest.raises(UsageError, match=named) as caught:
        read_pickled(path)
    assert not made.exists()
    assert "Nothing of it was run" in str(caught.value)


@FORMATS
def test_a_call_behind_configuration_objects__is_refused_too(tmp_path: Path, is_zip: bool) -> None:
    made = tmp_path / "made"
    inner = argparse.Namespace(a=1, b=Calls(os.system, f"touch {made}"))
    path = save(tmp_path / "model.pt", {"args": inner}, is_zip=is_zip)
    with pytest.raises(UsageError, match=r"posix\.system"):
        read_pickled(path)
    assert not made.exists()


@FORMATS
def test_the_same_file__would_have_run_it_in_careless_hands(tmp_path: Path, is_zip: bool) -> None:
    made = tmp_path / "made"
    path = save(tmp_path / "model.pt", {"cfg": Calls(os.system, f"touch {made}")}, is_zip=is_zip)
    torch.load(path, weights_only=False)
    assert made.exists()


def test_a_file_that_puts_methods_into_a_stand_in__calls_none(tmp_path: Path) -> None:
    # Two BUILDs: the first would plant __setstate__ in the object, the second would call it.
    program = (
        b"\x80\x02}X\x03\x00\x00\x00cfgcargparse\nNamespace\n)\x81"
        b"}X\x0c\x00\x00\x00__setstate__ccollections\nOrderedDict\nsb"
        b"}X\x01\x00\x00\x00aK\x01sbs."
    )
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    found = read_pickled(path)["cfg"]
    assert isinstance(found, StandIn)
    assert as_plain(found) == {"a": 1}


def test_stand_ins__hold_nothing_but_what_they_were_given() -> None:
    stand_in = StandIn(1, 2)
    with pytest.raises(AttributeError):
        stand_in.__dict__["anything"] = 1
    assert stand_in.arguments == (1, 2)
    assert {name for name in vars(StandIn) if callable(vars(StandIn)[name])} == {
        "__new__",
        "__setstate__",
    }


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"no model at all\n" * 40,
        lambda content: b"",
        lambda content: content[:4] + b"\x00" * 400,
    ],
    ids=["half", "text", "empty", "zeros"],
)
@FORMATS
def test_a_damaged_file__is_named(
    tmp_path: Path, spoil: Callable[[bytes], bytes], is_zip: bool
) -> None:
    path = save(tmp_path / "model.pt", {"weight": torch.ones(4000)}, is_zip=is_zip)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(UsageError, match=r"model\.pt cannot be read: \S"):
        read_pickled(path)


def test_a_newer_pickle_protocol__is_an_error_and_no_warning(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"weight": torch.ones(2), "cfg": argparse.Namespace()}, path, pickle_protocol=4)
    with pytest.raises(UsageError, match=r"model\.pt cannot be read"):
        read_pickled(path)


def test_a_list__is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds list"):
        read_pickled(save(tmp_path / "model.pt", [torch.ones(2)]))


# What is read


@FORMATS
def test_configuration_objects__are_read_as_plain_values(
    tmp_path: Path, of_fairseq: types.ModuleType, monkeypatch: pytest.MonkeyPatch, is_zip: bool
) -> None:
    cfg = OmegaConf.create({"model": {"_name": "data2vec_audio", "layers": [1, 2.5, None]}})
    content = {
        "cfg": cfg,
        "args": argparse.Namespace(dropout=0.1, w2v_args=argparse.Namespace(depth=3)),
        "mode": of_fairseq.Mode.layer_norm,
        "task_state": {"target_dictionary": of_fairseq.Dictionary()},
        "best": np.float64(0.5),
        "meters": defaultdict(list, {"loss": [1.0]}),
        "model": OrderedDict(weight=torch.arange(3.0)),
    }
    path = save(tmp_path / "model.pt", content, is_zip=is_zip)
    monkeypatch.undo()
    found = read_pickled(path)
    assert as_plain(found["cfg"]) == {
        "model": {"_name": "data2vec_audio", "layers": [1, 2.5, None]}
    }
    assert as_plain(found["args"]) == {"dropout": 0.1, "w2v_args": {"depth": 3}}
    assert as_plain(found["mode"]) == "layer_norm"
    assert as_plain(found["task_state"])["target_dictionary"]["symbols"] == ["<s>", "A"]
    assert found["meters"] == {"loss": [1.0]}
    assert torch.equal(found["model"]["weight"], torch.arange(3.0))


def test_reading__leaves_nothing_allowed_behind(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    read_pickled(save(tmp_path / "model.pt", {"args": argparse.Namespace(a=1)}))
    assert set(torch.serialization.get_safe_globals()) == before


def test_a_configuration_that_holds_itself__is_an_error(tmp_path: Path) -> None:
    loop = argparse.Namespace()
    loop.inner = {"loop": loop}
    found = read_pickled(save(tmp_path / "model.pt", {"args": loop}))
    with pytest.raises(UsageError, match="levels deep"):
        as_plain(found["args"])


def test_tensors__come_flat_and_in_float32() -> None:
    content = {
        "layers": {"0": {"weight": torch.ones(2, dtype=torch.float16)}},
        "index": torch.arange(3),
        "steps": 7,
    }
    found = flat_tensors(content, "file")
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        "layers.0.weight": torch.float32,
        "index": torch.int64,
    }


def test_a_tensor_without_values__is_refused() -> None:
    with pytest.raises(UsageError, match="weight of file is"):
        flat_tensors({"weight": torch.empty(2, device="meta")}, "file")
