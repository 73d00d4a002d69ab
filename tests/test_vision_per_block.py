"""Proves: a relative table for each block acts there alone, and a shared one is a special case.

Reference P10: fine-tuned models have such tables, pre-trained ones share a single one.
"""

from typing import Any

import pytest
import torch
from timm.layers import RelPosBias
from torch import Tensor

from d2v.core.encoder import Encoder
from d2v.modalities.vision.frontend import FrontendSettings, VisionFrontend
from d2v.types import Tokens
from tests.maths_case import normal, seeded, shaken, tiny_encoder, tiny_settings
from tests.test_vision_frontend import slow_index

DEPTH = 3


def build(positions: str, *, cls_token: bool = True, move: bool = True) -> VisionFrontend:
    torch.manual_seed(0)  # timm draws from the global generator when it builds its parts
    settings = FrontendSettings.model_validate(
        {"image_size": 12, "patch_size": 4, "positions": positions, "cls_token": cls_token}
    )
    frontend = VisionFrontend(settings, tiny_settings(depth=DEPTH))
    frontend.initialise(seeded(0))
    if move:
        shaken(frontend)
    return frontend.double()


def tables(frontend: VisionFrontend) -> list[Tensor]:
    return [
        module.relative_position_bias_table
        for module in frontend.modules()
        if isinstance(module, RelPosBias)
    ]


def tokens_of(frontend: VisionFrontend) -> Tokens:
    tokens: Tokens = frontend(normal(1, 2, 9, 12), None, None)
    return tokens


@torch.no_grad()
def like(frontend: VisionFrontend, other: VisionFrontend) -> VisionFrontend:
    """The same weights where both have them."""
    frontend.load_state_dict(other.state_dict(), strict=False)
    return frontend


@torch.no_grad()
def encoded(frontend: VisionFrontend, **encoder: Any) -> Tensor:
    last: Tensor = tiny_encoder(depth=DEPTH, **encoder)(tokens_of(frontend)).last
    return last


@pytest.mark.parametrize("cls_token", [True, False])
def test_bias__of_each_block_is_its_own_table_at_the_reference_index(cls_token: bool) -> None:
    frontend = build("relative_per_block", cls_token=cls_token)
    bias = tokens_of(frontend).attention_bias
    assert bias is not None
    assert bias.shape == (DEPTH, 1, 2, 9 + cls_token, 9 + cls_token)
    own, index = tables(frontend), slow_index(3, cls_token)
    assert len(own) == DEPTH
    for block, table in zip(bias, own, strict=True):
        assert torch.equal(block[0], table[index].permute(2, 0, 1))
    assert not torch.equal(own[0], own[1])


def test_names__are_those_of_the_blocks() -> None:
    names = [name for name in build("relative_per_block").state_dict() if "relative" in name]
    assert names == [f"relative.{i}.relative_position_bias_table" for i in range(DEPTH)]


def test_tables__start_at_zero_and_so_without_effect() -> None:
    frontend = build("relative_per_block", move=False)
    assert [float(table.detach().abs().max()) for table in tables(frontend)] == [0.0] * DEPTH
    shared = like(build("relative", move=False), frontend)
    assert torch.equal(encoded(frontend), encoded(shared))
    none = like(build("none"), frontend)
    torch.testing.assert_close(encoded(frontend), encoded(none), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_tables__all_alike_equal_the_shared_one(norm_position: str) -> None:
    shared = build("relative")
    frontend = like(build("relative_per_block"), shared)
    assert not torch.allclose(encoded(frontend), encoded(shared))
    with torch.no_grad():
        for table in tables(frontend):
            table.copy_(tables(shared)[0])
    found = encoded(frontend, norm_position=norm_position)
    assert torch.equal(found, encoded(shared, norm_position=norm_position))


def test_tables__learn_each_from_its_block() -> None:
    frontend, encoder = build("relative_per_block"), tiny_encoder(depth=DEPTH)
    gradients = []
    for tail in (0, 1):  # once as it is, once with the blocks above the first left out
        frontend.zero_grad()
        loss = shortened(encoder, tail)(tokens_of(frontend)).last
        (loss * normal(2, *loss.shape)).sum().backward()
        gradients.append([table.grad for table in tables(frontend)])
    assert all(grad is not None and float(grad.abs().max()) > 0 for grad in gradients[0])
    first, *others = gradients[1]
    assert first is not None
    assert float(first.abs().max()) > 0
    assert all(grad is None or float(grad.abs().max()) == 0 for grad in others)


def shortened(encoder: Encoder, keep: int) -> Encoder:
    """All blocks, or the first `keep` with the others turned into nothing."""
    if keep:
        for block in encoder._typed_blocks()[keep:]:
            for scale in (block.ls1, block.ls2):
                torch.nn.init.zeros_(scale.gamma)
    return encoder
