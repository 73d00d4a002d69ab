"""Proves: the second objective is data2vec 2.0 as reference section 4 writes it, to the loss."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from d2v.core.schedules import TauSettings
from d2v.types import Mask
from tests.data2vec2_case import DECODER, VIEWS, build, masks, slow_parts
from tests.data2vec_case import BATCH, DIM, pictures
from tests.maths_case import seeded

POST = {"norm_position": "post", "layer_scale": None}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "published": (
        {"positions": "sincos_2d", "target_feature": "ffn", "target_norm": "instance", "beta": 0,
         "channel_reduction": "inv_sqrt_dim", "prefix_weight": 2.56},
        {**POST, "input_norm": True},
    ),
    "audio-like": (
        {"teacher_averages": "after_features", "target_feature": "ffn", "mean_norm": "none",
         "target_norm": "instance", "beta": 0, "channel_reduction": "inv_sqrt_dim", "top_k": 3},
        {**POST, "input_norm": True},
    ),
    "text-like": (
        {"teacher_averages": "encoder", "target_feature": "ffn", "mean_norm": "instance",
         "target_norm": "layer", "channel_reduction": "sum", "beta": 0.5,
         "decoder": {**DECODER, "residual": False, "projection_layers": 2, "width": 24}},
        POST,
    ),
    "pre-norm, relative": ({"positions": "relative", "prefix_weight": 0.3}, {}),
    "end of block": ({"target_feature": "end_of_block", "target_norm": "none"}, POST),
    "before the norm": ({"target_feature": "ffn_residual", "mean_norm": "none"}, POST),
    "attention": ({"target_feature": "self_attention", "top_k": 1, "positions": "none"}, {}),
    "one view": ({"masks_per_sample": 1, "prefix_weight": 1.0}, {}),
}  # fmt: skip


@pytest.mark.parametrize("even", [True, False], ids=["even", "uneven"])
@pytest.mark.parametrize("case", CASES)
def test_loss__equals_data2vec_2_written_out(case: str, even: bool) -> None:
    changes, encoder = CASES[case]
    model, batch = build(encoder, **changes), pictures()
    mask = masks(BATCH * model.masks_per_sample, even=even)
    loss = model(batch, mask)
    regression, of_prefix = slow_parts(model, batch, mask)
    counts = mask.predict.sum(1)
    slow = torch.stack(regression).sum()
    for count, of_view in zip(counts.tolist(), of_prefix, strict=True):
        slow = slow + model.prefix_weight * count * of_view
    assert int(loss.count) == int(counts.sum())
    assert float(loss.total.detach()) == pytest.approx(float(slow.detach()), rel=1e-9)
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    fast_gradients = torch.autograd.grad(loss.total, list(trainable.values()), allow_unused=True)
    slow_gradients = torch.autograd.grad(slow, list(trainable.values()), allow_unused=True)
    for name, one, other in zip(trainable, fast_gradients, slow_gradients, strict=True):
        if one is None:  # nothing stands at masked places; a norm behind the student may be unused
            assert name == "frontend.mask_token"
            assert other is None
            continue
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9, msg=name)
        assert one.abs().max() > 0 or name.endswith("bias"), f"{name} learns nothing"


@pytest.mark.parametrize("averages", ["all", "after_features", "encoder"])
def test_teacher__reads_every_sample_once_and_the_student_what_each_view_shows(
    averages: str,
) -> None:
    model, mask = build(teacher_averages=averages, masks_per_sample=5), masks(5 * BATCH)
    read: dict[str, list[tuple[int, ...]]] = {"teacher": [], "student": [], "patches": []}

    def keep(name: str) -> Any:
        return lambda module, given: read[name].append(
            tuple(given[0].values.shape if name != "patches" else given[0].shape)
        )

    model.teacher["encoder"].register_forward_pre_hook(keep("teacher"))
    model.encoder.register_forward_pre_hook(keep("student"))
    embed: Any = model.frontend
    embed.patch_embed.register_forward_pre_hook(keep("patches"))
    model(pictures(), mask)
    assert read["teacher"] == [(BATCH, 10, DIM)]
    assert read["student"] == [(5 * BATCH, 1 + 3, DIM)]
    assert read["patches"] == [(BATCH, 1, 6, 6)], "features are computed once a sample"


def test_teacher__gets_no_gradient_and_stays_in_eval_mode() -> None:
    model = build({"dropout": 0.3, "drop_path": 0.3, "layerdrop": 0.3}, prefix_weight=1.0)
    model(pictures(), masks(BATCH * VIEWS)).total.backward()
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())
    for mode in (True, False, True):
        model.train(mode)
        assert {m.training for m in model.teacher.modules()} == {False}
        assert {m.training for part in (model.encoder, model.head) for m in part.modules()} == {
            mode
        }


def test_teacher__is_moved_by_the_update_alone() -> None:
    model = build(tau=TauSettings(tau_e=0.75))
    before = {name: p.clone() for name, p in model.teacher.named_parameters()}
    model(pictures(), masks(BATCH * VIEWS))
    assert all(torch.equal(before[n], p) for n, p in model.teacher.named_parameters())
    assert model.after_update(1) == {"tau": 0.75}
    for name, parameter in model.teacher.named_parameters():
        student = model.get_parameter(name).detach()
        torch.testing.assert_close(parameter, 0.75 * before[name] + 0.25 * student)


def test_state_dict__holds_student_decoder_and_teacher_without_decoder() -> None:
    keys = set(build().state_dict())
    decoder = {f"head.{part}.{kind}" for kind in ("weight", "bias")
               for part in ("convolutions.0", "convolutions.1", "projections.0")}  # fmt: skip
    student = {key for key in keys if key.startswith(("encoder.", "frontend."))}
    assert keys == student | {f"teacher.{key}" for key in student} | decoder


def test_initialise__starts_the_teacher_as_a_copy_and_leaves_the_mask_vector_at_zero() -> None:
    model = build()
    state = torch.get_rng_state()
    model.initialise(seeded(5))
    assert torch.equal(torch.get_rng_state(), state)
    for name, parameter in model.teacher.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name
    assert not model.frontend.get_parameter("mask_token").any()


def test_masked_patches__never_reach_the_student() -> None:
    model, batch, mask = build(masks_per_sample=1), pictures(), masks(BATCH)
    kept: list[Tensor] = []

    def keep(module: nn.Module, given: Any, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    embed: Any = model.frontend
    embed.patch_embed.register_forward_hook(keep)
    model(batch, mask).total.backward()
    (features,) = kept
    assert features.grad is not None
    assert torch.equal(features.grad.abs().sum(2) > 0, ~mask.predict)


def test_noise__at_masked_places_comes_from_the_generator_of_dropout() -> None:
    model, mask = build(decoder={**DECODER, "noise_std": 0.5}), masks(BATCH * VIEWS)
    totals = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        totals.append(float(model(pictures(), mask).total.detach()))
    assert totals[0] == totals[1] != totals[2]


def test_layerdrop__skips_blocks_of_the_student_alone() -> None:
    model, mask = build({"layerdrop": 0.6}), masks(BATCH * VIEWS)
    calls = {"student": 0, "teacher": 0}

    def count(name: str) -> Any:
        def add(module: nn.Module, given: Any) -> None:
            calls[name] += 1

        return add

    for name, encoder in (("student", model.encoder), ("teacher", model.teacher["encoder"])):
        blocks: Any = encoder.get_submodule("blocks")
        for block in blocks:
            block.register_forward_pre_hook(count(name))
    torch.manual_seed(0)
    for _ in range(20):
        model(pictures(), mask)
    assert calls["teacher"] == 60
    assert 0 < calls["student"] < 50
    assert not model.trains_all_always


def test_sample_without_visible_places__is_shown_its_first_and_stays_finite() -> None:
    """A sample of a single token can do no better: without any, attention is not a number."""
    predict = torch.ones(BATCH * VIEWS, 9, dtype=torch.bool)
    predict[1::2, 4:] = False
    mask = Mask.of(predict).with_visible(None)
    assert mask.visible is not None
    assert mask.visible[0, 0] == 0
    model = build({"attention": "matmul"}, prefix_weight=1.0)
    model.encoder.use_fused_attention(False)
    loss = model(pictures(), mask, monitor=True)
    loss.total.backward()
    assert loss.total.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
