"""Proves: no foreign pickle takes more memory than it has bytes, or hides anything by tricks."""

import argparse
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from d2v.errors import UsageError
from d2v.exchange import pickled
from d2v.exchange.json_file import read_json
from d2v.exchange.pickled import StandIn, as_plain, flat_tensors, read_pickled
from d2v.exchange.tensor_files import file_tensors

FORMATS = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
MANY = 10**12


def archive(path: Path, program: bytes, *, compression: int = zipfile.ZIP_STORED) -> Path:
    """A file as torch.save writes it, of a pickle written by hand."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", program)
        file.writestr("archive/version", "3\n")
        file.writestr("archive/byteorder", "little")
    return path


def save(path: Path, content: Any, *, is_zip: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    return path


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    encoded = pickle.encode_long(value)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def refers_twice(levels: int, innermost: bytes) -> bytes:
    """A dictionary that names the same one twice, which does so as well, and so on."""
    if levels == 0:
        return innermost + b"q\x00"
    inner = refers_twice(levels - 1, innermost)
    return b"}(" + text("a") + inner + text("b") + b"h" + bytes([levels - 1, 117, 113, levels])


@FORMATS
def test_empty_bytes_of_any_length__are_refused_before_they_are_made(
    tmp_path: Path, is_zip: bool
) -> None:
    path = save(tmp_path / "model.pt", {"cfg": bytearray(9)}, is_zip=is_zip)
    with pytest.raises(UsageError, match=r"asks for builtins\.bytearray"):
        read_pickled(path)
    call = b"\x80\x02}" + text("a") + b"cbuiltins\nbytearray\n" + number(MANY) + b"\x85Rs."
    with pytest.raises(UsageError, match=r"asks for builtins\.bytearray"):
        read_pickled(archive(tmp_path / "large.pt", call))


def test_a_compressed_file__is_not_unpacked(tmp_path: Path) -> None:
    program = b"\x80\x02}" + text("a") + text("b" * 1_000_000) + b"s."
    path = archive(tmp_path / "model.pt", program, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10_000
    with pytest.raises(UsageError, match="is compressed"):
        read_pickled(path)


@pytest.mark.parametrize("read", [file_tensors, lambda path: flat_tensors(read_pickled(path), "")])
def test_few_values_spread_over_a_large_tensor__are_refused(
    tmp_path: Path, read: Callable[[Path], Any]
) -> None:
    spread = torch.ones(1, dtype=torch.float16).expand(MANY)
    path = save(tmp_path / "model.bin", {"weight": spread})
    with pytest.raises(UsageError, match="weight of .* is .1000000000000., and there are 2 bytes"):
        read(path)


def test_what_refers_to_one_thing_without_end__is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickled, "_MOST", 1000)
    program = b"\x80\x02" + refers_twice(40, b"}" + text("c") + b"K\x01s") + b"."
    found = read_pickled(archive(tmp_path / "model.pt", program))
    with pytest.raises(UsageError, match="holds more than 1,000 values"):
        as_plain(found)
    with pytest.raises(UsageError, match="holds more than 1,000 values"):
        flat_tensors(found, "file")


def test_dictionaries_and_tensors__keep_their_own_methods(tmp_path: Path) -> None:
    state = OrderedDict(weight=torch.ones(2))
    vars(state["weight"])["detach"] = argparse.Namespace
    found = read_pickled(save(tmp_path / "model.pt", {"model": state}))
    assert torch.equal(flat_tensors(found, "file")["model.weight"], torch.ones(2))

    ordered = b"ccollections\nOrderedDict\n)R"
    covered = ordered + b"}" + text("items") + b"cargparse\nNamespace\nsb"
    found = read_pickled(archive(tmp_path / "covered.pt", b"\x80\x02" + covered + b"."))
    assert flat_tensors(found, "file") == {}


def test_two_tensors_of_one_name__are_refused() -> None:
    twice = {"a.b": torch.ones(1), "a": {"b": torch.zeros(1)}}
    with pytest.raises(UsageError, match=r"file holds two tensors that are both called a\.b"):
        flat_tensors(twice, "file")


@pytest.mark.parametrize(
    ("state", "plain"),
    [((3, 4), {}), (({"a": 1}, [2]), {"a": 1}), ((None, {"b": 2}), {"b": 2}),
     (({"a": 1}, {"a": 2}), {"a": 2}), ({"a": 2**9999, "b": 2}, {"a": None, "b": 2})],
)  # fmt: skip
def test_odd_attributes__say_what_they_can(state: Any, plain: Any) -> None:
    stand_in = StandIn()
    stand_in.__setstate__(state)
    assert as_plain(stand_in) == plain


def test_json_nested_without_end__is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 200_000)
    with pytest.raises(UsageError, match="cannot be read"):
        read_json(tmp_path / "config.json")
