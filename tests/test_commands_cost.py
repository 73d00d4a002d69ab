"""Proves: the operations that a dry run counts are those that training does.

The slow count lets torch count every product of a real forward pass.
"""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from d2v.build import build_objective
from d2v.commands.cost import SampleCost, memory_bytes, sample_cost
from d2v.commands.training import pretrain_reader
from d2v.config import load_recipe
from d2v.core.encoder import Encoder
from d2v.core.schedules import Horizon
from d2v.core.visible import keep_visible
from d2v.data2vec import Distillation
from d2v.data2vec2 import Data2Vec2, Data2Vec2Settings
from d2v.modalities import ModalityPlan, build_modality
from d2v.recipe import Recipe
from d2v.types import Batch, Mask

NUM_SAMPLES = 3
SPEECH = (
    "speech/spoken",
    "modality.frontend={kind: convolution, layers: [[16, 10, 5], [16, 8, 4]], "
    "positions: {num_layers: 2, kernel: 9, groups: 8, alibi: true}}",
)
IMAGES = ("vision/digits", "modality.frontend.cls_token=true")
TEXTS = ("text/pydoc",)
EXACT = {"vision": "inverse_block", "speech": "blocks", "text": "random"}
TEACHERS = ("all", "after_features", "encoder")


def recipe_of(what: tuple[str, ...], *overrides: str) -> Recipe:
    return load_recipe(what[0], [*what[1:], *overrides], Recipe).settings


def second(what: tuple[str, ...], *overrides: str) -> Recipe:
    kind = EXACT[what[0].partition("/")[0]]
    return recipe_of(
        what, "objective=data2vec2", f"modality.mask.kind={kind}", "modality.mask.ratio=0.6",
        "objective.decoder.projection_layers=2", "objective.decoder.width=32", *overrides,
    )  # fmt: skip


def built(recipe: Recipe) -> tuple[Distillation, Batch, Mask, ModalityPlan]:
    """The objective, samples without padding, their masks and the plan for one of them."""
    generator = torch.Generator().manual_seed(1)
    inputs = {
        "vision": lambda: torch.randint(256, (NUM_SAMPLES, 1, 8, 8), dtype=torch.uint8),
        "speech": lambda: torch.randn(NUM_SAMPLES, 1630, generator=generator),
        "text": lambda: torch.randint(10, 4000, (NUM_SAMPLES, 37), generator=generator),
    }[recipe.modality.name]()
    batch = Batch(inputs=inputs)
    generators = [torch.Generator().manual_seed(number) for number in range(NUM_SAMPLES)]
    mask = pretrain_reader(recipe).sample_mask(batch, generators)
    assert mask is not None
    model = build_objective(recipe, Horizon(total_steps=10, steps_per_epoch=5)).eval()
    use_matmul(model)
    length = None if recipe.modality.name == "vision" else float(inputs.shape[1])
    return model, batch, mask, build_modality(recipe.modality).plan(recipe.encoder, length)


def use_matmul(model: nn.Module) -> None:
    """Fused kernels of the CPU are not among those that torch counts."""
    for module in model.modules():
        if isinstance(module, Encoder):
            module.use_fused_attention(False)


def counted(model: Distillation, batch: Batch, mask: Mask) -> tuple[float, float]:
    """Operations of one sample's teacher, and of the student's forward pass."""
    with torch.no_grad():
        features = model.frontend.features(batch)
        with FlopCounterMode(display=False) as teacher:
            model.targets(batch, features)
        with FlopCounterMode(display=False) as whole:
            model(batch, mask)
    total = whole.get_total_flops() - teacher.get_total_flops()
    return teacher.get_total_flops() / NUM_SAMPLES, total / NUM_SAMPLES


@pytest.mark.parametrize("averages", TEACHERS)
@pytest.mark.parametrize("what", [IMAGES, SPEECH, TEXTS], ids=lambda what: what[0])
def test_cost__of_many_masks_is_what_torch_counts(what: tuple[str, ...], averages: str) -> None:
    recipe = second(what, f"objective.teacher_averages={averages}")
    model, batch, mask, plan = built(recipe)
    cost = sample_cost(recipe, plan, model)
    teacher, student = counted(model, batch, mask)
    assert cost.teacher == pytest.approx(teacher, rel=1e-9)
    assert cost.student == pytest.approx(student, rel=1e-9)
    assert cost.flops == pytest.approx(teacher + 3 * student, rel=1e-9)


@pytest.mark.parametrize("what", [IMAGES, SPEECH], ids=lambda what: what[0])
def test_cost__of_the_first_objective_is_what_torch_counts_without_its_head(
    what: tuple[str, ...],
) -> None:
    """The head, less than a hundredth of a published model, was never counted."""
    recipe = recipe_of(what, "objective=data2vec")
    model, batch, mask, plan = built(recipe)
    cost = sample_cost(recipe, plan, model)
    teacher, student = counted(model, batch, mask)
    head = 2 * int(mask.predict.sum()) * recipe.encoder.dim**2 / NUM_SAMPLES
    assert cost.teacher == pytest.approx(teacher, rel=1e-9)
    assert cost.student == pytest.approx(student - head, rel=1e-9)
    assert cost.decoder == 0


@pytest.mark.parametrize("what", [IMAGES, SPEECH, TEXTS], ids=lambda what: what[0])
def test_cost__of_the_decoder_is_its_own(what: tuple[str, ...]) -> None:
    recipe = second(what)
    model, batch, mask, plan = built(recipe)
    assert isinstance(model, Data2Vec2)
    with torch.no_grad():
        features = model.frontend.features(batch)
        tokens = model.frontend.views(features, mask, None)
        seen = model.encoder(keep_visible(tokens, mask)).last[:, tokens.num_prefix :]
        with FlopCounterMode(display=False) as counter:
            model.head(seen, mask, None)
    cost = sample_cost(recipe, plan, model)
    assert cost.decoder == pytest.approx(counter.get_total_flops() / NUM_SAMPLES, rel=1e-9)
    # One row a view where what is masked bears on positions, else one a sample.
    views = model.masks_per_sample if recipe.modality.name == "speech" else 1
    assert len(tokens.values) == NUM_SAMPLES * views


def test_cost__falls_as_the_visible_share_does() -> None:
    costs = []
    for ratio in (0.2, 0.5, 0.8):
        recipe = second(IMAGES, f"modality.mask.ratio={ratio}")
        model, _, _, plan = built(recipe)
        costs.append(sample_cost(recipe, plan, model))
    assert costs[0].student > costs[1].student > costs[2].student
    assert costs[0].kept_bytes > costs[1].kept_bytes > costs[2].kept_bytes
    assert len({cost.teacher for cost in costs}) == len({cost.decoder for cost in costs}) == 1


def test_kept_bytes__by_hand() -> None:
    """34 bytes a channel of a visible token and block; two a number that the decoder keeps."""
    recipe = second(IMAGES)
    objective = recipe.objective
    assert isinstance(objective, Data2Vec2Settings)
    model, _, mask, plan = built(recipe)
    assert mask.visible is not None
    seen, dim, depth, wide, places = mask.visible.shape[1] + 1, 64, 4, 32, 16
    decoder = dim + 2 * wide  # first convolution: its input; its output, normed and before GELU
    decoder += (objective.decoder.layers - 1) * 3 * wide
    decoder += wide + 2 * 2 * wide  # projections: input, hidden before and after GELU
    views = objective.masks_per_sample
    cost = sample_cost(recipe, plan, model)
    assert cost.kept_bytes == views * (34 * seen * dim * depth + 2 * places * decoder)


def test_memory__adds_weights_and_what_is_kept() -> None:
    cost = SampleCost(teacher=1.0, student=1.0, kept_bytes=1000.0)
    assert memory_bytes(10, 7, 3.5, cost, "bfloat16") == 4 * (4 * 10 + 7) + 3500
    assert memory_bytes(10, 7, 3.5, cost, "float32") == 4 * (4 * 10 + 7) + 7000


def test_plan__knows_which_part_of_a_frontend_every_view_costs_again() -> None:
    _, _, _, plan = built(second(SPEECH))
    assert plan.frontend_flops == plan.feature_flops + plan.view_flops
    assert replace(plan, view_flops=0.0) != plan
    for what in (IMAGES, TEXTS):
        assert built(second(what))[3].view_flops == 0
