"""Stored bytes of one picture -> (C, height, width) uint8."""

import io
import struct

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from d2v.errors import BadSampleError

_FORMATS = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff")


def read_picture(parts: dict[str, bytes], *, channels: int, max_pixels: int) -> Tensor:
    """Decode the picture among a sample's members.

    Args:
        parts: extension -> content.
        channels: 1 greyscale, 3 RGB; the picture is converted.
        max_pixels: larger pictures are refused from their header.

    Returns:
        (channels, height, width) uint8.

    Raises:
        BadSampleError: no picture, damaged, or too large.
    """
    content = next((parts[name] for name in _FORMATS if name in parts), None)
    if content is None:
        raise BadSampleError(f"no picture among its members ({', '.join(parts)})")
    try:
        size = _size(content)
        if size is None:
            with Image.open(io.BytesIO(content)) as image:
                _refuse_large(image.size, max_pixels)
                return _by_pillow(image, channels)
        _refuse_large(size, max_pixels)
        mode = ImageReadMode.GRAY if channels == 1 else ImageReadMode.RGB
        decoded: Tensor = decode_image(
            torch.frombuffer(bytearray(content), dtype=torch.uint8), mode
        )
    except (OSError, RuntimeError, ValueError, Image.DecompressionBombError) as error:
        raise BadSampleError(f"damaged picture: {error}") from error
    return decoded


def _by_pillow(image: Image.Image, channels: int) -> Tensor:
    pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels).transpose(2, 0, 1).copy())


def _refuse_large(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise BadSampleError(f"{width} x {height} pixels, more than {max_pixels}")


def _size(content: bytes) -> tuple[int, int] | None:
    """Width and height of a PNG or JPEG from its header; None where Pillow has to look.

    Pillow reads the same, at twice the cost of decoding a small picture.
    """
    if content.startswith(b"\x89PNG\r\n\x1a\n") and len(content) >= 24:
        width, height = struct.unpack(">II", content[16:24])
        return width, height
    if not content.startswith(b"\xff\xd8"):
        return None
    place = 2
    while place + 9 <= len(content) and content[place] == 0xFF:
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame header
            height, width = struct.unpack(">HH", content[place + 5 : place + 9])
            return width, height
        place += 2 + length
    return None  # rare: filler between the segments, or damage
