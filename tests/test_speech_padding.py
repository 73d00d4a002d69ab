"""Proves: what an utterance is batched with changes neither its prediction, target nor loss."""

from typing import Literal

import pytest
import torch
from torch import Tensor

from d2v.core.encoder import Encoder
from d2v.core.schedules import Horizon
from d2v.core.targets import TargetNorm, normalise
from d2v.data2vec import Data2Vec, Data2VecSettings
from d2v.types import Batch, Mask
from tests.maths_case import normal, seeded, tail_padding, tiny_settings
from tests.speech_case import FRONTENDS, batch_of, build, modality, slow_norm, waves

KINDS = sorted(FRONTENDS)
SIZES = [(311, 187, 250), (60, 400, 101), (140, 139, 181, 1000)]
Teacher = Literal["all", "encoder"]


def model_of(kind: str, dtype: torch.dtype, averages: Teacher = "encoder") -> Data2Vec:
    """Post-norm with a norm behind the positions, targets normalised over time; nothing random."""
    torch.manual_seed(0)  # timm draws from the global generator when it builds its parts
    shape = tiny_settings(norm_position="post", input_norm=True, norm_eps=1e-5,
                          layer_scale=None, init_std=0.3)  # fmt: skip
    settings = Data2VecSettings(top_k=2, target_feature="ffn", target_norm="instance",
                                mean_norm="none", beta=0.0, channel_reduction="inv_sqrt_dim",
                                teacher_averages=averages)  # fmt: skip
    frontend = build(FRONTENDS[kind], shape)
    model = Data2Vec(frontend, Encoder(shape), settings, Horizon(total_steps=9, steps_per_epoch=9))
    other = Encoder(shape)
    other.initialise(seeded(3))
    model.initialise(seeded(2))
    model.teacher["encoder"].load_state_dict(other.state_dict())  # no copy of the student
    return model.to(dtype).train()


@torch.no_grad()
def answers(model: Data2Vec, batch: Batch, mask: Mask) -> tuple[Tensor, Tensor, Tensor]:
    """Predictions, targets, loss."""
    features = model.frontend.features(batch)
    encoded = model.encoder(model.frontend(features, mask, batch.padding)).last
    return (
        model.head(encoded),
        model.targets(batch, features)[1],
        model(batch, mask).total,
    )


@pytest.mark.parametrize("averages", ["all", "encoder"])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_batch__changes_nothing_of_an_utterance(
    kind: str, sizes: tuple[int, ...], averages: Teacher, dtype: torch.dtype, within: float
) -> None:
    model = model_of(kind, dtype, averages)
    examples = [wave.to(dtype) for wave in waves(*sizes)]
    batch = batch_of(kind, examples)
    assert batch.padding is not None
    mask = modality(kind).sample_mask(batch, [seeded(row) for row in range(len(sizes))])
    predictions, targets, total = answers(model, batch, mask)
    losses = []
    for row, wave in enumerate(examples):
        alone = batch_of(kind, [wave])
        assert alone.padding is None
        count = model.frontend.features(alone).shape[1]
        own = answers(model, alone, Mask.of(mask.predict[row : row + 1, :count]))
        for together, one in zip((predictions, targets), own, strict=False):
            torch.testing.assert_close(together[row, :count], one[0], rtol=within, atol=within)
        losses.append(own[2])
    torch.testing.assert_close(torch.stack(losses).sum(), total, rtol=within, atol=within)


@pytest.mark.parametrize("kind", KINDS)
def test_batch__changes_nothing_of_an_utterances_gradient(kind: str) -> None:
    model, examples = model_of(kind, torch.float64), waves(311, 187, 250)
    batch = batch_of(kind, examples)
    mask = modality(kind).sample_mask(batch, [seeded(row) for row in range(3)])
    model(batch, mask).total.backward()
    together = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    for row, wave in enumerate(examples):
        alone = batch_of(kind, [wave])
        count = model.frontend.features(alone).shape[1]
        model(alone, Mask.of(mask.predict[row : row + 1, :count])).total.backward()
    alone_grads = [p.grad for p in model.parameters() if p.grad is not None]
    for one, two in zip(together, alone_grads, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_behind_an_utterance__is_never_read(kind: str) -> None:
    model, batch = model_of(kind, torch.float64), batch_of(kind, waves(311, 187, 250))
    assert batch.padding is not None
    mask = modality(kind).sample_mask(batch, [seeded(row) for row in range(3)])
    total = model(batch, mask).total.detach()
    noise = batch.inputs.clone()
    noise[1, 187:] = normal(5, 311 - 187) * 100
    same = model(Batch(inputs=noise, padding=batch.padding), mask).total.detach()
    torch.testing.assert_close(same, total)
    leaking = model(Batch(inputs=noise), mask).total.detach()
    assert abs(float(leaking - total)) > 1e-3, "the padding is what keeps it out"


@pytest.mark.parametrize("norm", ["layer", "instance", "none"])
def test_target_norm__of_a_padded_batch_is_that_of_each_sample(norm: TargetNorm) -> None:
    x, lengths = normal(1, 4, 9, 5), [9, 4, 1, 7]
    x[1, 4:] *= 1000
    found = normalise(x, norm, tail_padding(lengths, 9))
    for row, length in enumerate(lengths):
        one = x[row, :length]
        expected = {
            "none": one,
            "layer": torch.stack([slow_norm(token) for token in one]),
            "instance": torch.stack([slow_norm(channel) for channel in one.T], dim=1),
        }[norm]
        torch.testing.assert_close(found[row, :length], expected)
