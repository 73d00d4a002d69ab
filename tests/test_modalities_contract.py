"""Proves: every modality in the table keeps the promises of `modalities/base.py`.

A new modality is tested by a case here; one without a case fails.
"""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter

from d2v.core.encoder import Encoder, EncoderSettings
from d2v.core.schedules import Horizon
from d2v.core.seeding import generator_for
from d2v.data2vec import Data2Vec, Data2VecSettings
from d2v.modalities import MODALITIES, Modality, ModalitySettings, build_modality
from d2v.samples import SourceItem
from d2v.types import Batch, Mask
from tests.modality_cases import CASES, EXACT, Case

ENCODER = EncoderSettings(dim=16, depth=2, num_heads=2, init_std=0.25, attention_dropout=0.0,
                          drop_path=0.0, layer_scale=None)  # fmt: skip


@pytest.fixture(params=[*CASES, *EXACT], ids=lambda case: str(case.name), name="case")
def case_fixture(request: pytest.FixtureRequest) -> Case:
    case: Case = request.param
    return case


@pytest.fixture(name="modality")
def modality_fixture(case: Case, tmp_path: Path) -> Modality:
    """With what it learns from its own items."""
    adapter: TypeAdapter[ModalitySettings] = TypeAdapter(ModalitySettings)
    settings = adapter.validate_python(case.settings)
    folder = tmp_path / "learned"
    folder.mkdir()
    build_modality(settings).learn(case.items, folder)
    return build_modality(settings, folder)


def stored(modality: Modality, items: list[SourceItem]) -> list[dict[str, bytes]]:
    return [sample.members for item in items for sample in modality.encode(item)]


def batch_of(modality: Modality, case: Case) -> Batch:
    examples = [modality.decode(parts, None) for parts in stored(modality, case.items())]
    return modality.collate(examples)


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [generator_for("mask", seed, number) for number in range(count)]


def masked(modality: Modality, batch: Batch, seed: int = 0) -> Mask:
    return modality.sample_mask(batch, generators(len(batch), seed))


def model_of(modality: Modality, case: Case) -> Data2Vec:
    objective = Data2VecSettings(top_k=2, teacher_averages=case.teacher_averages,
                                 target_norm="layer", mean_norm="none")  # fmt: skip
    horizon = Horizon(total_steps=10, steps_per_epoch=10)
    model = Data2Vec(modality.build_frontend(ENCODER), Encoder(ENCODER), objective, horizon)
    model.initialise(torch.Generator().manual_seed(0))
    return model


def test_table__has_a_case_for_every_modality() -> None:
    assert {case.settings["name"] for case in CASES} == set(MODALITIES)


# Storing


def test_encode__gives_the_same_bytes_twice_and_a_length(modality: Modality, case: Case) -> None:
    for item in case.items():
        samples = modality.encode(item)
        assert samples == modality.encode(item)
        assert all(sample.members and sample.length >= 1 for sample in samples)


def test_settings__name_sections_that_exist(case: Case) -> None:
    adapter: TypeAdapter[ModalitySettings] = TypeAdapter(ModalitySettings)
    settings = adapter.validate_python(case.settings)
    sections = settings.model_dump()
    assert {*settings.prepare_sections, *settings.model_sections} <= set(sections)
    assert settings.has_cls in (True, False)


def test_about__is_json_and_fits_itself(modality: Modality) -> None:
    about = json.loads(json.dumps(modality.about()))
    modality.check_data(about)
    assert {*modality.common_about} <= {*about}


def test_modality__travels_to_other_processes(modality: Modality, case: Case) -> None:
    again: Modality = pickle.loads(pickle.dumps(modality))
    item = case.items()[0]
    assert again.encode(item) == modality.encode(item)


# Reading


def test_decode__is_decided_by_the_bytes_and_the_generator(modality: Modality, case: Case) -> None:
    for parts in stored(modality, case.items()):
        assert torch.equal(modality.decode(parts, None), modality.decode(parts, None))
        twice = [modality.decode(parts, generator_for("augment", 3)) for _ in range(2)]
        assert torch.equal(*twice)


def test_decode__with_a_limit_crops_what_is_longer(modality: Modality, case: Case) -> None:
    for item in case.items():
        for sample in modality.encode(item):
            whole = modality.decode(sample.members, None)
            assert torch.equal(modality.decode(sample.members, None, sample.length), whole)
            if case.ragged:
                half = sample.length // 2
                at_random = modality.decode(sample.members, generator_for("crop", 0), half)
                assert len(at_random) == len(modality.decode(sample.members, None, half)) == half


def test_collate__marks_padding_of_the_tokens_that_the_frontend_makes(
    modality: Modality, case: Case
) -> None:
    batch = batch_of(modality, case)
    frontend = model_of(modality, case).frontend.eval()
    made = frontend(frontend.features(batch), None, batch.padding)
    num_tokens = made.values.shape[1] - made.num_prefix
    assert made.values.shape[0] == len(batch)
    assert made.values.shape[2] == ENCODER.dim
    assert (batch.padding is None) == (not case.ragged)
    if batch.padding is not None:
        assert batch.padding.shape == (len(batch), num_tokens)
        assert batch.padding.any()
        assert not batch.padding.all(1).any()
        assert made.padding is not None


# Masks


@pytest.mark.parametrize("seed", range(20))
def test_mask__predicts_something_sees_something_and_spares_padding(
    modality: Modality, case: Case, seed: int
) -> None:
    batch = batch_of(modality, case)
    mask = masked(modality, batch, seed)
    padding = torch.zeros_like(mask.predict) if batch.padding is None else batch.padding
    assert mask.predict.any(1).all()
    assert (~mask.predict & ~padding).any(1).all()
    assert not (mask.predict & padding).any()
    assert torch.equal(mask.positions, mask.predict.flatten().nonzero().squeeze(1))
    again = masked(modality, batch, seed)
    assert torch.equal(mask.predict, again.predict)


def test_mask__changes_with_the_generator(modality: Modality, case: Case) -> None:
    batch = batch_of(modality, case)
    masks = [masked(modality, batch, seed).predict for seed in range(5)]
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) > 1


# Model


def test_initialise__depends_on_its_generator_alone(modality: Modality, case: Case) -> None:
    frontends = [modality.build_frontend(ENCODER) for _ in range(2)]
    for frontend in frontends:
        state = torch.get_rng_state()
        frontend.initialise(generator_for("weights", 1))
        assert torch.equal(torch.get_rng_state(), state)
    for one, two in zip(*(frontend.parameters() for frontend in frontends), strict=True):
        assert torch.equal(one, two)


def test_calibrate__reads_at_most_what_it_needs(modality: Modality, case: Case) -> None:
    frontend = modality.build_frontend(ENCODER)
    frontend.initialise(generator_for("weights", 1))
    before = {name: value.clone() for name, value in frontend.named_buffers()}
    taken = []

    def batches() -> Iterator[Batch]:
        taken.append(1)
        yield batch_of(modality, case)

    frontend.calibrate(batches())
    changed = [name for name, value in frontend.named_buffers() if not value.equal(before[name])]
    assert bool(taken) == bool(changed)


def test_objective__gives_every_weight_a_gradient_and_the_teacher_none(
    modality: Modality, case: Case
) -> None:
    model, batch = model_of(modality, case).train(), batch_of(modality, case)
    loss = model(batch, masked(modality, batch), monitor=True)
    assert all(torch.isfinite(value) for value in (loss.total, *loss.monitors.values()))
    loss.total.backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert all(p.grad is None for p in model.teacher.parameters())


def test_targets__do_not_depend_on_what_a_sample_is_batched_with(
    modality: Modality, case: Case
) -> None:
    model = model_of(modality, case).eval()
    examples = [modality.decode(parts, None) for parts in stored(modality, case.items())]
    batch = modality.collate(examples)
    _, together = model.targets(batch, model.frontend.features(batch))
    for row, example in enumerate(examples):
        one = modality.collate([example])
        _, alone = model.targets(one, model.frontend.features(one))
        torch.testing.assert_close(together[row, : alone.shape[1]], alone[0], rtol=1e-4, atol=1e-5)


# Baselines and plans


def test_baselines__are_finite_and_do_not_depend_on_the_batch(
    modality: Modality, case: Case
) -> None:
    examples = [modality.decode(parts, None) for parts in stored(modality, case.items())]
    batch = modality.collate(examples)
    functions = modality.baselines(lambda: [batch])
    assert functions
    for function in functions.values():
        features = function(batch).to_dense()  # it may be sparse
        assert features.shape[0] == len(batch)
        assert features.isfinite().all()
        assert features.std(0).max() > 0, "the same for all samples"
        for row, example in enumerate(examples):
            alone = function(modality.collate([example])).to_dense()[0]
            torch.testing.assert_close(alone, features[row], rtol=1e-4, atol=1e-5)


def test_plan__counts_the_tokens_of_a_sample(modality: Modality, case: Case) -> None:
    item = case.items()[0]
    (sample,) = modality.encode(item)
    plan = modality.plan(ENCODER, float(sample.length))
    batch = modality.collate([modality.decode(sample.members, None)])
    frontend = model_of(modality, case).frontend.eval()
    made = frontend(frontend.features(batch), None, batch.padding)
    assert plan.num_tokens == made.values.shape[1]
    assert 0 < plan.num_masked < plan.num_tokens
    assert plan.frontend_flops >= 0
    assert "\n" not in plan.text


def test_show_masks__draws_a_picture(modality: Modality, case: Case, tmp_path: Path) -> None:
    batch = batch_of(modality, case)
    path = tmp_path / "masks.png"
    modality.show_masks(batch, masked(modality, batch), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 1000
