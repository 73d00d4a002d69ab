"""Proves: both frontends compute reference section 2.2, and what is padded changes nothing."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torchaudio.transforms import MelSpectrogram

from d2v.core.encoder import EncoderSettings
from d2v.errors import UsageError
from d2v.modalities.speech.convolution import Convolutions, ConvolutionSettings
from d2v.modalities.speech.convolve import convolve
from d2v.modalities.speech.frontend import SpeechFrontend
from d2v.modalities.speech.geometry import Geometry
from d2v.modalities.speech.logmel import LogMel, LogMelSettings, StackedLogMel
from d2v.modalities.speech.positions import PositionSettings
from d2v.types import Batch, Mask
from tests.maths_case import normal, seeded, tiny_settings
from tests.speech_case import (
    CONVOLUTION,
    FRONTENDS,
    LAYERS,
    LOGMEL,
    batch_of,
    build,
    slow_length,
    slow_tokens,
    waves,
)

KINDS = sorted(FRONTENDS)

# Lengths


@pytest.mark.parametrize(
    ("samples", "tokens"),
    [(16_000, 49), (32_000, 99), (250_000, 781), (320_000, 999), (400, 1), (399, 0), (0, 0)],
)
def test_published_convolutions__give_the_references_lengths(samples: int, tokens: int) -> None:
    assert ConvolutionSettings().geometry.num_tokens(samples) == tokens


def test_geometry__of_the_published_convolutions_is_20_ms_from_25_ms() -> None:
    assert ConvolutionSettings().geometry == Geometry(receptive_field=400, stride=320)
    assert LogMelSettings().geometry == Geometry(receptive_field=560, stride=320)


@pytest.mark.parametrize("layers", [ConvolutionSettings().layers, LAYERS, ((3, 7, 3),)])
def test_lengths__equal_the_formula_layer_by_layer(layers: Any) -> None:
    settings = ConvolutionSettings(layers=layers)
    field = settings.geometry.receptive_field
    for samples in [*range(field, field + 300), 12_345, 99_999]:
        assert settings.geometry.num_tokens(samples) == slow_length(samples, layers), samples


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [60, 99, 100, 101, 255])
def test_features__have_as_many_tokens_as_the_formula_says(kind: str, length: int) -> None:
    frontend = build(FRONTENDS[kind])
    features = frontend.features(Batch(inputs=normal(1, 2, length)))
    assert features.shape == (2, FRONTENDS[kind].geometry.num_tokens(length), 12)


@pytest.mark.parametrize("kind", KINDS)
def test_padding__counts_tokens_whose_samples_are_all_there(kind: str) -> None:
    geometry = FRONTENDS[kind].geometry
    padding = geometry.padding([233, 100, 320])
    assert padding is not None
    counts = [geometry.num_tokens(length) for length in (233, 100, 320)]
    assert (~padding).sum(1).tolist() == counts
    assert padding.shape == (3, max(counts))
    assert geometry.real_tokens(torch.empty(3, 320), padding).tolist() == counts
    assert geometry.real_tokens(torch.empty(3, 320), None).tolist() == [counts[2]] * 3
    assert geometry.padding([233, 233 + 1]) is None, "the same number of tokens"


# Values


@pytest.mark.parametrize("kind", KINDS)
def test_frontend__equals_the_reference_written_out_with_padding_and_mask(kind: str) -> None:
    frontend, examples = build(FRONTENDS[kind]), waves(311, 187, 250)
    batch = batch_of(kind, examples)
    assert batch.padding is not None
    predict = (torch.rand(batch.padding.shape, generator=seeded(3)) < 0.4) & ~batch.padding
    features = frontend.features(batch)
    for mask in (None, Mask.of(predict)):
        tokens = frontend(features, mask, batch.padding)
        for row, wave in enumerate(examples):
            count = FRONTENDS[kind].geometry.num_tokens(len(wave))
            hidden = None if mask is None else predict[row, :count].tolist()
            expected = slow_tokens(frontend, wave, hidden)
            torch.testing.assert_close(tokens.values[row, :count], expected)
            assert not tokens.values[row, count:].any(), "padding is zero"


@pytest.mark.parametrize("kind", KINDS)
def test_gradients__equal_those_of_the_reference_written_out(kind: str) -> None:
    examples = waves(151, 187)
    batch = batch_of(kind, examples)
    found, expected = build(FRONTENDS[kind]), build(FRONTENDS[kind])
    counts = [FRONTENDS[kind].geometry.num_tokens(len(wave)) for wave in examples]
    hidden = [[t % 3 == 0 for t in range(count)] for count in counts]
    predict = torch.zeros(2, max(counts), dtype=torch.bool)
    for row, line in enumerate(hidden):
        predict[row, : counts[row]] = torch.tensor(line)
    weights = normal(7, 2, max(counts), 12)
    values = found(found.features(batch), Mask.of(predict), batch.padding).values
    (values * weights).sum().backward()
    for row, wave in enumerate(examples):
        (slow_tokens(expected, wave, hidden[row]) * weights[row, : counts[row]]).sum().backward()
    for (name, one), two in zip(found.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, msg=name)


def test_convolve__equals_conv1d_between_transposes() -> None:
    x, weight, bias = normal(1, 3, 23, 8), normal(2, 6, 4, 5), normal(3, 6)
    for how in ({"stride": 3}, {"padding": 2}, {"stride": 2, "padding": 1}):
        expected = nn.functional.conv1d(x.transpose(1, 2), weight, bias, groups=2, **how)
        found = convolve(x, weight, bias, groups=2, **how)
        torch.testing.assert_close(found, expected.transpose(1, 2))
        assert found.is_contiguous(), "so that the layer norm copies nothing"


def test_logmel__equals_torchaudio() -> None:
    wave = normal(1, 2, 5000).float()
    theirs = MelSpectrogram(16_000, n_fft=400, hop_length=160, n_mels=80, center=False,
                            norm="slaney", mel_scale="slaney")  # fmt: skip
    expected = theirs(wave).clamp_min(1e-5).log().transpose(1, 2)
    torch.testing.assert_close(LogMel(LogMelSettings())(wave), expected)


def test_logmel__every_band_has_a_filter_and_silence_the_floor() -> None:
    module = LogMel(LogMelSettings())
    assert (module.get_buffer("filters").sum(0) > 0).all()
    silence = module(torch.zeros(1, 800))
    torch.testing.assert_close(silence, torch.full_like(silence, 1e-5).log())
    assert module(torch.zeros(1, 60)).shape == (1, 1, 80), "a short input gives one frame"


def test_logmel__stays_float32_under_autocast() -> None:
    wave, module = normal(1, 1, 4000).float(), LogMel(LogMelSettings())
    plain = module(wave)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(wave), plain)


# Figures of the data


def test_calibrate__standardises_every_band_over_real_frames() -> None:
    extractor = StackedLogMel(LOGMEL).double()
    groups = [waves(311, 187, 250), waves(400, 96, seed=7)]
    before = extractor(groups[0][0].unsqueeze(0))
    batches = [batch_of("logmel", group) for group in groups]
    extractor.calibrate((batch.inputs, batch.padding) for batch in batches)
    tokens = torch.cat([extractor(wave.unsqueeze(0))[0] for group in groups for wave in group])
    bands = tokens.reshape(-1, LOGMEL.num_bands)
    torch.testing.assert_close(bands.mean(0), torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(bands.std(0, correction=0), torch.ones(6, dtype=torch.float64))
    mean, deviation = extractor.get_buffer("mean"), extractor.get_buffer("deviation")
    after = extractor(groups[0][0].unsqueeze(0)) * deviation.repeat(2) + mean.repeat(2)
    torch.testing.assert_close(after, before, msg="identity before")


def test_calibrate__figures_travel_with_the_weights_and_need_data() -> None:
    frontend = SpeechFrontend(LOGMEL, tiny_settings())
    frontend.initialise(seeded(0))
    assert {"extractor.mean", "extractor.deviation"} <= set(frontend.state_dict())
    assert not any("filters" in name or "window" in name for name in frontend.state_dict())
    with pytest.raises(UsageError, match="no recording"):
        frontend.calibrate([])


def test_calibrate__a_constant_band_is_not_blown_up() -> None:
    extractor = StackedLogMel(LOGMEL)
    extractor.calibrate([(torch.zeros(2, 500), None)])
    assert extractor(torch.zeros(1, 500)).isfinite().all()
    assert float(extractor.get_buffer("deviation").min()) == pytest.approx(1e-3)


def test_calibrate__reads_nothing_for_convolutions() -> None:
    build(CONVOLUTION).calibrate(iter(lambda: pytest.fail("read"), None))


# Gradient of the convolutions


def _gradients(scale: float) -> dict[str, Tensor | None]:
    frontend = build(CONVOLUTION.model_copy(update={"gradient_scale": scale}))
    features = frontend.features(Batch(inputs=normal(4, 2, 200)))
    (features * normal(5, *features.shape)).sum().backward()
    return {name: p.grad for name, p in frontend.named_parameters() if "positions" not in name}


def test_gradient_scale__scales_the_convolutions_and_nothing_else() -> None:
    whole, tenth = _gradients(1.0), _gradients(0.1)
    for name, gradient in whole.items():
        if name == "mask_token":
            continue
        assert gradient is not None
        below = "weights" in name or "norms" in name
        torch.testing.assert_close(tenth[name], gradient * (0.1 if below else 1))


def test_gradient_scale__of_0_builds_no_graph_below() -> None:
    for name, gradient in _gradients(0.0).items():
        frozen = "weights" in name or "norms" in name or name == "mask_token"
        assert (gradient is None) == frozen, name
    frontend = build(CONVOLUTION.model_copy(update={"gradient_scale": 0.0}))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: pytest.fail("saved"), lambda x: x):
        frontend.extractor.requires_grad_(False)(normal(4, 2, 200))


# First weights and settings


@torch.no_grad()
def test_initialise__follows_the_reference() -> None:
    shape = EncoderSettings(dim=96, num_heads=4)
    frontend = SpeechFrontend(ConvolutionSettings(), shape)
    frontend.initialise(seeded(1))
    assert isinstance(frontend.extractor, Convolutions)
    for weight in frontend.extractor.weights:
        fan_in = weight.shape[1] * weight.shape[2]
        assert float(weight.std()) == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)
    assert 0 <= float(frontend.mask_token.min()) < 0.1
    assert 0.9 < float(frontend.mask_token.max()) <= 1
    for parameter, bound in (
        (frontend.projection.weight, 512**-0.5),
        (frontend.projection.bias, 512**-0.5),
        (frontend.positions.weights[0], (6 * 19) ** -0.5),
        (frontend.positions.biases[4], (6 * 19) ** -0.5),
    ):
        assert 0.8 * bound < float(parameter.abs().max()) <= bound
    norms = [m for m in frontend.modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) == 8
    assert all(float((norm.weight - 1).abs().max()) == 0 for norm in norms)
    assert frontend.positions.weights[4].shape == (96, 6, 19)


def test_groups__must_divide_the_width() -> None:
    with pytest.raises(UsageError, match="encoder.dim is 12 .*groups 16"):
        SpeechFrontend(ConvolutionSettings(layers=LAYERS), tiny_settings())


@pytest.mark.parametrize(
    ("settings", "values", "told"),
    [
        (ConvolutionSettings, {"layers": [[8, 10, 5], [8, 1, 2]]}, "layer 2 is .8, 1, 2."),
        (ConvolutionSettings, {"layers": []}, "at least 1"),
        (ConvolutionSettings, {"gradient_scale": -1}, "greater than or equal to 0"),
        (PositionSettings, {"kernel": 0}, "greater than or equal to 1"),
        (LogMelSettings, {"hop": 500}, "hop 500 is above window 400"),
        (LogMelSettings, {"num_bands": 101}, "more than a window of 400"),
    ],
)
def test_settings__nonsense_is_refused(settings: Any, values: Any, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        settings(**values)
