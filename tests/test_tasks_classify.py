"""Proves: the supervised loss is cross entropy of the mean over tokens with data."""

import math

import pytest
import torch

from d2v.tasks.classify import Classify, ClassifySettings
from d2v.tasks.heads import PooledHead
from d2v.types import Batch, Tokens
from tests.maths_case import Given, normal, shaken, tail_padding, tiny_encoder

LABELS = torch.tensor([2, -1, 0])


@pytest.mark.parametrize("lengths", [[6, 6, 6], [6, 4, 3]], ids=["whole", "padded"])
def test_classify__equals_plain_loops_over_labelled_samples(lengths: list[int]) -> None:
    padding = tail_padding(lengths, 6)
    tokens = Tokens(values=normal(1, 3, 6, 12), padding=padding, num_prefix=1)
    task = Classify(ClassifySettings(name="classify"), ("a", "b", "c", "d"))
    model = task.build(Given(tokens), tiny_encoder()).double()
    head = model.head
    assert isinstance(head, PooledHead)
    shaken(head)
    loss = model(Batch(inputs=tokens.values, labels=LABELS), None, monitor=True)
    total, right = 0.0, 0
    with torch.no_grad():
        encoded = model.encoder(tokens).last
        for b, label in enumerate(LABELS.tolist()):
            if label >= 0:
                logits = head.last(encoded[b, 1 : lengths[b]].mean(0)).tolist()
                total += math.log(sum(math.exp(v) for v in logits)) - logits[label]
                right += logits[label] == max(logits)
    assert loss.total.item() == pytest.approx(total, rel=1e-6)
    assert int(loss.count) == 2
    assert loss.monitors["train_accuracy"].item() == right / 2
