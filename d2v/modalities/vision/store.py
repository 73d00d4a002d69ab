"""A picture as somebody has it to a picture as shards hold it: whole, upright, 8 bit, RGB or L."""

from __future__ import annotations

import io
import os
import stat
import warnings

import numpy as np
from PIL import (
    BmpImagePlugin,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)
from pydantic import Field

from d2v.errors import BadSampleError
from d2v.samples import SourceItem
from d2v.settings import Settings

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff")
)
PLUGINS = (
    BmpImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
"""Named here so that Pillow need not load, and a hostile file cannot reach, any other."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
STORED = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
"""Format -> extension, where the bytes can stay as they are. MPO is a JPEG with more behind it."""
BYTES_PER_PIXEL = 16
"""A file with more bytes for each allowed pixel is not read at all."""
ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what sets the picture upright."""


class StoreSettings(Settings):
    """How pictures are stored."""

    shorter_side: int | None = Field(None, ge=1)
    """Pixels; larger pictures are shrunk until their shorter side has so many."""
    quality: int = Field(90, ge=1, le=100)
    """Of JPEG, where a JPEG has to be written anew."""
    max_pixels: int = Field(100_000_000, ge=1, le=178_956_970)
    """Larger pictures are refused before they are decoded. Pillow refuses beyond the upper end."""


def encode_image(item: SourceItem, settings: StoreSettings) -> dict[str, bytes]:
    """The one member to store: the file's own bytes where nothing needs to change.

    Rewritten JPEG stays JPEG; everything else becomes PNG, so that nothing more is lost.

    Raises:
        BadSampleError: not a picture, not a whole one, or too large; the reason names no file,
            so that equal reasons can be counted.
    """
    data = _read(item, settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns where we decide: size, odd EXIF
        image = _opened(data)
        num_pixels = image.width * image.height
        if num_pixels > settings.max_pixels:
            raise BadSampleError(f"too large: more than max_pixels={settings.max_pixels}")
        try:
            image.load()
            upright = UPRIGHT.get(_orientation(image))  # now: loading sets a TIFF upright itself
            is_plain = upright is None and _is_plain(image, data)
            pixels = image if is_plain else _as_rgb_or_grey(image)
        except (BadSampleError, MemoryError):
            raise
        except Exception as error:  # what a damaged file makes Pillow raise is anybody's guess
            raise BadSampleError(_reason(error)) from error
        if upright is not None:
            pixels = pixels.transpose(upright)
        size = _stored_size(pixels, settings.shorter_side)
        if is_plain and size == pixels.size:
            return {STORED[str(image.format)]: data}
        if size != pixels.size:
            pixels = pixels.resize(size, Image.Resampling.BICUBIC)
        return _written(pixels, settings, as_jpeg=image.format in ("JPEG", "MPO"))


def _read(item: SourceItem, settings: StoreSettings) -> bytes:
    suffix = os.path.splitext(item.name)[1].lower()
    if suffix and suffix not in SUFFIXES:
        raise BadSampleError(f"not a supported kind of picture: {suffix}")
    try:
        if item.path is not None and item.content is None:
            status = item.path.stat()
            if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
                raise BadSampleError("not a regular file")
            if status.st_size > BYTES_PER_PIXEL * settings.max_pixels:
                raise BadSampleError("too large: more bytes than max_pixels could need")
        data = item.read()
    except OSError as error:
        raise BadSampleError(f"cannot be read: {error.strerror}") from error
    if not data:
        raise BadSampleError("empty file")
    return data


def _opened(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise BadSampleError("not a picture, or one of an unsupported format") from None
    except MemoryError:
        raise
    except Exception as error:  # see above
        raise BadSampleError(_reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return "too large: Pillow takes it for a decompression bomb"
    if "truncated" in str(error).lower():
        return "truncated"
    return f"damaged: {type(error).__name__}"


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a picture with torn EXIF is still a picture, taken as upright
        return 1


def _is_plain(image: Image.Image, data: bytes) -> bool:
    """Whether readers without Pillow's care would see the same picture."""
    if image.format not in STORED or image.mode not in ("RGB", "L"):
        return False
    if image.format == "PNG" and data[24] != 8:  # IHDR's bit depth
        return False
    is_animated = image.format != "MPO" and getattr(image, "n_frames", 1) > 1
    return "transparency" not in image.info and not is_animated


def _as_rgb_or_grey(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep_grey(image)
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("LA", "La") or (image.mode == "L" and "transparency" in image.info):
        return _on_white(image.convert("LA"), "L")
    if image.has_transparency_data:
        return _on_white(image.convert("RGBA"), "RGB")
    if image.mode in ("RGB", "L"):
        return image
    try:
        return image.convert("RGB")
    except ValueError:
        raise BadSampleError(f"unsupported colours: {image.mode}") from None


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """16 bits to 8 by their upper byte; Pillow's own conversion would clip at 255."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
        raise BadSampleError("unsupported depth: more than 16 bits a pixel and channel")
    return Image.fromarray((values >> 8).astype(np.uint8))


def _on_white(image: Image.Image, mode: str) -> Image.Image:
    white = Image.new(mode, image.size, "white")
    white.paste(image.convert(mode), mask=image.getchannel("A"))
    return white


def _stored_size(image: Image.Image, shorter_side: int | None) -> tuple[int, int]:
    shorter = min(image.size)
    if shorter_side is None or shorter <= shorter_side:
        return image.size
    width, height = (max(1, round(side * shorter_side / shorter)) for side in image.size)
    return width, height


def _written(image: Image.Image, settings: StoreSettings, *, as_jpeg: bool) -> dict[str, bytes]:
    content = io.BytesIO()
    image.info = {}  # colour profiles, comments and times are not stored
    if as_jpeg:
        image.save(content, "JPEG", quality=settings.quality)
        return {"jpg": content.getvalue()}
    image.save(content, "PNG")
    return {"png": content.getvalue()}
