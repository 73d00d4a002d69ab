"""Proves: attention by distance is that of reference 4.4, learned scale included."""

import pytest
import torch

from d2v.core.alibi import Alibi, alibi_slopes
from tests.maths_case import normal

PUBLISHED: dict[int, list[float]] = {
    16: [-0.5 * k for k in range(1, 17)],
    12: [-1, -2, -3, -4, -5, -6, -7, -8, -0.5, -1.5, -2.5, -3.5],
    8: [-1, -2, -3, -4, -5, -6, -7, -8],
    6: [-2, -4, -6, -8, -1, -3],
    2: [-4, -8],
    1: [-8],
}
"""Heads -> the slopes' exponents."""


@pytest.mark.parametrize("heads", PUBLISHED)
def test_slopes__are_the_published_ones(heads: int) -> None:
    expected = torch.tensor([2.0**exponent for exponent in PUBLISHED[heads]])
    torch.testing.assert_close(alibi_slopes(heads), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("heads", [2, 6])
def test_bias__falls_with_distance_by_slope_and_scale(heads: int) -> None:
    alibi, slopes = Alibi(heads).double(), alibi_slopes(heads).double()
    with torch.no_grad():
        alibi.scale.copy_(2 * normal(0, heads))
        alibi.scale[1] = -0.7  # counts as 0
    bias = alibi(5).detach()
    assert bias.shape == (1, heads, 5, 5)
    for head in range(heads):
        scale = max(0.0, float(alibi.scale[head].detach()))
        for i in range(5):
            for j in range(5):
                expected = -float(slopes[head]) * abs(i - j) * scale
                assert float(bias[0, head, i, j]) == pytest.approx(expected, abs=1e-12)
    assert not bias[0, 1].any()


def test_scale__learns_where_it_is_above_zero() -> None:
    alibi = Alibi(4).double()
    assert alibi.scale.tolist() == [1, 1, 1, 1]
    with torch.no_grad():
        alibi.scale[2] = -0.5
    alibi(3).sum().backward()
    assert alibi.scale.grad is not None
    assert (alibi.scale.grad != 0).tolist() == [True, True, False, True]
    alibi.initialise()
    assert alibi.scale.tolist() == [1, 1, 1, 1]
    assert list(alibi.state_dict()) == ["scale"], "slopes follow from the number of heads"
