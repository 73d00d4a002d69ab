"""Proves: every modality gives data2vec 2.0 what it needs, whatever the masks' kind.

A student that reads what is visible never learns what is masked, nor what it is batched with.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from d2v.core.encoder import Encoder, EncoderSettings
from d2v.core.schedules import Horizon
from d2v.core.seeding import generator_for
from d2v.core.visible import keep_visible
from d2v.data.reading import ManyMasks
from d2v.data2vec2 import Data2Vec2, Data2Vec2Settings
from d2v.modalities import Modality, ModalitySettings, build_modality
from d2v.types import Batch, Mask
from tests.modality_cases import CASES, EXACT, Case

ENCODER = EncoderSettings(dim=16, depth=2, num_heads=2, init_std=0.25, attention_dropout=0.0,
                          drop_path=0.0, layer_scale=None)  # fmt: skip
VIEWS = 3


@pytest.fixture(params=[*CASES, *EXACT], ids=lambda case: str(case.name), name="case")
def case_fixture(request: pytest.FixtureRequest) -> Case:
    case: Case = request.param
    return case


@pytest.fixture(name="modality")
def modality_fixture(case: Case, tmp_path: Path) -> Modality:
    """With what it learns from its own items."""
    adapter: TypeAdapter[ModalitySettings] = TypeAdapter(ModalitySettings)
    settings = adapter.validate_python(case.settings)
    build_modality(settings).learn(case.items, tmp_path)
    return build_modality(settings, tmp_path)


def examples_of(modality: Modality, case: Case) -> list[Tensor]:
    stored = [sample.members for item in case.items() for sample in modality.encode(item)]
    return [modality.decode(parts, None) for parts in stored]


def masked(modality: Modality, batch: Batch, views: int = VIEWS, seed: int = 0) -> Mask:
    generators = [generator_for("mask", seed, number) for number in range(len(batch))]
    return ManyMasks(modality, views).sample_mask(batch, generators)


def model_of(modality: Modality, case: Case, averages: str | None = None) -> Data2Vec2:
    settings = Data2Vec2Settings.model_validate(
        {"name": "data2vec2", "top_k": 2, "masks_per_sample": VIEWS, "mean_norm": "none",
         "decoder": {"layers": 2, "groups": 4, "noise_std": 0.0}, "prefix_weight": 0.5,
         "teacher_averages": averages or case.teacher_averages}
    )  # fmt: skip
    horizon = Horizon(total_steps=10, steps_per_epoch=10)
    frontend = modality.build_frontend(ENCODER)
    model = Data2Vec2(frontend, Encoder(ENCODER), settings, horizon)
    model.initialise(torch.Generator().manual_seed(0))
    return model


def test_views__have_a_row_for_each_sample_or_each_view(modality: Modality, case: Case) -> None:
    batch, frontend = (
        modality.collate(examples_of(modality, case)),
        model_of(modality, case).frontend,
    )
    mask = masked(modality, batch)
    tokens = frontend.views(frontend.features(batch), mask, batch.padding)
    assert len(tokens.values) in (len(batch), VIEWS * len(batch))
    assert tokens.values.shape[1] == tokens.num_prefix + mask.predict.shape[1]
    rows, columns = frontend.grid or (1, mask.predict.shape[1])
    assert rows * columns == mask.predict.shape[1]


@pytest.mark.parametrize("seed", range(5))
def test_visible_tokens__do_not_tell_what_is_masked(
    modality: Modality, case: Case, seed: int
) -> None:
    batch, frontend = (
        modality.collate(examples_of(modality, case)),
        model_of(modality, case).frontend,
    )
    mask = masked(modality, batch, views=1, seed=seed)
    features = frontend.eval().features(batch)
    hidden = mask.predict.view(*mask.predict.shape, *[1] * (features.ndim - 2))
    other = features.roll(1, 0) if features.is_floating_point() else features + 1
    assert mask.visible_padding is None or mask.visible_padding.any()
    one, two = (
        keep_visible(frontend.views(given, mask, batch.padding), mask)
        for given in (features, torch.where(hidden, other, features))
    )
    real = slice(None) if one.padding is None else ~one.padding
    assert torch.equal(one.values[real], two.values[real])


@pytest.mark.parametrize("averages", ["all", "after_features", "encoder"])
def test_objective__gives_every_weight_a_gradient_and_the_teacher_none(
    modality: Modality, case: Case, averages: str
) -> None:
    batch, model = modality.collate(examples_of(modality, case)), model_of(modality, case, averages)
    loss = model.train()(batch, masked(modality, batch), monitor=True)
    assert all(torch.isfinite(value) for value in (loss.total, *loss.monitors.values()))
    loss.total.backward()
    without = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert without <= {"frontend.mask_token"}, "nothing stands at masked places"
    assert all(p.grad is None for p in model.teacher.parameters())


def test_loss__of_a_batch_is_that_of_its_samples(modality: Modality, case: Case) -> None:
    """Padding of samples and views, gathering, scattering and decoder included."""
    model, examples = model_of(modality, case).eval(), examples_of(modality, case)
    batch = modality.collate(examples)
    mask = masked(modality, batch)
    together, total, count = model(batch, mask), 0.0, 0
    for row, example in enumerate(examples):
        alone = modality.collate([example])
        num_tokens = mask.predict.shape[1]
        if batch.padding is not None:
            num_tokens -= int(batch.padding[row].sum())
        predict = mask.predict[VIEWS * row : VIEWS * (row + 1), :num_tokens]
        loss = model(alone, Mask.of(predict).with_visible(alone.padding))
        total, count = total + float(loss.total.detach()), count + int(loss.count)
    assert count == int(together.count)
    assert total == pytest.approx(float(together.total.detach()), rel=1e-4)


def test_exact_masks__show_as_much_of_every_view_of_a_sample(
    modality: Modality, case: Case
) -> None:
    batch = modality.collate(examples_of(modality, case))
    mask = masked(modality, batch)
    counts = mask.predict.sum(1).view(len(batch), VIEWS)
    assert case not in EXACT or torch.equal(counts, counts[:, :1].expand_as(counts))
    if case in EXACT:
        same = replace(batch, inputs=batch.inputs[:1].repeat(4, *[1] * (batch.inputs.ndim - 1)))
        alike = masked(modality, replace(same, padding=None))
        assert alike.visible_padding is None, "nothing is padded that need not be"
