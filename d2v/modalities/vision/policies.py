"""timm's augmentation policies (RandAugment, AutoAugment, AugMix), drawn from a given generator."""

import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import (
    augment_and_mix_transform,
    auto_augment_transform,
    rand_augment_transform,
)
from torch import Generator, Tensor

_NUMBER = r"\d+(\.\d+)?"
_GRAMMAR = {
    "rand": rf"(-(m\d+|n[1-9]|p(0\.\d+|1)|mstd{_NUMBER}|mmax\d+|inc[01]|t(weights|3a|3aw)))*",
    "augmix": rf"(-(m\d+|w[1-9]|d[1-9]|b[01]|mstd{_NUMBER}))*",
    "(original|originalr|v0|v0r)": rf"(-mstd{_NUMBER})?",
}
"""Name -> what may follow. timm itself passes over what it does not understand."""


def check_policy(policy: str) -> None:
    """Raises ValueError where timm would not understand the policy, or only a part of it."""
    if not any(re.fullmatch(name + rest, policy) for name, rest in _GRAMMAR.items()):
        raise ValueError(
            f"auto_augment '{policy}' is no policy: write RandAugment as rand-m9-mstd0.5-inc1 "
            "(further parts: n2, p0.5, mmax10, tweights), AutoAugment as original-mstd0.5 (or "
            "originalr, v0, v0r), AugMix as augmix-m5-w4-d2"
        )


def auto_augment(image: Tensor, policy: str, mean: Sequence[float], generator: Generator) -> Tensor:
    """One picture, changed as a policy of timm says. (C, h, w) uint8 -> the same.

    Args:
        image: one channel (grey) or three (RGB).
        policy: what `check_policy` lets pass.
        mean: of the pixels in 0..1, a value a channel or one for all: the colour of what is
            uncovered.
        generator: decides everything.
    """
    num_channels, *sides = image.shape
    colour = tuple(min(255, round(255 * value)) for value in mean) * (num_channels // len(mean))
    transform = _transform(policy, min(sides), colour)
    pixels = image.permute(1, 2, 0).numpy()  # (h, w, C)
    picture = Image.fromarray(pixels[:, :, 0] if num_channels == 1 else pixels)
    with _global_randomness_from(generator):
        changed = np.array(transform(picture))
    return torch.from_numpy(changed.reshape(*sides, num_channels)).permute(2, 0, 1)


def _transform(policy: str, side: int, colour: tuple[int, ...]) -> Any:
    """As timm's own training transform sets it up, with bicubic interpolation (reference 3.1)."""
    given = {
        "translate_const": int(side * 0.45),
        "img_mean": colour[0] if len(colour) == 1 else colour,
        "interpolation": Image.Resampling.BICUBIC,
    }
    if policy.startswith("rand"):
        return rand_augment_transform(policy, given)
    if policy.startswith("augmix"):
        return augment_and_mix_transform(policy, given | {"translate_pct": 0.3})
    return auto_augment_transform(policy, given)


@contextmanager
def _global_randomness_from(generator: Generator) -> Iterator[None]:
    """Python's and NumPy's global generators, which timm draws from, seeded and then put back."""
    seeds: list[int] = torch.randint(2**32, (2,), generator=generator).tolist()
    kept, kept_numpy = random.getstate(), np.random.get_state()
    try:
        random.seed(seeds[0])
        np.random.seed(seeds[1])
        yield
    finally:
        random.setstate(kept)
        np.random.set_state(kept_numpy)
