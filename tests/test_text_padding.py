"""Proves: a text's loss, targets and predictions do not depend on what it is batched with.

And: the teacher reads the whole text through the student's embeddings (reference 1.1, 2.3; the
released code's mistake P1 is not repeated), and the head is the reference's.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from d2v.data2vec import Data2Vec, build_head
from d2v.modalities.text.masks import MaskSettings, token_masks
from d2v.types import Batch, Mask
from tests.maths_case import seeded
from tests.text_case import LENGTHS, TOKENIZER, alone, build, texts


def masked(batch: Batch, seeds: list[int]) -> Mask:
    settings = MaskSettings(random_rate=0.1, keep_rate=0.1)
    return token_masks(batch, settings, TOKENIZER, [seeded(seed) for seed in seeds])


def predictions(model: Data2Vec, batch: Batch, mask: Mask) -> Tensor:
    """(B, T, D)."""
    tokens = model.frontend(model.frontend.features(batch), mask, batch.padding)
    found: Tensor = model.head(model.encoder(tokens).last)
    return found


def assert_same(one: Tensor, other: Tensor) -> None:
    """Up to float64's rounding; the figure asked for is 1e-5."""
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("changes", [{}, {"teacher_averages": "all"}, {"target_norm": "instance"}])
@pytest.mark.parametrize("lengths", [LENGTHS, [2, 17], [20, 1, 1, 1, 19]])
def test_padding__changes_no_target_prediction_or_loss(
    lengths: list[int], changes: dict[str, Any]
) -> None:
    model = build(**changes)
    batch = texts(lengths)
    mask = masked(batch, list(range(len(lengths))))
    _, targets = model.targets(batch, model.frontend.features(batch))
    predicted = predictions(model, batch, mask)
    total = torch.zeros((), dtype=torch.float64)
    for row, length in enumerate(lengths):
        one = alone(batch, row, length)
        own = masked(one, [row])
        assert torch.equal(own.predict[0], mask.predict[row, :length])
        _, target = model.targets(one, model.frontend.features(one))
        assert_same(targets[row, :length], target[0])
        assert_same(predicted[row, :length], predictions(model, one, own)[0])
        total = total + model(one, own).total
    loss = model(batch, mask)
    assert_same(loss.total, total)
    assert int(loss.count) == int(mask.predict.sum())


def test_padding__changes_no_gradient() -> None:
    model = build()
    batch = texts(LENGTHS)
    model(batch, masked(batch, [0, 1, 2, 3])).total.backward()
    together = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for row, length in enumerate(LENGTHS):
        one = alone(batch, row, length)
        model(one, masked(one, [row])).total.backward()
    assert len(together) > 20
    for name, parameter in model.named_parameters():
        if name in together:
            assert parameter.grad is not None
            assert_same(parameter.grad, together[name])


def test_teacher__reads_the_whole_text_through_the_students_embeddings() -> None:
    model = build({"dropout": 0.3})
    batch = texts(LENGTHS)
    seen, _ = model.targets(batch, model.frontend.features(batch))
    model.frontend.eval()
    whole = model.frontend(batch.inputs, None, batch.padding).values
    model.frontend.train()
    assert torch.equal(seen, whole), "nothing masked, nothing dropped"
    assert not seen.requires_grad
    table = dict(model.frontend.named_parameters())["token_embed"]
    with torch.no_grad():
        table.neg_()
    moved, _ = model.targets(batch, batch.inputs)
    model.frontend.eval()
    expected = model.frontend(batch.inputs, None, batch.padding).values
    assert torch.equal(moved, expected), "copied at once, not averaged"
    assert not torch.allclose(moved, seen)
    assert "frontend" not in model.teacher


def test_student__cannot_see_what_is_masked_and_the_teacher_can() -> None:
    model = build()
    batch = texts([20, 20])
    mask = token_masks(batch, MaskSettings(), TOKENIZER, [seeded(0), seeded(1)])
    shifted = Batch(inputs=torch.where(mask.predict, (batch.inputs + 5) % 300, batch.inputs))
    again = token_masks(shifted, MaskSettings(), TOKENIZER, [seeded(0), seeded(1)])
    assert torch.equal(predictions(model, batch, mask), predictions(model, shifted, again))
    first, second = (model.targets(b, b.inputs)[1] for b in (batch, shifted))
    assert not torch.allclose(first[mask.predict], second[mask.predict])


def test_head__of_two_layers_is_the_references() -> None:
    head = build_head(12, 2)
    kinds = [type(part) for part in head]
    assert kinds == [nn.Linear, nn.GELU, nn.Linear]
    assert [tuple(p.shape) for p in head.parameters()] == [(24, 12), (24,), (12, 24), (12,)]
    assert isinstance(head[1], nn.GELU)
    assert head[1].approximate == "none"
