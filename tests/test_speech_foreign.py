"""Proves: what other libraries' speech models have beside ours equals loops written from theirs.

Even kernels, padding set to zero before the first layer alone, biases of the convolutions.
"""

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from d2v.modalities.speech.convolution import Convolutions, ConvolutionSettings
from d2v.modalities.speech.positions import ConvolutionalPositions, PositionSettings
from d2v.types import Batch
from tests.maths_case import normal, seeded, shaken, tail_padding
from tests.speech_case import LAYERS, POSITIONS, build, slow_positions, slow_tokens, waves

BIASED = ConvolutionSettings(layers=LAYERS, positions=POSITIONS, bias=True)


def positions(**changes: Any) -> ConvolutionalPositions:
    """Three layers over width 12, arbitrary weights, float64."""
    settings = PositionSettings.model_validate({"num_layers": 3, "groups": 3, **changes})
    module = ConvolutionalPositions(settings, 12)
    module.initialise(seeded(0))
    shaken(module)
    return module.double()


# Kernels


@pytest.mark.parametrize("num_tokens", [1, 2, 5, 11])
@pytest.mark.parametrize("kernel", [1, 2, 4, 5, 6])
def test_kernel__of_any_length_equals_the_loops_and_keeps_the_number_of_tokens(
    kernel: int, num_tokens: int
) -> None:
    module, x = positions(kernel=kernel), normal(1, 2, num_tokens, 12)
    found = module(x, None)
    assert found.shape == x.shape
    for row in range(2):
        torch.testing.assert_close(found[row], slow_positions(module, x[row]))


def test_kernel__that_is_even_sees_one_more_before_than_behind() -> None:
    module, x = positions(kernel=4, num_layers=1), normal(2, 1, 9, 12)
    x.requires_grad_(True)
    (module(x, None)[0, 4] * normal(3, 12)).sum().backward()
    assert x.grad is not None
    seen = x.grad[0].abs().amax(1).nonzero().flatten().tolist()
    assert seen == [2, 3, 4, 5]


# Padding


@pytest.mark.parametrize("kernel", [4, 5])
def test_padding__zeroed_first_alone_is_one_recording_with_zeros_behind(kernel: int) -> None:
    """As fairseq and Hugging Face have it: what norm and GELU make of zeros is let in."""
    module = positions(kernel=kernel, zero_padding="first")
    padding = tail_padding([9, 4, 1], 9)
    x = normal(4, 3, 9, 12).masked_fill(padding.unsqueeze(2), 0)
    found = module(x, padding)
    for row in range(3):
        torch.testing.assert_close(found[row], slow_positions(module, x[row]))
    torch.testing.assert_close(module(x[:1], None), found[:1])


@pytest.mark.parametrize("kernel", [4, 5])
def test_padding__zeroed_before_every_layer_is_each_recording_alone(kernel: int) -> None:
    module, lengths = positions(kernel=kernel), [9, 4, 1]
    padding = tail_padding(lengths, 9)
    x = normal(4, 3, 9, 12).masked_fill(padding.unsqueeze(2), 0)
    found = module(x, padding)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(found[row, :length], slow_positions(module, x[row, :length]))
        assert not found[row, length:].any()
    first = positions(kernel=kernel, zero_padding="first")
    torch.testing.assert_close(first(x[:1], None), found[:1], msg="the same without padding")
    assert not torch.allclose(first(x, padding)[1, :4], found[1, :4])


# Biases


def test_bias__of_the_convolutions_equals_the_loops_in_value_and_gradient() -> None:
    found, expected, wave = build(BIASED), build(BIASED), waves(187)[0]
    weights = normal(5, BIASED.geometry.num_tokens(187), 12)
    values = found(found.features(Batch(inputs=wave.unsqueeze(0))), None, None).values[0]
    slow = slow_tokens(expected, wave, None)
    torch.testing.assert_close(values, slow)
    for one in (values, slow):
        (one * weights).sum().backward()
    for (name, one), two in zip(found.named_parameters(), expected.parameters(), strict=True):
        if name != "mask_token":
            assert one.grad is not None
            torch.testing.assert_close(one.grad, two.grad, msg=name)


def test_bias__starts_at_zero_and_is_there_only_where_asked() -> None:
    with_bias, without = Convolutions(BIASED), Convolutions(ConvolutionSettings(layers=LAYERS))
    with_bias.initialise(seeded(0))
    assert [bias.shape[0] for bias in with_bias.biases] == [channels for channels, _, _ in LAYERS]
    assert all(float(bias.detach().abs().max()) == 0 for bias in with_bias.biases)
    assert len(without.biases) == 0
    without.initialise(seeded(0))
    x = normal(6, 2, 150).float()
    assert torch.equal(with_bias(x), without(x))


def test_bias__is_frozen_with_the_convolutions() -> None:
    frozen = Convolutions(BIASED.model_copy(update={"gradient_scale": 0.0}))
    learning = [name for name, p in frozen.named_parameters() if p.requires_grad]
    assert learning == ["norm.weight", "norm.bias"]


@pytest.mark.parametrize("changes", [{"zero_padding": "never"}, {"kernel": 0}])
def test_settings__nonsense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        positions(**changes)
