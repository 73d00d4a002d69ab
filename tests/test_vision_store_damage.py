"""Damaged, hostile and foreign files are refused with a reason that can be counted."""

import os
import stat
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from d2v.errors import BadSampleError
from d2v.modalities.vision.store import StoreSettings, encode_image
from d2v.samples import SourceItem
from tests.store_case import COLOUR, DEFAULT, GREY, RNG, item, png_of, saved


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_truncated_files__are_refused(kind: str) -> None:
    noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = saved(Image.fromarray(noise), kind)
    for part in (0.1, 0.5, 0.9):
        with pytest.raises(BadSampleError):
            encode_image(item(content[: int(len(content) * part)]), DEFAULT)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_damaged_bytes__never_raise_anything_but_bad_sample(kind: str) -> None:
    content = saved(Image.fromarray(COLOUR), kind)
    for _ in range(150):
        damaged = bytearray(content)
        for position in RNG.integers(0, len(content), 4):
            damaged[position] = RNG.integers(0, 256)
        try:
            members = encode_image(item(bytes(damaged)), StoreSettings(max_pixels=10_000))
        except BadSampleError:
            continue
        assert members


@pytest.mark.parametrize(
    ("content", "name", "reason"),
    [
        (b"", "a.png", "empty file"),
        (b"Dear diary,", "a.jpg", "not a picture, or one of an unsupported format"),
        (b"PK\3\4", "a.zip", "not a supported kind of picture: .zip"),
        (saved(Image.fromarray(GREY), "GIF"), "a.jpg", "not a picture, or one"),
    ],
)
def test_other_files__are_refused_with_a_reason(content: bytes, name: str, reason: str) -> None:
    with pytest.raises(BadSampleError, match=f"^{reason}"):
        encode_image(item(content, name), DEFAULT)


def test_suffix__does_not_decide_what_a_picture_is() -> None:
    content = saved(Image.fromarray(GREY), "PNG")
    for name in ("a.jpg", "a.TIFF", "a"):
        assert encode_image(item(content, name), DEFAULT) == {"png": content}


def test_bomb__is_refused_by_its_header_without_a_warning() -> None:
    def bomb(width: int, height: int) -> bytes:
        return png_of(struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0), b"")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for side in (10_001, 13_000, 100_000):  # above our limit, Pillow's warning, its error
            with pytest.raises(BadSampleError, match="too large"):
                encode_image(item(bomb(side, side)), DEFAULT)
    assert not caught


def test_max_pixels__counts_width_times_height() -> None:
    content = saved(Image.fromarray(GREY), "PNG")  # 9 x 6
    assert encode_image(item(content), StoreSettings(max_pixels=54))
    with pytest.raises(BadSampleError, match="too large"):
        encode_image(item(content), StoreSettings(max_pixels=53))


def test_unreadable_files__are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = SourceItem(name="gone.png", path=tmp_path / "gone.png")
    with pytest.raises(BadSampleError, match="^cannot be read: No such file"):
        encode_image(missing, DEFAULT)
    locked = tmp_path / "locked.png"
    locked.write_bytes(saved(Image.fromarray(GREY), "PNG"))

    def refuse(path: Path, mode: str) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything
    with pytest.raises(BadSampleError, match="^cannot be read: Permission denied$"):
        encode_image(SourceItem(name="locked.png", path=locked), DEFAULT)


def test_pipes__are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert stat.S_ISFIFO((tmp_path / "a.png").stat().st_mode)
    with pytest.raises(BadSampleError, match="not a regular file"):
        encode_image(SourceItem(name="a.png", path=tmp_path / "a.png"), DEFAULT)


def test_32_bit_depth__is_refused() -> None:
    content = saved(Image.fromarray(np.array([[0.5]], np.float32)), "TIFF")
    with pytest.raises(BadSampleError, match="unsupported depth"):
        encode_image(item(content), DEFAULT)
