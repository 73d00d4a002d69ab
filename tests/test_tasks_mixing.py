"""Proves: mixup and CutMix give what plain loops give, and hang on torch's seed alone.

Letters: B batch, C classes; H, W height and width.
"""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from timm.data.mixup import cutmix_bbox_and_lam
from torch import Tensor

from d2v.errors import UsageError
from d2v.tasks.mixing import MixSettings, cut_box, mix
from d2v.types import Batch
from tests.maths_case import seeded

BOTH = MixSettings(mixup_alpha=0.8, cutmix_alpha=1.0)
MIXUP = MixSettings(mixup_alpha=0.8)
CUTMIX = MixSettings(cutmix_alpha=1.0)


def pictures(shape: tuple[int, ...] = (5, 2, 6, 9)) -> Tensor:
    return torch.randint(256, shape, generator=seeded(0), dtype=torch.uint8)


def targets(size: int = 5) -> Tensor:
    """As many classes as samples: a target's row tells which share of which sample it is."""
    return torch.eye(size)


def mixed(seed: int, settings: MixSettings, inputs: Tensor) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    batch, target = mix(Batch(inputs=inputs), targets(len(inputs)), settings)
    return batch.inputs, target


def is_cut(inputs: Tensor, out: Tensor) -> bool:
    """Whether every pixel is one of the two that may stand there."""
    whole = inputs.float()
    return bool(((out == whole) | (out == whole.flip(0))).all())


def check_loops(inputs: Tensor, out: Tensor, target: Tensor) -> None:
    """One share for the batch, which the targets tell; pixel by pixel."""
    num, (height, width) = len(inputs), inputs.shape[-2:]
    share = target[0, 0].item()
    whole, cut = inputs.double(), is_cut(inputs, out)
    taken = 0
    for i in range(num):
        partner = num - 1 - i
        for c in range(inputs.shape[1]):
            for y in range(height):
                for x in range(width):
                    own, other = whole[i, c, y, x].item(), whole[partner, c, y, x].item()
                    here = out[i, c, y, x].item()
                    if cut:
                        assert here in (own, other)
                        taken += i == c == 0 and here == other != own
                    else:
                        assert here == pytest.approx(share * own + (1 - share) * other, abs=1e-3)
        expected = torch.zeros(num)
        expected[i] += share
        expected[partner] += 1 - share
        torch.testing.assert_close(target[i], expected)
    if cut:
        same = int((whole[0, 0] == whole[num - 1, 0]).sum())
        assert taken <= round((1 - share) * height * width) <= taken + same


@pytest.mark.parametrize("settings", [MIXUP, CUTMIX, BOTH], ids=["mixup", "cutmix", "both"])
@pytest.mark.parametrize("seed", range(4))
def test_mix__equals_plain_loops(settings: MixSettings, seed: int) -> None:
    inputs = pictures()
    out, target = mixed(seed, settings, inputs)
    assert out.dtype == torch.float32
    check_loops(inputs, out, target)


def test_mix__shares_follow_the_beta_law() -> None:
    inputs = pictures((2, 1, 2, 2))
    for alpha in (0.2, 0.8, 3.0):
        settings = MixSettings(mixup_alpha=alpha)
        shares = np.array([mixed(seed, settings, inputs)[1][0, 0] for seed in range(1000)])
        variance = 1 / (4 * (2 * alpha + 1))
        assert shares.mean() == pytest.approx(0.5, abs=4 * (variance / 1000) ** 0.5)
        assert shares.var() == pytest.approx(variance, rel=0.1)


@pytest.mark.parametrize("switch_prob", [0.0, 0.3, 1.0])
def test_mix__switches_to_cutmix_at_its_rate(switch_prob: float) -> None:
    inputs = pictures((2, 1, 16, 16))
    settings = MixSettings(mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=switch_prob)
    cut = sum(is_cut(inputs, mixed(seed, settings, inputs)[0]) for seed in range(1000))
    slack = 0.01 + 4 * (switch_prob * (1 - switch_prob) / 1000) ** 0.5
    assert cut / 1000 == pytest.approx(switch_prob, abs=slack)


def test_mix__happens_at_its_rate_and_otherwise_changes_nothing() -> None:
    batch, target = Batch(inputs=pictures((2, 1, 4, 4))), targets(2)
    settings = MixSettings(mixup_alpha=0.8, prob=0.3)
    happened = 0
    for seed in range(1000):
        torch.manual_seed(seed)
        out, labels = mix(batch, target, settings)
        happened += out is not batch
        assert (out is batch) == (labels is target)
    assert happened / 1000 == pytest.approx(0.3, abs=0.06)


def test_mix__off_returns_the_same_objects_and_draws_nothing() -> None:
    batch, target = Batch(inputs=torch.zeros(2, 3, dtype=torch.int64)), targets(2)
    state = torch.get_rng_state()
    out, labels = mix(batch, target, MixSettings())
    assert out is batch
    assert labels is target
    assert torch.equal(torch.get_rng_state(), state)


def test_mix__is_decided_by_torchs_seed_alone() -> None:
    inputs = pictures()
    first, again, other = (mixed(seed, BOTH, inputs)[0] for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    np.random.seed(1)
    kept = np.random.get_state(legacy=False)["state"]["key"]
    assert torch.equal(mixed(7, BOTH, inputs)[0], first)
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], kept), (
        "NumPy's global generator is not touched"
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("settings", [MIXUP, CUTMIX], ids=["mixup", "cutmix"])
def test_mix__leaves_what_it_was_given_alone(settings: MixSettings, dtype: torch.dtype) -> None:
    inputs = pictures().to(dtype)
    kept, target = inputs.clone(), targets()
    torch.manual_seed(3)
    out, _ = mix(Batch(inputs=inputs), target, settings)
    assert torch.equal(inputs, kept)
    assert torch.equal(target, targets())
    assert not torch.equal(out.inputs, kept.float())


def test_mix__keeps_the_weight_of_samples_without_a_label() -> None:
    target = targets()
    target[1] = 0  # unlabelled
    for seed in range(20):
        torch.manual_seed(seed)
        _, labels = mix(Batch(inputs=pictures()), target, BOTH)
        assert labels.sum().item() == pytest.approx(4, rel=1e-6)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (7, 12), (1, 5)])
def test_cut_box__and_its_share_equal_timms(height: int, width: int) -> None:
    for seed in range(300):
        share = np.random.default_rng(seed).random()
        np.random.seed(seed)
        expected, left_over = cutmix_bbox_and_lam((height, width), share)  # type: ignore[no-untyped-call]  # timm
        np.random.seed(seed)  # timm draws the centre so
        centre = int(np.random.randint(height)), int(np.random.randint(width))
        box = cut_box(height, width, share, centre)
        assert tuple(box) == tuple(expected)
        area = (box.bottom - box.top) * (box.right - box.left)
        assert 1 - area / (height * width) == pytest.approx(left_over)


@pytest.mark.parametrize(
    "batch",
    [
        Batch(inputs=torch.zeros(2, 9, dtype=torch.int64)),
        Batch(inputs=torch.zeros(2, 9)),
        Batch(inputs=torch.zeros(2, 3, 4, 4, dtype=torch.int64)),
        Batch(inputs=torch.zeros(2, 3, 4, 4), padding=torch.zeros(2, 4, dtype=torch.bool)),
    ],
    ids=["tokens", "waveforms", "whole numbers", "padded"],
)
def test_mix__refuses_what_is_no_grid(batch: Batch) -> None:
    with pytest.raises(UsageError, match=r"finetune\.task\.mix is on, and inputs of shape \(2, "):
        mix(batch, targets(2), BOTH)


@pytest.mark.parametrize(
    "wrong", [{"mixup_alpha": -1.0}, {"cutmix_alpha": -0.1}, {"prob": 1.5}, {"switch_prob": -0.1}]
)
def test_settings__nonsense_is_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValidationError, match=name):
        MixSettings.model_validate(wrong)
