"""Proves: pictures become tokens as in reference section 2.1.

Normalised, cut, embedded, masked places replaced, CLS first, positions in one of four ways.
"""

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from timm.layers import RelPosBias
from torch import Tensor
from torch.nn import functional as F

from d2v.errors import UsageError
from d2v.modalities.vision.frontend import FrontendSettings, VisionFrontend
from d2v.types import Batch, Mask
from tests.maths_case import normal, seeded, shaken, tiny_settings


def build(encoder: dict[str, Any] | None = None, **changes: Any) -> VisionFrontend:
    torch.manual_seed(0)  # timm draws from the global generator when it builds its parts
    settings = FrontendSettings(**{"image_size": 12, "patch_size": 4, **changes})
    frontend = VisionFrontend(settings, tiny_settings(**(encoder or {})))
    frontend.initialise(seeded(0))
    shaken(frontend)
    return frontend.double()


def pictures(num: int, channels: int = 3, side: int = 12) -> Batch:
    shape = (num, channels, side, side)
    return Batch(inputs=torch.randint(256, shape, generator=seeded(1), dtype=torch.uint8))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("patch", [2, 3, 4])
def test_features__equal_normalise_unfold_and_linear(channels: int, patch: int) -> None:
    mean, std = (0.485, 0.456, 0.406)[:channels], (0.229, 0.224, 0.225)[:channels]
    frontend = build(patch_size=patch, channels=channels, pixel_mean=mean, pixel_std=std)
    batch = pictures(3, channels)
    pixels = batch.inputs.double() / 255
    for channel in range(channels):
        pixels[:, channel] = (pixels[:, channel] - mean[channel]) / std[channel]
    cut = F.unfold(pixels, patch, stride=patch).transpose(1, 2)  # (B, T, C * P * P), row-major
    conv = frontend.patch_embed.proj
    assert conv.bias is not None
    expected = F.linear(cut, conv.weight.flatten(1), conv.bias)
    torch.testing.assert_close(frontend.features(batch), expected, rtol=1e-5, atol=1e-5)


def test_features__of_the_mean_colour_are_the_bias() -> None:
    frontend = build(pixel_mean=(0.2, 0.4, 0.6))
    colour = torch.tensor([51, 102, 153], dtype=torch.uint8).view(1, 3, 1, 1)
    features = frontend.features(Batch(inputs=colour.expand(1, 3, 12, 12)))
    bias = frontend.patch_embed.proj.bias
    assert bias is not None
    torch.testing.assert_close(features, bias.expand(1, 9, -1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cls_token", [True, False])
@pytest.mark.parametrize("positions", ["relative", "sincos_2d", "learned", "none"])
def test_tokens__masked_patches_are_replaced_and_positions_stay(
    positions: str, cls_token: bool
) -> None:
    frontend = build(positions=positions, cls_token=cls_token)
    features = normal(2, 2, 9, 12)
    hidden = torch.rand(2, 9, generator=seeded(3)) < 0.5
    tokens = frontend(features, Mask.of(hidden), None)
    assert tokens.num_prefix == int(cls_token)
    assert tokens.padding is None
    assert (tokens.attention_bias is not None) == (positions == "relative")
    rows = 9 + int(cls_token)
    added = torch.zeros(rows, 12, dtype=torch.float64)
    if positions == "sincos_2d":
        added = frontend.get_buffer("sincos")
    elif positions == "learned":
        assert frontend.positions is not None
        added = frontend.positions.detach()
    assert added.shape == (rows, 12)
    for b in range(2):
        expected = [frontend.cls_token.detach()] if frontend.cls_token is not None else []
        for i in range(9):
            expected.append(frontend.mask_token.detach() if hidden[b, i] else features[b, i])
        torch.testing.assert_close(tokens.values[b].detach(), torch.stack(expected) + added)


def test_tokens__without_a_mask_hide_nothing() -> None:
    frontend = build(positions="none", cls_token=False)
    features = normal(4, 2, 9, 12)
    assert torch.equal(frontend(features, None, None).values, features)


# Relative positions


def slow_index(side: int, cls: bool) -> Tensor:
    """Reference 2.1; CLS entries in its order of assignment: row, column, corner."""
    patches = [(r, c) for r in range(side) for c in range(side)]
    n, first = len(patches), int(cls)
    index = torch.zeros(n + first, n + first, dtype=torch.int64)
    for i, (r_i, c_i) in enumerate(patches):
        for j, (r_j, c_j) in enumerate(patches):
            index[i + first, j + first] = (r_i - r_j + side - 1) * (2 * side - 1) + (
                c_i - c_j + side - 1
            )
    if cls:
        last = (2 * side - 1) ** 2
        index[0, :] = last
        index[:, 0] = last + 1
        index[0, 0] = last + 2
    return index


@pytest.mark.parametrize("cls_token", [True, False])
@pytest.mark.parametrize("side", [2, 3, 14])
def test_relative_bias__is_the_table_at_the_reference_index(side: int, cls_token: bool) -> None:
    frontend = build(image_size=4 * side, cls_token=cls_token)
    assert isinstance(frontend.relative, RelPosBias)
    table = frontend.relative.relative_position_bias_table
    assert table.shape == ((2 * side - 1) ** 2 + 3 * cls_token, 2)
    tokens = frontend(normal(5, 1, side * side, 12), None, None)
    assert tokens.attention_bias is not None
    expected = table[slow_index(side, cls_token)].permute(2, 0, 1).unsqueeze(0)
    assert torch.equal(tokens.attention_bias, expected)


def test_relative_table__of_the_published_vit_has_732_rows() -> None:
    frontend = VisionFrontend(FrontendSettings(), tiny_settings())
    assert isinstance(frontend.relative, RelPosBias)
    assert frontend.relative.relative_position_bias_table.shape == (732, 2)
    index = slow_index(14, cls=True)
    assert (int(index[0, 5]), int(index[5, 0]), int(index[0, 0])) == (729, 730, 731)
    stored = frontend.relative.get_buffer("relative_position_index")
    assert torch.equal(stored, index.flatten())


def test_relative_bias__is_learned() -> None:
    frontend = build()
    tokens = frontend(normal(6, 1, 9, 12), None, None)
    assert tokens.attention_bias is not None
    weights = normal(7, *tokens.attention_bias.shape)
    (tokens.attention_bias * weights).sum().backward()
    assert isinstance(frontend.relative, RelPosBias)
    gradient = frontend.relative.relative_position_bias_table.grad
    slow = torch.zeros(5 * 5 + 3, 2, dtype=torch.float64)
    for i, row in enumerate(slow_index(3, cls=True).tolist()):
        for j, entry in enumerate(row):
            slow[entry] += weights[0, :, i, j]
    torch.testing.assert_close(gradient, slow)


# Absolute positions


def test_sincos__has_sines_and_cosines_of_row_and_column() -> None:
    table = build(positions="sincos_2d").get_buffer("sincos")
    assert table[0].abs().max() == 0, "CLS has no position"
    frequencies = [10_000 ** (-k / 3) for k in range(3)]
    for i in range(9):
        angles = {
            axis: [place * f for f in frequencies] for axis, place in (("r", i // 3), ("c", i % 3))
        }
        parts = {
            (axis, name): [function(angle) for angle in angles[axis]]
            for axis in ("r", "c")
            for name, function in (("sin", math.sin), ("cos", math.cos))
        }
        order = [("c", "sin"), ("c", "cos"), ("r", "sin"), ("r", "cos")]  # reference section 4.4
        expected = sum((parts[place] for place in order), [])
        assert table[1 + i].tolist() == pytest.approx(expected, abs=1e-6)
    assert len(table[1:].unique(dim=0)) == 9, "every patch has its own"


def test_sincos__is_fixed_and_not_stored() -> None:
    frontend = build(positions="sincos_2d")
    assert not any("sincos" in name for name in frontend.state_dict())
    with pytest.raises(UsageError, match="divisible by 4"):
        build({"dim": 10}, positions="sincos_2d")


def test_learned_positions__start_small_and_learn() -> None:
    frontend = VisionFrontend(FrontendSettings(positions="learned"), tiny_settings())
    frontend.initialise(seeded(1))
    assert frontend.positions is not None
    assert frontend.positions.shape == (197, 12)
    assert 0.018 < float(frontend.positions.detach().abs().max()) <= 0.02


# First weights and settings


@torch.no_grad()
def test_initialise__follows_the_reference() -> None:
    frontend = VisionFrontend(FrontendSettings(), tiny_settings(dim=96, num_heads=4))
    shaken(frontend)
    frontend.initialise(seeded(2))
    conv = frontend.patch_embed.proj
    assert conv.bias is not None
    assert float(conv.bias.abs().max()) == 0
    assert isinstance(frontend.relative, RelPosBias)
    assert float(frontend.relative.relative_position_bias_table.abs().max()) == 0
    assert frontend.cls_token is not None
    for weight in (conv.weight, frontend.mask_token, frontend.cls_token):
        assert float(weight.abs().max()) <= 0.02
        assert float(weight.std()) == pytest.approx(0.0108, rel=0.2)


@torch.no_grad()
def test_initialise__xavier_is_for_patches_and_cls_alone() -> None:
    settings = FrontendSettings(patch_init="xavier")
    frontend = VisionFrontend(settings, tiny_settings(dim=96, num_heads=4))
    frontend.initialise(seeded(2))
    conv, inputs = frontend.patch_embed.proj, 3 * 16 * 16
    assert conv.bias is not None
    assert frontend.cls_token is not None
    bound = math.sqrt(6 / (inputs + 96))
    assert 0.99 * bound < float(conv.weight.abs().max()) <= bound
    assert float(conv.weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert 0.8 / math.sqrt(inputs) < float(conv.bias.abs().max()) <= 1 / math.sqrt(inputs)
    assert float(frontend.cls_token.std()) == pytest.approx(1, rel=0.2)
    assert float(frontend.mask_token.abs().max()) <= 0.02, "as the encoder's weights"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"image_size": 10}, "not divisible by patch_size"),
        ({"channels": 1}, "need 1 values"),
        ({"pixel_std": (0.1, 0.0, 0.1)}, "above 0"),
    ],
)
def test_settings__nonsense_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        build(**changes)
