"""Proves: the masks of data2vec 2.0 have the counts of reference 4.3 in each modality."""

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction

import pytest
import torch

from d2v.modalities.speech.masks import MaskSettings as SpeechMasks
from d2v.modalities.speech.masks import span_masks
from d2v.modalities.text.masks import MaskSettings as TextMasks
from d2v.modalities.text.masks import token_masks
from d2v.modalities.text.tokenizer import TokenizerSettings
from d2v.modalities.vision.masks import MaskSettings as VisionMasks
from d2v.modalities.vision.masks import patch_masks
from d2v.types import Batch, Mask
from tests.maths_case import seeded, tail_padding

DRAWS = 2000
TOKENIZER = TokenizerSettings(size=300)


@pytest.mark.parametrize(
    ("side", "ratio", "adjust", "visible", "masked"),
    [(14, 0.8, 0.07, 39, 157), (14, 0.75, 0.1, 49, 147), (16, 0.75, 0.1, 64, 192)],
)
def test_vision__has_the_counts_of_the_table(
    side: int, ratio: float, adjust: float, visible: int, masked: int
) -> None:
    settings = VisionMasks(kind="inverse_block", ratio=ratio, adjust=adjust, size=3)
    mask = patch_masks(side, settings, [seeded(seed) for seed in range(50)])
    assert set(mask.predict.sum(1).tolist()) == {masked}
    assert settings.num_masked(side * side) == masked
    assert mask.with_visible(None).visible_padding is None


LENGTHS = (2, 3, 5, 7, 20, 25, 99, 100, 511, 512, 513, 1000, 1999)


def within(count: int, num_tokens: int) -> int:
    """At least one and not all."""
    return min(max(count, 1), num_tokens - 1)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("ratio", "adjust"), [("0.5", 0.05), ("0.55", 0.1)])
def test_speech__masks_the_share_rounded_down(ratio: str, adjust: float, length: int) -> None:
    settings = SpeechMasks(kind="blocks", ratio=float(ratio), adjust=adjust, length=5)
    masked = within(math.floor(length * Fraction(ratio)), length)
    mask = span_masks([length] * 20, settings, [seeded(seed) for seed in range(20)])
    assert set(mask.predict.sum(1).tolist()) == {masked}
    assert settings.num_masked(length) == masked


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("ratio", ["0.48", "0.5"])
def test_text__shows_the_share_rounded_down(ratio: str, length: int) -> None:
    settings = TextMasks(kind="random", ratio=float(ratio))
    visible = within(math.floor(length * (1 - Fraction(ratio))), length)
    batch = Batch(inputs=torch.full((20, length), 299))
    mask = token_masks(batch, settings, TOKENIZER, [seeded(seed) for seed in range(20)])
    assert set((~mask.predict).sum(1).tolist()) == {visible}
    assert settings.num_masked(length) == length - visible


def test_text__shows_266_and_256_of_512() -> None:
    shown = [512 - TextMasks(kind="random", ratio=ratio).num_masked(512) for ratio in (0.48, 0.5)]
    assert shown == [266, 256]


# Ends of the range


def extremes() -> Iterator[Mask]:
    """Masks of tiny grids and short samples, for shares from almost nothing to almost all."""
    generators = [seeded(seed) for seed in range(40)]
    for ratio, size in itertools.product((0.01, 0.3, 0.5, 0.8, 0.99), (1, 2, 3, 7)):
        for side in (2, 3, 4):
            pictures = VisionMasks(kind="inverse_block", ratio=ratio, size=size)
            yield patch_masks(side, pictures, generators)
        for length in (2, 3, 4, 9):
            sounds = SpeechMasks(kind="blocks", ratio=ratio, length=size)
            yield span_masks([length] * 40, sounds, generators)
            texts, batch = TextMasks(kind="random", ratio=ratio), torch.zeros(40, length)
            yield token_masks(Batch(inputs=batch.long()), texts, TOKENIZER, generators)


def test_masks__hide_something_and_show_something_however_small_the_sample() -> None:
    for mask in extremes():
        assert mask.predict.any(1).all()
        assert (~mask.predict).any(1).all()
        assert len(set(mask.predict.sum(1).tolist())) == 1


def test_speech__masks_each_recording_by_its_own_length() -> None:
    settings, counts = SpeechMasks(kind="blocks", ratio=0.5, length=5), [31, 2, 16, 7]
    alone = [span_masks([n], settings, [seeded(i)]).predict[0] for i, n in enumerate(counts)]
    mask = span_masks(counts, settings, [seeded(i) for i in range(4)])
    for row, count, own in zip(mask.predict, counts, alone, strict=True):
        assert torch.equal(row[:count], own), "the others in the batch do not matter"
        assert not row[count:].any()


def test_text__masks_each_text_by_its_own_length() -> None:
    lengths, settings = [30, 2, 17, 8], TextMasks(kind="random", ratio=0.48)
    batch = Batch(inputs=torch.full((4, 30), 299), padding=tail_padding(lengths, 30))
    mask = token_masks(batch, settings, TOKENIZER, [seeded(i) for i in range(4)])
    for i, length in enumerate(lengths):
        one = Batch(inputs=torch.full((1, length), 299))
        own = token_masks(one, settings, TOKENIZER, [seeded(i)]).predict[0]
        assert torch.equal(mask.predict[i, :length], own)
        assert not mask.predict[i, length:].any()


def test_text__masks_every_place_alike() -> None:
    settings, generator = TextMasks(kind="random", ratio=0.48), seeded(0)
    batch = Batch(inputs=torch.full((DRAWS, 25), 299))
    predict = token_masks(batch, settings, TOKENIZER, [generator] * DRAWS).predict.double()
    assert float((predict.mean(0) - 12 / 25).abs().max()) < 5 * math.sqrt(0.25 / DRAWS)
    together = (predict[:, 1:] * predict[:, :-1]).mean(0)  # places side by side
    assert float((together - 12 / 25 * 11 / 24).abs().max()) < 5 * math.sqrt(0.25 / DRAWS)
