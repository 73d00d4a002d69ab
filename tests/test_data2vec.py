"""Proves: the objective is data2vec as reference section 1 writes it, from pixels to the loss."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2v.core.schedules import TauSettings
from d2v.data2vec import build_head
from d2v.types import Batch, Mask
from tests.data2vec_case import BATCH, SIDE, build, pictures, ragged_mask, slow_loss
from tests.maths_case import normal, seeded


@pytest.mark.parametrize(
    ("changes", "encoder"),
    [
        ({}, {}),
        ({"top_k": 3, "target_norm": "instance", "mean_norm": "none", "beta": 0}, {}),
        ({"beta": 0.5, "channel_reduction": "inv_sqrt_dim", "head_layers": 2}, {}),
        ({"channel_reduction": "sum", "teacher_averages": "encoder", "top_k": 1}, {}),
        ({"target_feature": "ffn", "mean_norm": "instance"}, {"norm_position": "post"}),
        ({"target_feature": "self_attention"}, {"norm_position": "post"}),
        ({"target_feature": "ffn_residual", "target_norm": "none"}, {"norm_position": "post"}),
    ],
)
def test_loss__equals_data2vec_written_out(
    changes: dict[str, Any], encoder: dict[str, Any]
) -> None:
    model, batch, mask = build(encoder, **changes), pictures(), ragged_mask()
    loss = model(batch, mask)
    slow = slow_loss(model, batch, mask)
    assert int(loss.count) == 14
    assert float(loss.total.detach()) == pytest.approx(float(slow.detach()), rel=1e-9)
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    fast_gradients = torch.autograd.grad(loss.total, list(trainable.values()))
    slow_gradients = torch.autograd.grad(slow, list(trainable.values()))
    for name, one, other in zip(trainable, fast_gradients, slow_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9, msg=name)
        assert one.abs().max() > 0 or name.endswith("bias"), f"{name} learns nothing"


def test_loss__counts_masked_positions_alone() -> None:
    model, batch, mask = build(), pictures(), ragged_mask()
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        output.last.retain_grad()
        kept.append(output.last)

    model.encoder.register_forward_hook(keep)
    model(batch, mask).total.backward()
    (last,) = kept
    assert last.grad is not None
    touched = last.grad.abs().sum(2) > 0  # (B, T + CLS)
    assert torch.equal(touched[:, 1:], mask.predict)
    assert not touched[:, 0].any(), "CLS is no target"


def test_cls__is_never_masked() -> None:
    model, batch = build(), pictures()
    with torch.no_grad():
        everything = Mask.of(torch.ones(BATCH, SIDE * SIDE, dtype=torch.bool))
        values = model.frontend(model.frontend.features(batch), everything, None).values
    cls = model.frontend.get_parameter("cls_token").detach()
    vector = model.frontend.get_parameter("mask_token").detach()
    assert torch.equal(values[:, 0], cls.expand(BATCH, -1))
    assert torch.equal(values[:, 1:], vector.expand(BATCH, SIDE * SIDE, -1))


# The teacher


def test_teacher__gets_no_gradient_and_stays_in_eval_mode() -> None:
    model = build({"attention_dropout": 0.3, "drop_path": 0.3, "dropout": 0.3})
    model(pictures(), ragged_mask()).total.backward()
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())
    for mode in (True, False, True):
        model.train(mode)
        assert {m.training for m in model.teacher.modules()} == {False}
        assert {m.training for m in model.encoder.modules()} == {mode}


def test_targets__do_not_depend_on_mask_or_dropout() -> None:
    model = build({"attention_dropout": 0.3, "drop_path": 0.3, "dropout": 0.3})
    batch = pictures()
    found: list[list[Tensor]] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        found.append(output.features)

    model.teacher["encoder"].register_forward_hook(keep)
    losses = [model(batch, ragged_mask(seed)).total.item() for seed in (2, 3)]
    assert losses[0] != losses[1]
    assert len(found[0]) == 2
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    features = model.frontend.features(batch)
    again = [model.targets(batch, features)[1] for _ in range(2)]
    assert torch.equal(*again)


@pytest.mark.parametrize("which", ["all", "encoder"])
def test_teacher__averages_what_is_asked_and_shares_the_rest(which: str) -> None:
    model = build(teacher_averages=which, tau=TauSettings(tau_e=0.75))
    names = {name.split(".")[0] for name, _ in model.teacher.named_parameters()}
    assert names == ({"frontend", "encoder"} if which == "all" else {"encoder"})
    before = {name: p.clone() for name, p in model.teacher.named_parameters()}
    assert model.after_update(1) == {"tau": 0.75}
    for name, parameter in model.teacher.named_parameters():
        student = model.get_parameter(name).detach()
        assert not torch.equal(before[name], student), "or the test proves nothing"
        torch.testing.assert_close(parameter, 0.75 * before[name] + 0.25 * student)


@pytest.mark.parametrize(("which", "calls"), [("all", [1, 1]), ("encoder", [1, 0])])
def test_features__are_computed_once_for_each_frontend(which: str, calls: list[int]) -> None:
    model = build(teacher_averages=which)
    counts = [0, 0]
    frontends: list[Any] = [model.frontend]
    frontends += [model.teacher["frontend"]] if which == "all" else []
    for i, frontend in enumerate(frontends):

        def count(module: nn.Module, inputs: Any, output: Any, i: int = i) -> None:
            counts[i] += 1

        frontend.patch_embed.register_forward_hook(count)
    model(pictures(), ragged_mask())
    assert counts == calls


def test_teacher__starts_as_the_students_copy() -> None:
    model = build()
    model.initialise(seeded(5))
    for name, parameter in model.teacher.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name


def test_state_dict__holds_student_head_and_teacher() -> None:
    for which, parts in (("all", ("encoder", "frontend")), ("encoder", ("encoder",))):
        model = build(teacher_averages=which)
        keys = set(model.state_dict())
        student = {key for key in keys if key.startswith(("encoder.", "frontend."))}
        teacher = {f"teacher.{key}" for key in student if key.startswith(parts)}
        assert keys == student | teacher | {"head.0.weight", "head.0.bias"}
        assert "frontend.relative.relative_position_bias_table" in keys
        assert "encoder.blocks.2.attn.qkv.weight" in keys


# Sums


@pytest.mark.parametrize("cut", [[1, 3], [2, 2], [1, 1, 1, 1]])
def test_micro_batches__sum_to_the_whole_batch(cut: list[int]) -> None:
    model, batch, mask = build(target_norm="layer", mean_norm="instance"), pictures(), ragged_mask()
    whole = model(batch, mask)
    whole.total.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    total, count = 0.0, 0
    inputs, predict = batch.inputs.split(cut), mask.predict.split(cut)
    for some, hidden in zip(inputs, predict, strict=True):
        loss = model(Batch(inputs=some), Mask.of(hidden))
        loss.total.backward()
        total, count = total + float(loss.total.detach()), count + int(loss.count)
    assert count == int(whole.count)
    assert total == pytest.approx(float(whole.total.detach()), rel=1e-12)
    for name, gradient in gradients.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("layers", "shapes"),
    [(1, [(12, 12)]), (2, [(24, 12), (12, 24)]), (3, [(24, 12), (24, 24), (12, 24)])],
)
def test_head__has_the_published_shapes(layers: int, shapes: list[tuple[int, int]]) -> None:
    head = build_head(12, layers).double()
    linear = [part for part in head if isinstance(part, nn.Linear)]
    assert [tuple(part.weight.shape) for part in linear] == shapes
    x = expected = normal(3, 5, 12)
    for i, part in enumerate(linear):
        expected = F.linear(expected if i == 0 else F.gelu(expected), part.weight, part.bias)
    torch.testing.assert_close(head(x), expected)
