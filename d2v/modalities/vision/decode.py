"""Stored bytes of one picture -> (C, height, width) uint8.

Pillow decodes: torchvision's own decoders are deprecated since 0.29 and will be removed.
"""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

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
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > max_pixels:
                raise BadSampleError(
                    f"{image.width} x {image.height} pixels, more than {max_pixels}"
                )
            pixels = np.array(image.convert("L" if channels == 1 else "RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadSampleError(f"damaged picture: {error}") from error
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels)).permute(2, 0, 1)
