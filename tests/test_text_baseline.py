"""Proves: the TF-IDF baseline is scikit-learn's, over token ids, and the mask picture's colours."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor

from d2v.modalities.text.baseline import tf_idf
from d2v.modalities.text.masks import MaskSettings, token_masks
from d2v.modalities.text.pictures import STATES, draw_masks, token_states
from d2v.modalities.text.tokenizer import TokenizerSettings
from d2v.types import Batch, Mask
from tests.maths_case import seeded, tail_padding

TOKENIZER = TokenizerSettings(size=300)
SPECIAL = TOKENIZER.special_ids


def texts(lengths: list[int], seed: int) -> Batch:
    """Zipf-like ids, so that tokens repeat and some are in no text."""
    uniform = torch.rand(len(lengths), max(lengths), generator=seeded(seed))
    ids = (uniform**4 * 200).long()
    return Batch(inputs=ids, padding=tail_padding(lengths, max(lengths)))


TRAIN = [texts([5, 31, 12], 0), texts([40, 2, 9, 9], 1)]
TEST = texts([22, 7, 30], 2)


def documents(batch: Batch) -> list[list[int]]:
    """Without padding and special tokens."""
    assert batch.padding is not None
    rows = zip(batch.inputs.tolist(), batch.padding.tolist(), strict=True)
    return [
        [t for t, padded in zip(row, pads, strict=True) if not padded and t not in SPECIAL]
        for row, pads in rows
    ]


def features(num_counted: int = 300) -> Tensor:
    function = tf_idf(TRAIN, num_tokens=300, special_ids=SPECIAL, num_counted=num_counted)
    return function(TEST).to_dense()


def test_tf_idf__is_scikit_learns() -> None:
    train = [" ".join(map(str, d)) for batch in TRAIN for d in documents(batch)]
    test = [" ".join(map(str, d)) for d in documents(TEST)]
    known = [str(t) for t in range(300) if t not in SPECIAL]
    peer = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\d+", vocabulary=known)
    expected = torch.from_numpy(peer.fit(train).transform(test).toarray())
    found = features()
    assert (found.shape, found.dtype) == ((3, 295), torch.float32)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_tf_idf__of_few_tokens_takes_those_that_most_texts_have() -> None:
    train = [d for batch in TRAIN for d in documents(batch)]
    having = Counter(t for d in train for t in set(d))
    ordinary = sorted(set(range(300)) - set(SPECIAL), key=lambda t: (-having[t], t))
    counted = sorted(ordinary[:10])
    expected = torch.zeros(3, 10, dtype=torch.float64)
    for row, document in enumerate(documents(TEST)):
        for column, token in enumerate(counted):
            if n := document.count(token):
                idf = 1 + math.log((1 + len(train)) / (1 + having[token]))
                expected[row, column] = (1 + math.log(n)) * idf
        expected[row] /= expected[row].norm()
    torch.testing.assert_close(features(10).double(), expected, rtol=1e-5, atol=1e-6)


def test_tf_idf__does_not_depend_on_batches_or_padding() -> None:
    assert TEST.padding is not None
    whole = features()
    function = tf_idf(TRAIN[::-1], num_tokens=300, special_ids=SPECIAL, num_counted=300)
    for row, length in enumerate((22, 7, 30)):
        one = Batch(inputs=TEST.inputs[row : row + 1, :length])
        torch.testing.assert_close(function(one).to_dense()[0], whole[row])


def test_tf_idf__of_a_text_without_counted_tokens_is_zero() -> None:
    function = tf_idf(TRAIN, num_tokens=300, special_ids=SPECIAL, num_counted=300)
    only_special = Batch(inputs=torch.tensor([[0, 2, 2]]))
    assert function(only_special).to_dense().abs().max() == 0


# Picture


@pytest.fixture
def masked() -> tuple[Batch, Mask]:
    batch = texts([50, 20, 44], 4)
    settings = MaskSettings(ratio=0.5, span=2, random_rate=0.3, keep_rate=0.3)
    return batch, token_masks(batch, settings, TOKENIZER, [seeded(s) for s in range(3)])


def test_states__tell_what_the_student_reads(masked: tuple[Batch, Mask]) -> None:
    batch, mask = masked
    assert mask.replacement is not None
    assert batch.padding is not None
    names = list(STATES)
    found = token_states(batch, mask, TOKENIZER.mask)
    assert len(found.unique()) == 5, "the case has every state"
    for row in range(3):
        for i in range(50):
            original, read = int(batch.inputs[row, i]), int(mask.replacement[row, i])
            if batch.padding[row, i]:
                expected = "no data"
            elif not mask.predict[row, i]:
                expected = "visible"
            elif read == TOKENIZER.mask:
                expected = "<mask>"
            else:
                expected = "kept, but predicted" if read == original else "random token"
            assert names[int(found[row, i])] == expected


def test_picture__has_every_colour(masked: tuple[Batch, Mask], tmp_path: Path) -> None:
    draw_masks(*masked, TOKENIZER.mask, tmp_path / "masks.png")
    with Image.open(tmp_path / "masks.png") as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for name, colour in STATES.items():
        if name == "left out, but predicted":  # of students that read what is visible alone
            continue
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (pixels == rgb).all(1).sum() > 100, colour


def test_picture__of_a_student_that_reads_what_is_visible_alone(
    masked: tuple[Batch, Mask], tmp_path: Path
) -> None:
    batch, mask = masked[0], Mask.of(masked[1].predict)
    names = list(STATES)
    found = token_states(batch, mask, TOKENIZER.mask)
    assert {names[number] for number in found.unique().tolist()} == {
        "visible", "no data", "left out, but predicted"
    }  # fmt: skip
    assert torch.equal(found == names.index("left out, but predicted"), mask.predict)
    draw_masks(batch, mask, TOKENIZER.mask, tmp_path / "masks.png")
    assert (tmp_path / "masks.png").stat().st_size > 1000
