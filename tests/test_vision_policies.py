"""Proves: policies and erasing are timm's, and every draw is the sample's own generator's."""

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from timm.data.auto_augment import rand_augment_transform
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from d2v.modalities.vision.augment import AugmentSettings, augment
from d2v.modalities.vision.modality import Vision, VisionSettings
from d2v.modalities.vision.policies import auto_augment
from tests.maths_case import seeded
from tests.training_case import picture as stored_picture

POLICIES = ["rand-m9-mstd0.5-inc1", "rand-n3-p0.7-tweights", "original-mstd0.5", "augmix-m5-w2-d2"]
RAND = POLICIES[0]


def picture(channels: int = 3, height: int = 12, width: int = 17, seed: int = 0) -> Tensor:
    shape = (channels, height, width)
    return torch.randint(256, shape, generator=seeded(seed), dtype=torch.uint8)


def settings(**changes: Any) -> AugmentSettings:
    return AugmentSettings(**{"crop": "none", "hflip": 0, "color_jitter": (0, 0, 0), **changes})


# Policies


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", POLICIES)
def test_policy__is_decided_by_the_generator_alone(policy: str, channels: int) -> None:
    image, mean = picture(channels), (0.4,) * channels
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    state, kept, kept_numpy = (
        torch.get_rng_state(),
        random.getstate(),
        np.random.get_state(legacy=False)["state"]["key"],
    )
    outs = [auto_augment(image, policy, mean, seeded(seed)) for seed in range(40)]
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == kept
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], kept_numpy)
    np.random.seed(2)
    random.seed(2)
    again = [auto_augment(image, policy, mean, seeded(seed)) for seed in range(40)]
    assert all(torch.equal(one, two) for one, two in zip(outs, again, strict=True))
    assert len({tuple(out.flatten().tolist()) for out in outs}) > 20
    assert {(out.shape, out.dtype) for out in outs} == {(image.shape, torch.uint8)}


def test_policy__puts_global_generators_back_where_it_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(policy: str, given: object) -> Any:
        def fail(image: Image.Image) -> Image.Image:
            raise RuntimeError("broken")

        return fail

    monkeypatch.setattr("d2v.modalities.vision.policies.rand_augment_transform", broken)
    kept, kept_numpy = random.getstate(), np.random.get_state(legacy=False)["state"]["key"]
    with pytest.raises(RuntimeError, match="broken"):
        auto_augment(picture(), RAND, (0.5,), seeded(0))
    assert random.getstate() == kept
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], kept_numpy)


def test_rand_augment__equals_timms_own_with_the_same_seeds() -> None:
    """As timm's training transform builds it: moved by 0.45 of the side, filled with the mean."""
    image = picture(3, 16, 20)
    given = {"translate_const": 7, "img_mean": (124, 116, 104), "interpolation": 3}  # 3: bicubic
    transform = rand_augment_transform(RAND, given)
    mean = (0.485, 0.456, 0.406)
    for seed in range(60):
        ours = auto_augment(image, RAND, mean, seeded(seed))
        seeds = torch.randint(2**32, (2,), generator=seeded(seed)).tolist()
        random.seed(seeds[0])
        np.random.seed(seeds[1])
        theirs = np.array(transform(Image.fromarray(image.permute(1, 2, 0).numpy())))
        assert np.array_equal(ours.permute(1, 2, 0).numpy(), theirs)


def test_policy__uncovers_the_mean_colour() -> None:
    image = torch.full((3, 16, 16), 255, dtype=torch.uint8)
    mean = (0.2, 0.4, 0.6)
    filled = 0
    for seed in range(200):
        out = auto_augment(image, RAND, mean, seeded(seed))
        colours = {tuple(colour) for colour in out.flatten(1).T.tolist()}
        filled += colours == {(255, 255, 255), (51, 102, 153)}
    assert filled > 10


def test_policy__comes_after_the_crop() -> None:
    image, chosen = picture(3, 20, 31), settings(crop="padded", padding=2)
    for seed in range(20):
        generator = seeded(seed)
        cropped = augment(image, 16, chosen, generator)
        expected = auto_augment(cropped, RAND, (0.3,), generator)
        both = settings(crop="padded", padding=2, auto_augment=RAND)
        assert torch.equal(augment(image, 16, both, seeded(seed), mean=(0.3,)), expected)


@pytest.mark.parametrize(
    "policy",
    ["rand-m9-mstd0.5-in1", "rand-x3", "rand-m", "rand-p1.5", "random", "original-m9", "", "v1"],
)
def test_settings__a_policy_that_timm_would_half_understand_is_refused(policy: str) -> None:
    with pytest.raises(ValidationError, match="is no policy: write RandAugment as rand-m9"):
        settings(auto_augment=policy)


def test_settings__colour_jitter_beside_a_policy_is_refused() -> None:
    with pytest.raises(ValidationError, match="color_jitter does nothing beside auto_augment"):
        settings(auto_augment=RAND, color_jitter=(0.4, 0.4, 0.4))


# Erasing


def erased_places(before: Tensor, after: Tensor) -> tuple[int, int, int, int]:
    """Rows top..bottom and columns left..right that changed, ends excluded."""
    rows, columns = (before != after).any(0).nonzero().T
    return int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1


def test_erasing__is_one_rectangle_of_timms_sizes() -> None:
    """Against timm's own code: area, shape and place have the same means."""
    image, num = torch.full((3, 24, 36), 7, dtype=torch.uint8), 2000
    timms = RandomErasing(1.0, mode="pixel", device="cpu")  # type: ignore[no-untyped-call]  # timm
    random.seed(0)
    figures: dict[str, list[list[float]]] = {"ours": [], "timm": []}
    for seed in range(num):
        ours = augment(image, 24, settings(erasing=1.0), seeded(seed))
        middle = image[:, :, 6:30]
        theirs = timms(middle.float())
        for name, after in (("ours", ours.float()), ("timm", theirs)):
            top, bottom, left, right = erased_places(middle.float(), after)
            assert bottom - top < 24
            assert right - left < 24
            area = (bottom - top) * (right - left)
            shape = math.log((bottom - top) / (right - left))
            figures[name].append([area, shape, (top + bottom) / 2, (left + right) / 2])
    ours_, theirs_ = (torch.tensor(figures[name]) for name in ("ours", "timm"))
    error = (ours_.var(0) / num + theirs_.var(0) / num).sqrt()
    assert ((ours_.mean(0) - theirs_.mean(0)).abs() < 4 * error).all()
    assert ((ours_.std(0) / theirs_.std(0) - 1).abs() < 0.1).all()


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
def test_erasing__happens_at_its_rate_and_leaves_the_given_picture_alone(rate: float) -> None:
    image = picture(3, 16, 16)
    kept, num = image.clone(), 1000
    outs = [augment(image, 16, settings(erasing=rate), seeded(seed)) for seed in range(num)]
    happened = sum(not torch.equal(out, image) for out in outs)
    assert abs(happened - rate * num) <= 4 * math.sqrt(num * rate * (1 - rate))
    assert torch.equal(image, kept)


def test_erasing__noise_is_normal_in_the_frontends_own_scale() -> None:
    """Per pixel and channel N(mean, std): after normalisation N(0, 1), as timm draws it."""
    image = torch.zeros(3, 200, 200, dtype=torch.uint8)
    mean, std = (0.3, 0.5, 0.7), (0.05, 0.1, 0.08)
    after = augment(image, 200, settings(erasing=1.0), seeded(2), mean=mean, std=std)
    top, bottom, left, right = erased_places(image, after)
    noise = after[:, top:bottom, left:right].flatten(1).double() / 255
    normalised = (noise - torch.tensor(mean).view(3, 1)) / torch.tensor(std).view(3, 1)
    assert normalised.shape[1] > 800
    assert normalised.mean(1).abs().max() < 0.15
    assert (normalised.std(1) - 1).abs().max() < 0.1
    assert torch.corrcoef(normalised).triu(1).abs().max() < 0.15
    one_row = normalised[0].reshape(bottom - top, right - left)
    assert torch.corrcoef(torch.stack([one_row[:-1].flatten(), one_row[1:].flatten()]))[0, 1] < 0.15


def test_erasing__comes_after_the_policy() -> None:
    image = picture(3, 16, 16)
    generator = seeded(4)
    changed = auto_augment(image, RAND, (0.5,), generator)
    assert not torch.equal(changed, image)
    after = augment(image, 16, settings(auto_augment=RAND, erasing=1.0), seeded(4))
    top, bottom, left, right = erased_places(changed, after)
    assert (bottom - top) * (right - left) <= 16 * 16 / 3 + 16
    assert (bottom - top, right - left) != (16, 16)


# The modality


@pytest.mark.parametrize("channels", [1, 3])
def test_decode__augments_in_the_frontends_colours(channels: int) -> None:
    mean, std = [0.2, 0.5, 0.9][:channels], [0.001] * channels
    vision = Vision(VisionSettings.model_validate({
        "name": "vision",
        "frontend": {"image_size": 8, "patch_size": 2, "channels": channels, "pixel_mean": mean,
                     "pixel_std": std},
        "mask": {"min_block": 1, "max_block": 8},
        "augment": settings(auto_augment=RAND, erasing=1.0),
    }))  # fmt: skip
    parts = {"png": stored_picture(3)}
    plain = vision.decode(parts, None)
    colours = torch.tensor(mean).view(-1, 1, 1) * 255
    for seed in range(20):
        out = vision.decode(parts, seeded(seed))
        assert out.shape == plain.shape
        assert ((out - colours).abs() <= 2).all(0).any(), "what is erased has the mean colour"
        assert torch.equal(out, vision.decode(parts, seeded(seed)))
