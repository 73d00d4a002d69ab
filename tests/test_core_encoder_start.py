"""Proves: stochastic depth and first weights are those of reference section 2.1."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from d2v.core.encoder import Encoder
from tests.maths_case import seeded, shaken, tiny_settings


def test_drop_path__is_linear_in_depth_from_0() -> None:
    encoder = Encoder(tiny_settings(depth=6, drop_path=0.25))
    for which in ("drop_path1", "drop_path2"):
        modules = [getattr(block, which) for block in encoder.blocks]
        rates = [getattr(module, "drop_prob", 0.0) for module in modules]
        assert rates == pytest.approx([0.25 * i / 5 for i in range(6)])


def test_drop_path__drops_whole_samples_and_scales_the_rest() -> None:
    drop: Any = Encoder(tiny_settings(depth=2, drop_path=0.25)).train().blocks[1].drop_path1
    torch.manual_seed(0)
    dropped = drop(torch.ones(20_000, 2, 3, dtype=torch.float64))
    assert set(dropped.unique().tolist()) == {0.0, 1 / 0.75}
    assert torch.equal(dropped, dropped[:, :1, :1].expand_as(dropped))
    assert float(dropped.mean()) == pytest.approx(1, abs=0.03)


# First weights


@torch.no_grad()
def test_initialise__follows_the_reference() -> None:
    std, depth = 0.02, 4
    encoder = Encoder(tiny_settings(dim=96, depth=depth, num_heads=4, layer_scale=1e-4))
    encoder.initialise(seeded(0))
    density = math.exp(-0.5) / math.sqrt(2 * math.pi)
    clipped = std * math.sqrt(1 - 2 * density / math.erf(1 / math.sqrt(2)))  # 0.0108
    for number, block in enumerate(encoder._typed_blocks(), start=1):
        for layer, divisor in (
            (block.attn.qkv, 1.0),
            (block.mlp.fc1, 1.0),
            (block.attn.proj, math.sqrt(2 * number)),
            (block.mlp.fc2, math.sqrt(2 * number)),
        ):
            assert float(layer.weight.abs().max()) <= std / divisor * (1 + 1e-6)
            assert float(layer.weight.abs().max()) > 0.98 * std / divisor
            assert float(layer.weight.std()) == pytest.approx(clipped / divisor, rel=0.03)
            assert float(layer.weight.mean().abs()) < 5 * clipped / 96
            assert float(layer.bias.abs().max()) == 0
        for norm in (block.norm1, block.norm2):
            assert norm.weight.unique().tolist() == [1]
            assert norm.bias.unique().tolist() == [0]
            assert norm.eps == 1e-6
        for scale in (block.ls1, block.ls2):
            assert scale.gamma.unique().tolist() == pytest.approx([1e-4])


def test_initialise__depends_on_its_generator_alone() -> None:
    def weights(seed: int, shake: int) -> Tensor:
        encoder = Encoder(tiny_settings())
        shaken(encoder, shake)
        state = torch.get_rng_state()
        encoder.initialise(seeded(seed))
        assert torch.equal(torch.get_rng_state(), state)
        return torch.cat([p.flatten() for n, p in encoder.named_parameters() if p.ndim > 1])

    assert torch.equal(weights(1, 5), weights(1, 6))
    assert not torch.equal(weights(1, 5), weights(2, 5))
