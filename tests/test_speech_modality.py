"""Proves: recordings are decoded, batched, told of and drawn as `modalities/base.py` promises."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from matplotlib.image import imread
from pydantic import ValidationError
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torchaudio.transforms import MelSpectrogram

from d2v.errors import BadSampleError, UsageError
from d2v.modalities.speech.frontend import SpeechFrontend
from d2v.modalities.speech.modality import Speech, SpeechSettings
from d2v.types import Batch, Mask
from tests.maths_case import normal, seeded, tiny_settings
from tests.speech_case import CONVOLUTION, FRONTENDS, LAYERS, batch_of, build, modality, waves

NEEDED = 60
"""Samples behind a token of the small convolutional frontend."""


def recording(num_samples: int, seed: int = 0) -> Tensor:
    """Whole 16-bit values with an offset, in -1..1."""
    values = 3000 * normal(seed, num_samples) + 500
    return values.round().clamp(-32768, 32767) / 32768


def members(samples: Tensor, kind: str = "flac", **changes: Any) -> dict[str, bytes]:
    content = io.BytesIO()
    how = {"samplerate": 16_000, "format": kind.upper(), "subtype": "PCM_16", **changes}
    soundfile.write(content, samples.numpy(), **how)
    return {"json": b"{}", kind: content.getvalue(), "cls": b"1"}


def plain(normalise: bool = False) -> Speech:
    frontend = CONVOLUTION.model_copy(update={"normalise": normalise})
    return Speech(SpeechSettings(name="speech", frontend=frontend))


# Decoding


@pytest.mark.parametrize("kind", ["flac", "wav"])
def test_decode__gives_back_what_was_stored(kind: str) -> None:
    samples = recording(1234)
    decoded = plain().decode(members(samples, kind), None)
    assert decoded.dtype == torch.float32
    torch.testing.assert_close(decoded, samples.float(), rtol=0, atol=0)


def test_decode__standardises_the_whole_recording_before_it_crops() -> None:
    samples = torch.cat([recording(1000), torch.zeros(1000, dtype=torch.float64)])
    whole = [float(value) for value in samples]
    mean = math.fsum(whole) / len(whole)
    variance = math.fsum((value - mean) ** 2 for value in whole) / len(whole)
    expected = (samples - mean) / math.sqrt(variance + 1e-5)
    parts = members(samples)
    torch.testing.assert_close(
        plain(normalise=True).decode(parts, None), expected.float(), rtol=1e-5, atol=1e-5
    )
    cropped = plain(normalise=True).decode(parts, None, 300)
    torch.testing.assert_close(cropped, expected[:300].float(), rtol=1e-5, atol=1e-5)


def test_decode__crops_where_the_generator_says_and_everywhere_alike() -> None:
    samples = torch.arange(400) / 32768  # every sample tells its place
    parts, firsts = members(samples), []
    for seed in range(300):
        cropped = plain().decode(parts, seeded(seed), 395)
        assert len(cropped) == 395
        firsts.append(round(float(cropped[0]) * 32768))
        assert torch.equal(cropped, samples[firsts[-1] : firsts[-1] + 395])
    assert set(firsts) == set(range(6))
    assert min(firsts.count(place) for place in range(6)) > 20


@pytest.mark.parametrize("limit", [None, 400, 1000])
def test_decode__leaves_what_is_short_enough_whole(limit: int | None) -> None:
    samples = recording(400)
    assert torch.equal(plain().decode(members(samples), seeded(1), limit), samples.float())


def test_decode__crops_to_one_token_at_least() -> None:
    assert len(plain().decode(members(recording(400)), seeded(1), 3)) == NEEDED


@pytest.mark.parametrize("normalise", [True, False])
def test_decode__digital_silence_stays_finite(normalise: bool) -> None:
    decoded = plain(normalise).decode(members(torch.zeros(400)), None)
    assert torch.equal(decoded, torch.zeros(400))


def damaged() -> dict[str, tuple[dict[str, bytes], str]]:
    good = recording(1000)
    flac, holes = members(good)["flac"], good.clone()
    holes[7] = float("nan")
    return {
        "no recording": ({"txt": b"x"}, "no recording among its members .txt"),
        "no bytes": ({"flac": b""}, "damaged"),
        "noise": ({"flac": bytes(range(256)) * 9}, "damaged"),
        "torn": ({"flac": flac[: len(flac) // 2]}, "damaged|channels|samples"),
        "rate": (members(good, samplerate=8000), "1 channels at 8000 Hz, expected 1 channel"),
        "stereo": (members(torch.stack([good, good], 1)), "2 channels at 16000 Hz"),
        "nan": (members(holes, "wav", subtype="FLOAT"), "not finite"),
        "short": (members(recording(NEEDED - 1)), "59 samples, but one token takes 60"),
    }


@pytest.mark.parametrize("name", sorted(damaged()))
def test_decode__refuses_what_cannot_be_used(name: str) -> None:
    parts, told = damaged()[name]
    with pytest.raises(BadSampleError, match=told):
        plain(normalise=True).decode(parts, None)


# Batches


def test_collate__pads_with_zeros_and_marks_tokens() -> None:
    examples = [wave.float() for wave in waves(311, 60, 250)]
    batch = modality().collate(examples)
    assert batch.inputs.shape == (3, 311)
    assert batch.inputs.dtype == torch.float32
    for row, example in zip(batch.inputs, examples, strict=True):
        assert torch.equal(row[: len(example)], example)
        assert not row[len(example) :].any()
    assert batch.padding is not None
    assert (~batch.padding).sum(1).tolist() == [7, 1, 5]
    assert modality().collate(examples[:1]).padding is None


@pytest.mark.parametrize("kind", sorted(FRONTENDS))
def test_mask__fits_the_features_and_spares_padding(kind: str) -> None:
    batch = batch_of(kind, waves(2500, 900, 400))
    mask = modality(kind).sample_mask(batch, [seeded(row) for row in range(3)])
    assert batch.padding is not None
    assert mask.predict.shape == build(FRONTENDS[kind]).features(batch).shape[:2]
    assert not (mask.predict & batch.padding).any()
    assert len(set(mask.predict.sum(1).tolist())) == 1, "the same count"


# Baselines


def test_baseline__is_mean_and_deviation_of_torchaudios_log_mel() -> None:
    speech = Speech(SpeechSettings(name="speech"))
    ((name, function),) = speech.baselines(lambda: []).items()
    assert name == "log-mel statistics"
    examples = [normal(seed, 400 + 320 * n).float() for seed, n in enumerate((20, 3, 0))]
    found = function(speech.collate(examples))
    assert found.shape == (3, 160)
    theirs = MelSpectrogram(16_000, n_fft=400, hop_length=160, n_mels=80, center=False,
                            norm="slaney", mel_scale="slaney")  # fmt: skip
    for row, example in enumerate(examples):
        bands = theirs(example).clamp_min(1e-5).log()  # (80, F)
        expected = torch.cat([bands.mean(1), bands.std(1, correction=0)])
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["convolution", "logmel"])
def test_baseline__does_not_depend_on_the_batch(kind: str) -> None:
    speech = Speech(SpeechSettings.model_validate({"name": "speech", "frontend": {"kind": kind}}))
    function = speech.baselines(lambda: [])["log-mel statistics"]
    examples = [normal(n, n).float() for n in (3000, 561, 1777)]
    together = function(speech.collate(examples))
    for row, example in enumerate(examples):
        alone = function(speech.collate([example]))[0]
        torch.testing.assert_close(together[row], alone)


# What is told


def test_about__refuses_another_rate() -> None:
    speech = modality()
    speech.check_data(speech.about())
    for about in ({"sample_rate_hz": 8000}, {}):
        with pytest.raises(UsageError, match="16000 Hz"):
            speech.check_data(about)
    assert speech.length_unit.name == "seconds"
    assert speech.length_unit.size == 16_000


def counted(kind: str, num_samples: int) -> float:
    """Multiply-adds times two that torch counts in the frontend of one sample."""
    frontend = SpeechFrontend(FRONTENDS[kind], tiny_settings())
    frontend.initialise(seeded(0))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        frontend(frontend.features(Batch(inputs=torch.zeros(1, num_samples))), None, None)
    return float(counter.get_total_flops())


@pytest.mark.parametrize("kind", sorted(FRONTENDS))
def test_plan__counts_tokens_and_the_work_of_the_frontend(kind: str) -> None:
    plan = modality(kind).plan(tiny_settings(), 3000.4)
    assert plan.num_tokens == FRONTENDS[kind].geometry.num_tokens(3000)
    assert 0 < plan.num_masked < plan.num_tokens
    assert plan.frontend_flops == pytest.approx(counted(kind, 3000))
    assert "0.2 s of sound" in plan.text


def test_plan__without_data_is_of_ten_seconds() -> None:
    plan = Speech(SpeechSettings(name="speech")).plan(tiny_settings(dim=768, num_heads=12))
    assert plan.num_tokens == 499
    assert plan.num_masked == pytest.approx(0.49 * 499, abs=2)
    assert plan.frontend_flops == pytest.approx(52e9, rel=0.1), "about 4.9 GFLOP a second"
    assert "20 ms" in plan.text


def test_show_masks__tints_what_is_hidden(tmp_path: Path) -> None:
    batch = Speech(SpeechSettings(name="speech")).collate(
        [normal(n, 320 * n).float() for n in (90, 40)]
    )
    assert batch.padding is not None
    pictures = []
    for share in (0, 0.5):
        predict = (torch.arange(89) < 89 * share).expand(2, -1) & ~batch.padding
        path = tmp_path / f"{share}.png"
        Speech(SpeechSettings(name="speech")).show_masks(batch, Mask.of(predict), path)
        pictures.append(imread(path)[..., :3])
    bare, tinted = (float(np.ptp(picture, axis=2).mean()) for picture in pictures)
    assert bare < 0.01, "shades of grey"
    assert tinted > 0.05


# Settings


def test_settings__kind_picks_the_frontend() -> None:
    speech = SpeechSettings.model_validate(
        {"name": "speech", "frontend": {"kind": "logmel", "num_bands": 40}}
    )
    assert speech.frontend.width == 80
    assert SpeechSettings(name="speech").frontend.width == 512
    assert not speech.has_cls
    small = {"name": "speech", "frontend": {"kind": "convolution", "layers": LAYERS}}
    assert SpeechSettings.model_validate(small).frontend.geometry.stride == 40
    with pytest.raises(ValidationError, match="kind"):
        SpeechSettings.model_validate({"name": "speech", "frontend": {"kind": "mfcc"}})
