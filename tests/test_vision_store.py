"""A stored picture shows what the file shows, upright and in 8 bits."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from d2v.modalities.vision.store import StoreSettings, encode_image
from tests.store_case import COLOUR, DEFAULT, GREY, SMOOTH, item, png_of, saved


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
