"""Proves: augmentation follows reference section 2.1, from the sample's generator alone."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as F

from d2v.modalities.vision import augment as module
from d2v.modalities.vision.augment import AugmentSettings, augment, middle
from tests.maths_case import seeded

NOTHING: dict[str, Any] = {"crop": "none", "hflip": 0, "color_jitter": (0, 0, 0)}


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> Tensor:
    shape = (channels, height, width)
    return torch.randint(256, shape, generator=seeded(seed), dtype=torch.uint8)


def settings(**changes: Any) -> AugmentSettings:
    return AugmentSettings(**{**NOTHING, **changes})


def places(height: int, width: int) -> Tensor:
    """(2, height, width): every pixel holds its own row and column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns]).to(torch.uint8)


def crops(
    monkeypatch: pytest.MonkeyPatch, image: Tensor, generators: Sequence[Generator], **changes: Any
) -> list[Tensor]:
    """What is cut out before it is resized."""
    found: list[Tensor] = []

    def keep(cut: Tensor, size: int) -> Tensor:
        found.append(cut)
        return cut

    with monkeypatch.context() as patch:
        patch.setattr(module, "_resize", keep)
        for generator in generators:
            augment(image, 9, settings(crop="resized", **changes), generator)
    return found


# Randomness


def test_augment__is_decided_by_the_generator_alone() -> None:
    image, defaults = picture(30, 41), AugmentSettings()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = augment(image, 16, defaults, seeded(5))
    assert torch.equal(torch.get_rng_state(), state), "the global generator is not touched"
    torch.manual_seed(2)
    assert torch.equal(one, augment(image, 16, defaults, seeded(5)))
    assert not torch.equal(one, augment(image, 16, defaults, seeded(6)))
    assert torch.equal(image, picture(30, 41)), "the stored picture is not changed"


@pytest.mark.parametrize("crop", ["resized", "padded", "none"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (7, 50), (50, 7), (1, 1), (1, 90)])
def test_augment__gives_the_asked_size_for_every_shape(
    crop: str, channels: int, height: int, width: int
) -> None:
    chosen = AugmentSettings.model_validate({"crop": crop})
    for seed in range(5):
        out = augment(picture(height, width, channels), 16, chosen, seeded(seed))
        assert out.shape == (channels, 16, 16)
        assert out.dtype == torch.uint8


# Crop


def test_resized_crop__area_and_shape_stay_within_the_limits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    height, width = 200, 240
    generators = [seeded(seed) for seed in range(2000)]
    found = crops(monkeypatch, places(height, width), generators)
    areas, ratios = [], []
    for cut in found:
        h, w = cut.shape[-2:]
        areas.append(h * w / (height * width))
        ratios.append(w / h)
        first, last = cut[:, 0, 0].tolist(), cut[:, -1, -1].tolist()
        assert (last[0] - first[0] + 1, last[1] - first[1] + 1) == (h, w), "one whole rectangle"
    rounding = 0.015
    assert 0.08 * (1 - rounding) <= min(areas) < 0.1
    assert 0.95 < max(areas) <= 1
    assert 0.75 * (1 - rounding) <= min(ratios) < 0.76
    assert 1.32 < max(ratios) <= 4 / 3 * (1 + rounding)
    small = torch.tensor(areas)  # large areas seldom fit, so only the lower half is uniform
    low, high = ((small >= a).logical_and(small < a + 0.2).sum().item() for a in (0.1, 0.3))
    assert low / high == pytest.approx(1, abs=0.15)
    logs = [math.log(r) for r, a in zip(ratios, areas, strict=True) if a < 0.5]
    assert abs(sum(logs)) / len(logs) < 0.02, "wide and high alike"


def test_resized_crop__reaches_every_place(monkeypatch: pytest.MonkeyPatch) -> None:
    found = crops(
        monkeypatch,
        places(12, 10),
        [seeded(seed) for seed in range(500)],
        crop_scale=(0.3, 0.3),
        crop_ratio=(1.0, 1.0),
    )
    assert {tuple(cut.shape) for cut in found} == {(2, 6, 6)}
    corners = {tuple(cut[:, 0, 0].tolist()) for cut in found}
    assert corners == {(top, left) for top in range(7) for left in range(5)}


@pytest.mark.parametrize(
    ("height", "width", "shape"), [(10, 90, (10, 13)), (90, 10, (13, 10)), (1, 60, (1, 1))]
)
def test_resized_crop__that_never_fits_takes_the_middle(
    monkeypatch: pytest.MonkeyPatch, height: int, width: int, shape: tuple[int, int]
) -> None:
    scale = (1.0, 1.0)
    (cut,) = crops(monkeypatch, places(height, width), [seeded(0)], crop_scale=scale)
    assert cut.shape[-2:] == shape
    top, left = (height - shape[0]) // 2, (width - shape[1]) // 2
    assert cut[:, 0, 0].tolist() == [top, left]


def test_resize__is_bicubic_with_antialiasing() -> None:
    image = picture(20, 20)
    whole = settings(crop="resized", crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    expected = F.resize(image, [8, 8], F.InterpolationMode.BICUBIC, antialias=True)
    assert torch.equal(augment(image, 8, whole, seeded(0)), expected)


def test_padded_crop__shifts_by_up_to_the_padding_over_black() -> None:
    image = places(9, 9) + 1
    chosen = settings(crop="padded", padding=2)
    seen = set()
    for seed in range(300):
        out = augment(image, 9, chosen, seeded(seed))
        row, column = (int(axis[4, 4]) for axis in out)
        down, right = 5 - row, 5 - column
        expected = torch.zeros_like(image)
        for r in range(9):
            for c in range(9):
                if 0 <= r - down < 9 and 0 <= c - right < 9:
                    expected[:, r, c] = image[:, r - down, c - right]
        assert torch.equal(out, expected)
        seen.add((down, right))
    assert seen == {(down, right) for down in range(-2, 3) for right in range(-2, 3)}


@pytest.mark.parametrize(("height", "width"), [(9, 9), (9, 15), (20, 9)])
def test_middle__is_the_central_square(height: int, width: int) -> None:
    top, left = (height - 9) // 2, (width - 9) // 2
    expected = places(height, width)[:, top : top + 9, left : left + 9]
    assert torch.equal(middle(places(height, width), 9, 1.0), expected)
    assert torch.equal(augment(places(height, width), 9, settings(), seeded(0)), expected)


def test_middle__scale_shrinks_the_crop_not_the_result() -> None:
    image = picture(16, 20)
    expected = F.resize(
        image[:, 1:15, 3:17], [8, 8], F.InterpolationMode.BICUBIC, antialias=True
    )  # 0.875 * 16 = 14 pixels
    assert torch.equal(middle(image, 8, 0.875), expected)


# Flip and colour


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5, 1.0])
def test_flip__happens_at_its_rate_and_mirrors_columns(rate: float) -> None:
    image, num = picture(4, 4), 2000
    flipped = 0
    for seed in range(num):
        out = augment(image, 4, settings(hflip=rate), seeded(seed))
        mirrored = torch.equal(out, image.flip(-1))
        assert mirrored or torch.equal(out, image)
        flipped += mirrored
    assert abs(flipped - rate * num) <= 4 * math.sqrt(num * rate * (1 - rate))


def test_brightness__factor_is_uniform_within_its_strength() -> None:
    image = torch.full((3, 2, 2), 100, dtype=torch.uint8)
    chosen = settings(color_jitter=(0.4, 0, 0))
    factors = [int(augment(image, 2, chosen, seeded(s))[0, 0, 0]) / 100 for s in range(2000)]
    assert 0.595 <= min(factors) < 0.62
    assert 1.38 < max(factors) <= 1.405
    assert sum(factors) / len(factors) == pytest.approx(1, abs=0.025)
    spread = torch.tensor(factors).std().item()
    assert spread == pytest.approx(0.8 / math.sqrt(12), rel=0.05)


@pytest.mark.parametrize(("which", "change"), [(1, F.adjust_contrast), (2, F.adjust_saturation)])
def test_contrast_and_saturation__stay_within_their_strength(which: int, change: Any) -> None:
    image = (picture(8, 8).float() / 4 + 96).to(torch.uint8)  # nothing saturates: 96..160
    strengths = [0.0, 0.0, 0.0]
    strengths[which] = 0.4
    low, high = (change(image, factor).int() for factor in (0.6, 1.4))
    outs = [
        augment(image, 8, settings(color_jitter=tuple(strengths)), seeded(s)) for s in range(200)
    ]
    lower, upper = torch.minimum(low, high) - 1, torch.maximum(low, high) + 1
    for out in outs:
        assert ((out >= lower) & (out <= upper)).all()
    assert len({tuple(out.flatten().tolist()) for out in outs}) > 20


def test_jitter__applies_the_three_in_random_order(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    for name in ("adjust_brightness", "adjust_contrast", "adjust_saturation"):

        def note(image: Tensor, factor: float, name: str = name) -> Tensor:
            order.append(name)
            return image

        monkeypatch.setattr(F, name, note)
    found = set()
    for seed in range(60):
        order.clear()
        augment(picture(4, 4), 4, settings(color_jitter=(0.4, 0.4, 0.4)), seeded(seed))
        found.add(tuple(order))
    assert len(found) == 6
    assert {len(names) for names in found} == {3}


@pytest.mark.parametrize(
    "changes",
    [{"crop_scale": (0.5, 0.2)}, {"crop_scale": (0.5, 1.5)}, {"crop_scale": (0.0, 1.0)}]
    + [{"crop_ratio": (2.0, 1.0)}, {"color_jitter": (0.4, -0.1, 0.4)}, {"hflip": 1.5}],
)
def test_settings__nonsense_is_refused(changes: dict[str, Any]) -> None:
    (name,) = changes
    with pytest.raises(ValidationError, match=name):
        AugmentSettings.model_validate(changes)
