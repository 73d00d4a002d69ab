"""Proves: what fairseq's encoder adds: input norm, its dropouts, layerdrop, first weights.

And an encoder of pre-norm blocks that ends without a norm.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2v.core.encoder import Encoder
from d2v.types import Tokens
from tests.maths_case import normal, seeded, tiny_encoder, tiny_settings

POST: dict[str, Any] = {"norm_position": "post", "layer_scale": None, "norm_eps": 1e-5}


def blocks_alone(encoder: Encoder, x: Tensor, skipped: set[int] = frozenset()) -> Tensor:  # type: ignore[assignment]  # nothing adds to it
    for number, block in enumerate(encoder.blocks, start=1):
        x = x if number in skipped else block(x).end_of_block
    return x


def test_input_norm__comes_before_the_first_block() -> None:
    encoder = tiny_encoder(input_norm=True, **POST)
    x = 5 * normal(1, 2, 5, 12)
    norm = encoder.input_norm
    assert isinstance(norm, nn.LayerNorm)
    expected = blocks_alone(encoder, F.layer_norm(x, (12,), norm.weight, norm.bias, 1e-5))
    torch.testing.assert_close(encoder(Tokens(values=x)).last, expected, rtol=1e-12, atol=1e-12)


def test_input_norm__off_leaves_the_tokens_alone_and_has_no_weights() -> None:
    encoder = tiny_encoder(dropout=0.5, **POST).eval()
    x = 5 * normal(1, 2, 5, 12)
    torch.testing.assert_close(encoder(Tokens(values=x)).last, blocks_alone(encoder, x))
    assert [name for name, _ in encoder.named_parameters() if "input_norm" in name] == []


@pytest.mark.parametrize("input_norm", [False, True])
def test_dropout__of_the_input_acts_after_its_norm(input_norm: bool) -> None:
    encoder = tiny_encoder(input_norm=input_norm, dropout=0.5, **POST).train()
    seen: list[Tensor] = []
    encoder.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    encoder(Tokens(values=normal(2, 8, 16, 12)))
    share = float((seen[0] == 0).double().mean())
    assert share == pytest.approx(0.5 if input_norm else 0.0, abs=0.04)


def test_activation_dropout__acts_inside_the_feed_forward_part_alone() -> None:
    encoder = Encoder(tiny_settings(dropout=0.2, activation_dropout=0.3, attention_dropout=0.1))
    for block in encoder._typed_blocks():
        assert block.mlp.drop1.p == 0.3
        assert block.mlp.drop2.p == 0.2
        assert block.attn.proj_drop.p == 0.2
        assert block.attn.attn_drop.p == 0.1


# Layerdrop


def test_layerdrop__skips_whole_blocks_at_its_rate() -> None:
    encoder = tiny_encoder(layerdrop=0.3, depth=4, **POST).train()
    torch.manual_seed(3)
    rates = torch.zeros(4)
    for _ in range(2_000):
        for number in encoder._skipped():
            rates[number - 1] += 1 / 2_000
    assert rates.tolist() == pytest.approx([0.3] * 4, abs=0.04)


def test_layerdrop__a_skipped_block_changes_nothing_and_gets_no_gradient() -> None:
    encoder = tiny_encoder(layerdrop=0.5, depth=4, **POST).train()
    x = normal(4, 2, 5, 12)
    for seed in range(20):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        skipped = encoder._skipped()
        torch.set_rng_state(state)
        encoder.zero_grad()
        last = encoder(Tokens(values=x)).last
        torch.testing.assert_close(last, blocks_alone(encoder, x, skipped))
        if len(skipped) < 4:
            last.square().sum().backward()
        for number, block in enumerate(encoder.blocks, start=1):
            without = all(parameter.grad is None for parameter in block.parameters())
            assert without == (number in skipped)


def test_layerdrop__leaves_evaluation_whole() -> None:
    encoder = tiny_encoder(layerdrop=0.9, depth=4, **POST).eval()
    x = normal(4, 2, 5, 12)
    encoded = encoder(Tokens(values=x), "ffn", 4)
    torch.testing.assert_close(encoded.last, blocks_alone(encoder, x))
    assert len(encoded.features) == 4


# First weights


@torch.no_grad()
def test_initialise__normal_is_as_drawn_in_every_block() -> None:
    encoder = Encoder(tiny_settings(dim=96, depth=4, num_heads=4, init="normal", **POST))
    encoder.initialise(seeded(0))
    for block in encoder._typed_blocks():
        for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
            assert float(layer.weight.std()) == pytest.approx(0.02, rel=0.03)
            assert float(layer.weight.abs().max()) > 0.06  # not clipped
            assert float(layer.bias.abs().max()) == 0


# No final norm


def test_final_norm__off_leaves_the_last_blocks_output_and_has_no_weights() -> None:
    encoder, with_norm = tiny_encoder(final_norm=False), tiny_encoder()
    missing, unexpected = with_norm.load_state_dict(encoder.state_dict(), strict=False)
    assert (missing, unexpected) == (["norm.weight", "norm.bias"], [])
    x = 5 * normal(5, 2, 5, 12)
    encoded = encoder(Tokens(values=x))
    assert torch.equal(encoded.last, encoded.before_norm)
    torch.testing.assert_close(encoded.last, blocks_alone(encoder, x))
    assert torch.equal(encoded.last, with_norm(Tokens(values=x)).before_norm)
