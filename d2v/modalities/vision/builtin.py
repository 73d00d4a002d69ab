"""Pictures that come with an installed package: something to try everything on at once."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from d2v.samples import SourceItem


def _digits() -> Iterator[SourceItem]:
    """1,797 scans of handwritten digits, 8x8 pixels, 17 shades of grey."""
    scans = load_digits()
    for number, (scan, digit) in enumerate(zip(scans.images, scans.target, strict=True)):
        content = io.BytesIO()
        Image.fromarray(np.round(scan * 255 / 16).astype(np.uint8)).save(content, "PNG")
        yield SourceItem(
            name=f"digits/{number:04d}.png", content=content.getvalue(), label=str(digit)
        )


BUILTINS: dict[str, Callable[[], Iterator[SourceItem]]] = {"builtin:digits": _digits}
