"""Random and fixed changes of a picture, every draw from the sample's own generator.

Pictures are (C, height, width) uint8 tensors. The pixel work is torchvision's.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from d2v.modalities.vision.policies import auto_augment, check_policy
from d2v.settings import Settings

_ERASED_AREA = (0.02, 1 / 3)
_ERASED_RATIO = (0.3, 1 / 0.3)
"""Least and most: share of the picture; height / width (timm's defaults)."""


class AugmentSettings(Settings):
    """What happens to a picture before the model sees it (defaults: reference section 2.1)."""

    crop: Literal["resized", "padded", "none"] = "resized"
    """resized: a random part, resized; padded: shifted by up to `padding`; none: the middle."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Area of a resized crop as a share of the picture, least and most."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width / height of a resized crop, least and most."""
    padding: int = Field(4, ge=0)
    """Largest shift of a padded crop, in pixels; what is uncovered is black."""
    hflip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    color_jitter: tuple[float, float, float] = (0.4, 0.4, 0.4)
    """Strength of brightness, contrast and saturation changes; 0 for none."""
    auto_augment: str | None = None
    """A policy as timm writes it, in place of `color_jitter` (published fine-tuning:
    rand-m9-mstd0.5-inc1, reference section 3.1); null for none."""
    erasing: float = Field(0.0, ge=0, le=1)
    """Probability that a rectangle is replaced by noise (published fine-tuning: 0.25)."""
    evaluation_scale: float = Field(1.0, gt=0, le=1)
    """Without randomness: side of the middle crop over the shorter side (ImageNet: 0.875)."""

    @model_validator(mode="after")
    def _check(self) -> "AugmentSettings":
        for name, (low, high) in {
            "crop_scale": self.crop_scale,
            "crop_ratio": self.crop_ratio,
        }.items():
            if not 0 < low <= high:
                raise ValueError(f"{name} must be two numbers above 0, the smaller first")
        if self.crop_scale[1] > 1:
            raise ValueError("crop_scale is a share of the picture: at most 1")
        if min(self.color_jitter) < 0:
            raise ValueError("color_jitter must not be negative")
        if self.auto_augment is not None:
            check_policy(self.auto_augment)
            if any(self.color_jitter):
                raise ValueError(
                    "color_jitter does nothing beside auto_augment: set color_jitter to [0, 0, 0]"
                )
        return self


def augment(
    image: Tensor,
    size: int,
    settings: AugmentSettings,
    generator: Generator,
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.5,),
) -> Tensor:
    """Colour jitter, flip, crop, in the published order; then policy and erasing.

    timm crops before it flips: both orders give the same pictures equally often.

    Args:
        image: (C, h, w) uint8, any size.
        size: side of the result, in pixels.
        settings: what is changed.
        generator: decides everything.
        mean: of the pixels in 0..1, a value a channel or one for all: the colour of what a policy
            uncovers, and the middle of the noise that erases.
        std: of the pixels likewise: the spread of that noise.

    Returns:
        (C, size, size) uint8.
    """
    image = _jitter(image, settings.color_jitter, generator)
    if settings.hflip and _uniform(generator) < settings.hflip:
        image = F.horizontal_flip(image)
    image = _crop(image, size, settings, generator)
    if settings.auto_augment is not None:
        image = auto_augment(image, settings.auto_augment, mean, generator)
    if settings.erasing and _uniform(generator) < settings.erasing:
        image = _erased(image, mean, std, generator)
    return image


def middle(image: Tensor, size: int, scale: float) -> Tensor:
    """The middle square without randomness. (C, h, w) uint8 -> (C, size, size).

    Args:
        image: any size.
        size: side of the result, in pixels.
        scale: side of the crop over the shorter side of the picture.
    """
    height, width = image.shape[-2:]
    if (height, width) == (size, size) and scale == 1:
        return image
    side = max(1, round(min(height, width) * scale))
    top, left = (height - side) // 2, (width - side) // 2
    return _resize(image[:, top : top + side, left : left + side], size)


def _crop(image: Tensor, size: int, settings: AugmentSettings, generator: Generator) -> Tensor:
    if settings.crop == "resized":
        return _resized_crop(image, size, settings, generator)
    image = middle(image, size, 1.0)
    if settings.crop == "padded" and settings.padding:
        image = F.pad(image, [settings.padding] * 4)
        top, left = torch.randint(2 * settings.padding + 1, (2,), generator=generator).tolist()
        image = image[:, top : top + size, left : left + size]
    return image


def _resized_crop(
    image: Tensor, size: int, settings: AugmentSettings, generator: Generator
) -> Tensor:
    """Up to ten tries for an area and shape that fit, else the largest middle part that does."""
    height, width = image.shape[-2:]
    low, high = settings.crop_scale
    log_low, log_high = (math.log(ratio) for ratio in settings.crop_ratio)
    for u_area, u_ratio, u_top, u_left in torch.rand(10, 4, generator=generator).tolist():
        area = height * width * (low + (high - low) * u_area)
        ratio = math.exp(log_low + (log_high - log_low) * u_ratio)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(u_top * (height - h + 1)), int(u_left * (width - w + 1))
            return _resize(image[:, top : top + h, left : left + w], size)
    ratio = min(max(width / height, settings.crop_ratio[0]), settings.crop_ratio[1])
    h, w = min(height, max(1, round(width / ratio))), min(width, max(1, round(height * ratio)))
    top, left = (height - h) // 2, (width - w) // 2
    return _resize(image[:, top : top + h, left : left + w], size)


def _jitter(image: Tensor, strengths: tuple[float, float, float], generator: Generator) -> Tensor:
    """Brightness, contrast and saturation in random order, each by a factor around 1."""
    changes = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation)
    if not any(strengths):
        return image
    for which in torch.randperm(3, generator=generator).tolist():
        strength = strengths[which]
        if strength and not (which == 2 and image.shape[0] == 1):
            factor = max(0.0, 1 + strength * (2 * _uniform(generator) - 1))
            image = changes[which](image, factor)
    return image


def _erased(
    image: Tensor, mean: Sequence[float], std: Sequence[float], generator: Generator
) -> Tensor:
    """Noise in one rectangle, up to ten tries for one that fits (timm, mode pixel, count 1).

    timm erases after normalisation, with N(0, 1): here, before it, that is N(mean, std), clipped
    to the 8 bits of a pixel.
    """
    channels, height, width = image.shape
    low, high = (math.log(ratio) for ratio in _ERASED_RATIO)
    for u_area, u_ratio, u_top, u_left in torch.rand(10, 4, generator=generator).tolist():
        share = _ERASED_AREA[0] + (_ERASED_AREA[1] - _ERASED_AREA[0]) * u_area
        area, ratio = share * height * width, math.exp(low + (high - low) * u_ratio)
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if h < height and w < width:
            noise = torch.randn(channels, h, w, generator=generator)
            noise = noise * torch.tensor(std).view(-1, 1, 1) + torch.tensor(mean).view(-1, 1, 1)
            top, left = int(u_top * (height - h + 1)), int(u_left * (width - w + 1))
            image = image.clone()
            image[:, top : top + h, left : left + w] = (noise * 255).round().clamp(0, 255).byte()
            return image
    return image


def _resize(image: Tensor, size: int) -> Tensor:
    if image.shape[-2:] == (size, size):
        return image
    resized: Tensor = F.resize(
        image, [size, size], interpolation=InterpolationMode.BICUBIC, antialias=True
    )
    return resized


def _uniform(generator: Generator) -> float:
    return float(torch.rand((), generator=generator))
