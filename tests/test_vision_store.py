"""A stored picture shows what the file shows, upright and in 8 bits, and damage has a reason."""

import io
import os
import stat
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from d2v.errors import BadSampleError
from d2v.modalities.vision.store import StoreSettings, encode_image
from d2v.types import SourceItem

DEFAULT = StoreSettings()
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 9), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
SMOOTH = np.asarray(Image.fromarray(COLOUR).resize((48, 32), Image.Resampling.BICUBIC))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def item(content: bytes, name: str = "a.png") -> SourceItem:
    return SourceItem(name=name, content=content)


def pixels(content: bytes, settings: StoreSettings = DEFAULT) -> np.ndarray[Any, Any]:
    (stored,) = encode_image(item(content), settings).values()
    image = Image.open(io.BytesIO(stored))
    assert image.mode in ("RGB", "L")
    return np.asarray(image)


@pytest.mark.parametrize(
    ("kind", "extension", "options"),
    [
        ("JPEG", "jpg", {}),
        ("PNG", "png", {}),
        ("WEBP", "webp", {"lossless": True}),
        ("WEBP", "webp", {"quality": 50}),
    ],
)
@pytest.mark.parametrize("array", [GREY, COLOUR], ids=["L", "RGB"])
def test_encode__leaves_plain_files_untouched(
    array: np.ndarray[Any, Any], kind: str, extension: str, options: dict[str, Any]
) -> None:
    content = saved(Image.fromarray(array), kind, **options)
    assert encode_image(item(content), DEFAULT) == {extension: content}


@pytest.mark.parametrize("kind", ["BMP", "TIFF"])
@pytest.mark.parametrize("array", [GREY, COLOUR], ids=["L", "RGB"])
def test_encode__turns_other_lossless_formats_to_png(
    array: np.ndarray[Any, Any], kind: str
) -> None:
    content = saved(Image.fromarray(array), kind)
    assert list(encode_image(item(content), DEFAULT)) == ["png"]
    np.testing.assert_array_equal(pixels(content), array)


def test_encode__scales_16_bit_grey_down_instead_of_clipping() -> None:
    deep = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    for kind in ("PNG", "TIFF"):
        stored = pixels(saved(Image.fromarray(deep), kind))
        np.testing.assert_array_equal(stored, [[0, 0, 1, 128, 255]])


def test_encode__reads_big_endian_16_bit_tiff() -> None:
    big_endian = Image.frombytes("I;16B", (2, 1), struct.pack(">2H", 256, 65535))
    np.testing.assert_array_equal(pixels(saved(big_endian, "TIFF")), [[1, 255]])


def test_encode__scales_16_bit_colour_png_down() -> None:
    row = b"\0" + struct.pack(">6H", 0, 256, 65535, 32768, 1, 512)
    content = png_of(struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0), row)
    assert list(encode_image(item(content), DEFAULT).values()) != [content]
    np.testing.assert_array_equal(pixels(content), [[[0, 1, 255], [128, 0, 2]]])


def test_encode__spreads_1_bit_to_black_and_white() -> None:
    bits = np.array([[True, False, True]])
    for kind in ("PNG", "TIFF", "BMP"):
        np.testing.assert_array_equal(pixels(saved(Image.fromarray(bits), kind)), bits * 255)


def test_encode__puts_transparent_colours_on_white() -> None:
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 128]]], np.uint8)
    for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        stored = pixels(saved(Image.fromarray(rgba), kind, **options))
        np.testing.assert_array_equal(stored, [[[10, 20, 30], [255, 255, 255], [127, 127, 127]]])


def test_encode__puts_transparent_grey_on_white() -> None:
    grey = np.array([[[10, 255], [10, 0], [0, 128]]], np.uint8)
    stored = pixels(saved(Image.fromarray(grey, "LA"), "PNG"))
    np.testing.assert_array_equal(stored, [[10, 255, 127]])


def test_encode__looks_palettes_up() -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    image = Image.fromarray(colours).quantize(3)
    for kind in ("PNG", "BMP", "TIFF"):
        np.testing.assert_array_equal(pixels(saved(image, kind)), colours)


def test_encode__puts_transparent_palette_entries_on_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putdata([0, 1])
    for transparency in (1, bytes([255, 0])):
        stored = pixels(saved(image, "PNG", transparency=transparency))
        np.testing.assert_array_equal(stored, [[[255, 0, 0], [255, 255, 255]]])


@pytest.mark.parametrize(("mode", "key"), [("L", 7), ("RGB", (7, 7, 7))])
def test_encode__puts_a_transparent_colour_key_on_white(mode: str, key: Any) -> None:
    image = Image.fromarray(np.array([[7, 9]], np.uint8)).convert(mode)
    stored = pixels(saved(image, "PNG", transparency=key))
    np.testing.assert_array_equal(stored.reshape(2, -1)[:, 0], [255, 9])


def test_encode__turns_cmyk_jpeg_to_rgb_jpeg() -> None:
    cmyk = Image.fromarray(SMOOTH).convert("CMYK")
    content = saved(cmyk, "JPEG", quality=95)
    assert list(encode_image(item(content), DEFAULT)) == ["jpg"]
    assert np.abs(pixels(content).astype(int) - SMOOTH).mean() < 15


def test_encode__turns_cmyk_tiff_to_rgb_png() -> None:
    cmyk = Image.fromarray(COLOUR).convert("CMYK")
    np.testing.assert_array_equal(pixels(saved(cmyk, "TIFF")), COLOUR)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_encode__sets_every_exif_orientation_upright(kind: str, orientation: int) -> None:
    array = COLOUR if kind != "JPEG" else SMOOTH
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if kind == "WEBP" else {}
    content = saved(Image.fromarray(array), kind, exif=exif, **lossless)
    flips = [
        array, array[:, ::-1], array[::-1, ::-1], array[::-1],
        array.swapaxes(0, 1), np.rot90(array, -1), np.rot90(array, 2).swapaxes(0, 1),
        np.rot90(array),
    ]  # fmt: skip
    difference = np.abs(pixels(content).astype(int) - flips[orientation - 1])
    assert difference.mean() < (15 if kind == "JPEG" else 1e-9)


def test_encode__keeps_a_picture_with_torn_exif() -> None:
    content = saved(Image.fromarray(SMOOTH), "JPEG", exif=b"Exif\0\0II*\0garbage")
    assert encode_image(item(content), DEFAULT) == {"jpg": content}


def test_shorter_side__shrinks_larger_pictures_and_leaves_smaller_ones() -> None:
    content = saved(Image.fromarray(SMOOTH), "PNG")  # 48 x 32
    assert pixels(content, StoreSettings(shorter_side=16)).shape == (16, 24, 3)
    assert encode_image(item(content), StoreSettings(shorter_side=32)) == {"png": content}
    assert encode_image(item(content), StoreSettings(shorter_side=64)) == {"png": content}


def test_shorter_side__never_makes_a_side_vanish() -> None:
    content = saved(Image.new("L", (1, 5000)), "PNG")
    assert pixels(content, StoreSettings(shorter_side=1)).shape == (5000, 1)


def test_quality__decides_the_size_of_rewritten_jpegs() -> None:
    content = saved(Image.fromarray(SMOOTH), "JPEG")
    sizes = [
        len(encode_image(item(content), StoreSettings(shorter_side=16, quality=quality))["jpg"])
        for quality in (10, 90)
    ]
    assert sizes[0] < sizes[1]


def test_encode__gives_the_same_bytes_again() -> None:
    for kind in ("JPEG", "TIFF"):
        content = saved(Image.fromarray(SMOOTH), kind)
        small = StoreSettings(shorter_side=8)
        assert encode_image(item(content), small) == encode_image(item(content), small)


def test_encode__stores_the_first_frame_of_animations() -> None:
    frames = [Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)]
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        content = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert list(encode_image(item(content), DEFAULT)) == ["png"]
        np.testing.assert_array_equal(pixels(content), COLOUR)


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

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)  # root may read everything
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


def png_of(header: bytes, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks
