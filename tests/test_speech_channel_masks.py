"""Proves: channels are hidden as reference 3.2 has it, with a mask alone; nothing else moves."""

import math

import pytest
import torch
from torch import Tensor

from d2v.core.masking import span_mask
from d2v.modalities.speech.frontend import SpeechFrontend
from d2v.modalities.speech.masks import MaskSettings, channel_masks, span_masks
from d2v.types import Mask
from tests.maths_case import seeded, shaken, tiny_settings
from tests.speech_case import FRONTENDS, batch_of, modality, slow_tokens, waves

HIDING = MaskSettings(channel_ratio=0.4, channel_length=3)
KINDS = sorted(FRONTENDS)


def slow_rows(num_channels: int, settings: MaskSettings, seeds: list[int]) -> list[set[int]]:
    """Reference 2.2, steps 1 to 5, fed with the same random numbers, with at least 0 spans."""
    generators, rows = [seeded(seed) for seed in seeds], []
    for generator in generators:
        u = float(torch.rand((), generator=generator))
        n = math.floor(settings.channel_ratio * num_channels / settings.channel_length + u)
        upper = num_channels - settings.channel_length
        starts = torch.randperm(upper, generator=generator).tolist()[:n]
        rows.append({start + j for start in starts for j in range(settings.channel_length)})
    fewest = min(len(row) for row in rows)
    for number, generator in enumerate(generators):
        order = torch.randperm(len(rows[number]), generator=generator).tolist()
        rows[number] = {sorted(rows[number])[place] for place in order[:fewest]}
    return rows


@pytest.mark.parametrize(("ratio", "length", "width"), [(0.25, 64, 768), (0.1, 64, 768),
                                                        (0.5, 7, 96), (0.05, 10, 60)])  # fmt: skip
def test_channel_masks__equal_the_reference_draw_by_draw(
    ratio: float, length: int, width: int
) -> None:
    settings = MaskSettings(channel_ratio=ratio, channel_length=length)
    for first in range(0, 400, 4):
        seeds = list(range(first, first + 4))
        fast = channel_masks(width, settings, seeds)
        slow = slow_rows(width, settings, seeds)
        assert [set(row.nonzero().flatten().tolist()) for row in fast] == slow


@pytest.mark.parametrize(("ratio", "measured"), [(0.5, 0.33), (0.25, 0.175), (0.1, 0.08)])
def test_channel_masks__hide_what_the_reference_measured(ratio: float, measured: float) -> None:
    settings = MaskSettings(channel_ratio=ratio)
    seeds = torch.randint(2**63 - 1, (500, 8), generator=seeded(0)).tolist()
    shares = [float(channel_masks(768, settings, eight).double().mean()) for eight in seeds]
    assert sum(shares) / len(shares) == pytest.approx(measured, abs=0.006)


@pytest.mark.parametrize(("ratio", "measured"), [(0.5, 0.37), (0.65, 0.45), (0.75, 0.50)])
def test_time_masks__hide_what_the_reference_measured(ratio: float, measured: float) -> None:
    shares = []
    for first in range(0, 2000, 8):
        generators = [seeded(seed) for seed in range(first, first + 8)]
        predict = span_masks([500] * 8, MaskSettings(ratio=ratio), generators).predict
        shares.append(float(predict.double().mean()))
    assert sum(shares) / len(shares) == pytest.approx(measured, abs=0.007)


def test_channel_masks__may_be_empty_but_leave_something() -> None:
    rare = MaskSettings(channel_ratio=0.01, channel_length=8)
    assert not channel_masks(96, rare, list(range(8))).any(), "min_spans is 0"
    greedy = MaskSettings(channel_ratio=1.0, channel_length=11, same_count=False)
    for seed in range(200):
        assert not channel_masks(12, greedy, [seed]).all()
    lone = span_mask(96, ratio=0.01, length=8, min_spans=1, generator=seeded(0))
    assert lone.any(), "tokens are always hidden somewhere"


def test_time_masks__are_the_same_with_channel_masks_and_without() -> None:
    for same_count in (True, False):
        both = []
        for ratio in (0.0, 0.5):
            settings = MaskSettings(channel_ratio=ratio, same_count=same_count)
            both.append(span_masks([60, 99, 14], settings, [seeded(row) for row in range(3)]))
        assert torch.equal(both[0].predict, both[1].predict)
        assert both[0].channel_seeds is None
        assert both[1].channel_seeds is not None
        assert len(set(both[1].channel_seeds)) == 3


def built(kind: str) -> SpeechFrontend:
    frontend = SpeechFrontend(FRONTENDS[kind], tiny_settings(), HIDING)
    frontend.initialise(seeded(0))
    shaken(frontend.double())
    return frontend


@pytest.mark.parametrize("kind", KINDS)
def test_frontend__sets_hidden_channels_to_zero_before_the_positions(kind: str) -> None:
    frontend, examples = built(kind), waves(311, 250)
    batch = batch_of(kind, examples)
    features = frontend.features(batch)
    mask = modality(kind, mask=HIDING).sample_mask(batch, [seeded(3), seeded(4)])
    assert mask.channel_seeds is not None
    hidden = channel_masks(12, HIDING, mask.channel_seeds)
    assert 0 < hidden.sum() < hidden.numel()
    tokens = frontend(features, mask, batch.padding).values
    for row, wave in enumerate(examples):
        count = slow_tokens_count(frontend, wave)
        x = features[row, :count].clone()
        x[mask.predict[row, :count]] = frontend.mask_token.detach()
        x[:, hidden[row]] = 0
        expected = x + frontend.positions(x.unsqueeze(0), None)[0]
        torch.testing.assert_close(tokens[row, :count], expected)


def slow_tokens_count(frontend: SpeechFrontend, wave: Tensor) -> int:
    return len(frontend.features(batch_of(frontend.extractor.settings.kind, [wave]))[0])


@pytest.mark.parametrize("kind", KINDS)
def test_frontend__hides_no_channel_without_a_mask(kind: str) -> None:
    frontend, (wave,) = built(kind), waves(311)
    if kind == "convolution":
        tokens = frontend(frontend.features(batch_of(kind, [wave])), None, None).values[0]
        torch.testing.assert_close(tokens, slow_tokens(frontend, wave, None))
    batch = batch_of(kind, [wave])
    mask = modality(kind).sample_mask(batch, [seeded(3)])
    plain = SpeechFrontend(FRONTENDS[kind], tiny_settings()).double()
    plain.load_state_dict(frontend.state_dict())
    features = frontend.features(batch)
    here, there = (one(features, mask, None).values for one in (frontend, plain))
    assert torch.equal(here, there), "channels are hidden where the mask says so alone"


def test_mask__keeps_its_channel_seeds_on_its_way() -> None:
    mask = Mask(
        predict=torch.ones(2, 3, dtype=torch.bool), positions=torch.arange(6), channel_seeds=(7, 8)
    )
    moved = mask.to(torch.device("cpu"))
    assert moved.channel_seeds == (7, 8)
    assert torch.equal(moved.predict, mask.predict)


def test_settings__refuse_spans_as_wide_as_the_encoder() -> None:
    speech = modality(mask=MaskSettings(channel_ratio=0.1, channel_length=12)).settings
    with pytest.raises(ValueError, match="channel_length 12 must be below encoder.dim 12"):
        speech.check_encoder(tiny_settings())
    modality(mask=MaskSettings(channel_length=12)).settings.check_encoder(tiny_settings())
