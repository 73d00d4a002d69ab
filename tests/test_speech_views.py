"""Proves: positions of a view hear nothing of what is masked, and attention falls with distance.

Reference 4.3 (bookkeeping) and 4.4.
"""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from d2v.core.alibi import alibi_slopes
from d2v.modalities.speech.frontend import SpeechFrontend
from d2v.modalities.speech.logmel import LogMelSettings
from d2v.types import Mask
from tests.maths_case import normal, seeded, shaken, tail_padding, tiny_settings

SAMPLES, VIEWS, LENGTH, DIM = 2, 3, 11, 12


def built(*, alibi: bool) -> SpeechFrontend:
    positions = {"num_layers": 2, "kernel": 5, "groups": 4, "alibi": alibi}
    settings = LogMelSettings.model_validate({"kind": "logmel", "positions": positions})
    frontend = SpeechFrontend(settings, tiny_settings())
    frontend.initialise(seeded(0))
    shaken(frontend)
    return frontend.double()


def slow_positions(frontend: Any, x: Tensor) -> Tensor:
    """(T, D) of one view without padding, layer by layer."""
    for weight, bias in zip(frontend.positions.weights, frontend.positions.biases, strict=True):
        y = F.conv1d(x.T.unsqueeze(0), weight, bias, padding=2, groups=4)[0].T
        scale = (y.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        x = F.gelu((y - y.mean(1, keepdim=True)) / scale)
    return x


@pytest.mark.parametrize("lengths", [None, [11, 6]], ids=["whole", "padded"])
def test_views__are_those_of_recordings_that_are_silent_where_they_are_masked(
    lengths: list[int] | None,
) -> None:
    frontend, features = built(alibi=False), normal(1, SAMPLES, LENGTH, DIM)
    padding = None if lengths is None else tail_padding(lengths, LENGTH)
    predict = torch.rand(SAMPLES * VIEWS, LENGTH, generator=seeded(2)) < 0.5
    if padding is not None:
        predict &= ~padding.repeat_interleave(VIEWS, dim=0)
    with torch.no_grad():
        tokens = frontend.views(features, Mask.of(predict), padding)
        assert tokens.values.shape == (SAMPLES * VIEWS, LENGTH, DIM)
        assert tokens.attention_bias is None
        for view in range(SAMPLES * VIEWS):
            length = (lengths or [LENGTH] * SAMPLES)[view // VIEWS]
            x = features[view // VIEWS, :length].clone()
            x[predict[view, :length]] = 0
            expected = x + slow_positions(frontend, x)
            torch.testing.assert_close(tokens.values[view, :length], expected, rtol=0, atol=1e-9)


def test_bias__is_the_same_for_student_and_teacher_and_counts_frames() -> None:
    frontend, features = built(alibi=True), normal(1, SAMPLES, LENGTH, DIM)
    mask = Mask.of(torch.zeros(SAMPLES * VIEWS, LENGTH, dtype=torch.bool))
    with torch.no_grad():
        of_views = frontend.views(features, mask, None).attention_bias
        of_all = frontend(features, None, None).attention_bias
    assert of_views is not None
    assert of_all is not None
    assert torch.equal(of_views, of_all)
    assert frontend.alibi is not None
    scale = frontend.alibi.scale.detach().clamp_min(0) * alibi_slopes(2).double()
    places = torch.arange(LENGTH, dtype=torch.float64)
    for head in range(2):
        for i in range(LENGTH):
            torch.testing.assert_close(of_all[0, head, i], -scale[head] * (places - i).abs())


def test_state_dict__has_a_learned_scale_a_head_where_it_is_asked_for() -> None:
    with_scale, without = (set(built(alibi=alibi).state_dict()) for alibi in (True, False))
    assert with_scale - without == {"alibi.scale"}
