"""Stored bytes of one picture -> (C, height, width) uint8."""

import io

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
        with Image.open(io.BytesIO(content)) as header:
            if header.width * header.height > max_pixels:
                raise BadSampleError(
                    f"{header.width} x {header.height} pixels, more than {max_pixels}"
                )
            if header.format not in ("JPEG", "PNG"):
                return _by_pillow(header, channels)
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
