"""Proves: the encoder is timm's (pre-norm) and PyTorch's (post-norm), feature by feature.

Padding and bias act as defined.
"""

import math
from typing import Any, Literal, get_args

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from d2v.core.targets import TargetFeature
from d2v.types import Tokens
from tests.maths_case import normal, tail_padding, tiny_encoder

FEATURES = get_args(TargetFeature)
NormPosition = Literal["pre", "post"]


def gradients(out: Tensor, module: nn.Module) -> dict[str, Tensor]:
    """Of a fixed random projection of the output."""
    module.zero_grad()
    (out * normal(99, *out.shape)).sum().backward()
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def test_pre_norm__equals_timms_vision_transformer() -> None:
    encoder = tiny_encoder()
    timm = VisionTransformer(
        img_size=4, patch_size=2, embed_dim=12, depth=3, num_heads=2, init_values=0.1
    ).double()
    missing, unexpected = timm.load_state_dict(encoder.state_dict(), strict=False)
    assert unexpected == []
    assert {name.split(".")[0] for name in missing} == {
        "cls_token",
        "pos_embed",
        "patch_embed",
        "head",
    }
    x = normal(1, 3, 7, 12)
    ours, theirs = encoder(Tokens(values=x)).last, timm.norm(timm.blocks(x))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    of_ours, of_theirs = gradients(ours, encoder), gradients(theirs, timm)
    assert set(of_ours) == set(of_theirs)
    assert len(of_ours) == len(list(encoder.parameters()))
    for name, gradient in of_ours.items():
        torch.testing.assert_close(gradient, of_theirs[name], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_post_norm__equals_torchs_transformer_layer(padded: bool) -> None:
    encoder = tiny_encoder(norm_position="post", layer_scale=None, norm_eps=1e-5)
    x = normal(2, 3, 7, 12)
    padding = tail_padding([7, 4, 1], 7) if padded else None
    theirs = x
    for block in encoder.blocks:
        layer = nn.TransformerEncoderLayer(
            12, 2, 48, dropout=0, activation="gelu", batch_first=True, norm_first=False
        ).double()
        own = block.state_dict()
        names = {
            "self_attn.in_proj_": "attn.qkv.",
            "self_attn.out_proj.": "attn.proj.",
            "linear1.": "mlp.fc1.",
            "linear2.": "mlp.fc2.",
            "norm1.": "norm1.",
            "norm2.": "norm2.",
        }
        layer.load_state_dict(
            {a + kind: own[b + kind] for a, b in names.items() for kind in ("weight", "bias")}
        )
        theirs = layer(theirs, src_key_padding_mask=padding)
    ours = encoder(Tokens(values=x, padding=padding)).last
    keep = torch.ones(3, 7, dtype=torch.bool) if padding is None else ~padding
    torch.testing.assert_close(ours[keep], theirs[keep], rtol=1e-10, atol=1e-10)


def slow_attention(block: Any, x: Tensor, bias: Tensor, padding: Tensor) -> Tensor:
    """One query of one head of one sample at a time, as the formula is written."""
    weight, offset = block.attn.qkv.weight, block.attn.qkv.bias
    num_samples, num_tokens, dim = x.shape
    heads = block.attn.num_heads
    size = dim // heads
    rows = []
    for b in range(num_samples):
        for i in range(num_tokens):
            parts = []
            for h in range(heads):
                q, k, v = (
                    x[b] @ weight[start : start + size].T + offset[start : start + size]
                    for start in (part * dim + h * size for part in range(3))
                )
                logits = torch.stack(
                    [q[i] @ k[j] / math.sqrt(size) + bias[h, i, j] for j in range(num_tokens)]
                )
                share = torch.where(padding[b], torch.zeros(()).double(), (logits - 5).exp())
                parts.append(share @ v / share.sum())
            rows.append(block.attn.proj(torch.cat(parts)))
    return torch.stack(rows).view(x.shape)


@torch.no_grad()
def slow_block(block: Any, x: Tensor, bias: Tensor, padding: Tensor) -> dict[str, Tensor]:
    """The four features out of the block's submodules."""
    mlp, post = block.mlp, block.norm_position == "post"

    def feed_forward(u: Tensor) -> Tensor:
        inner = mlp.fc1(u)
        gelu = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))  # exact, not the tanh variant
        scaled: Tensor = block.ls2.gamma * mlp.fc2(gelu)
        return scaled

    attended = block.ls1.gamma * slow_attention(block, x if post else block.norm1(x), bias, padding)
    middle = block.norm1(x + attended) if post else x + attended
    ffn = feed_forward(middle if post else block.norm2(middle))
    summed = middle + ffn
    return {
        "self_attention": attended,
        "ffn": ffn,
        "ffn_residual": summed,
        "end_of_block": block.norm2(summed) if post else summed,
    }


@pytest.mark.parametrize("fused", [False, True], ids=["matmul", "fused"])
@pytest.mark.parametrize("norm_position", get_args(NormPosition))
def test_features__equal_the_formulas_block_by_block(norm_position: str, fused: bool) -> None:
    encoder = tiny_encoder(norm_position=norm_position)
    encoder.use_fused_attention(fused)
    bias, padding = normal(4, 1, 2, 5, 5), tail_padding([5, 3], 5)
    x = normal(3, 2, 5, 12)
    tokens = Tokens(values=x, attention_bias=bias, padding=padding)
    slow: dict[str, list[Tensor]] = {name: [] for name in FEATURES}
    for block in encoder.blocks:
        outputs = slow_block(block, x, bias[0], padding)
        for name, output in outputs.items():
            slow[name].append(output)
        x = outputs["end_of_block"]
    keep = ~padding
    for name in FEATURES:
        for top_k in (0, 1, 2, 3):
            last, fast, before_norm = encoder(tokens, name, top_k)
            assert len(fast) == top_k
            for one, other in zip(fast, slow[name][3 - top_k :], strict=True):
                torch.testing.assert_close(one[keep], other[keep], rtol=1e-10, atol=1e-10)
    expected = encoder.norm(x) if norm_position == "pre" else x
    torch.testing.assert_close(last[keep], expected[keep], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(before_norm[keep], x[keep], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("norm_position", get_args(NormPosition))
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("fused", [False, True], ids=["matmul", "fused"])
def test_padding__has_no_influence_on_data(
    norm_position: str, with_bias: bool, fused: bool
) -> None:
    encoder = tiny_encoder(norm_position=norm_position)
    encoder.use_fused_attention(fused)
    bias = normal(5, 1, 2, 6, 6) if with_bias else None
    x = normal(6, 1, 6, 12)
    padding = tail_padding([4], 6)
    other = torch.where(padding.unsqueeze(2), 50 * normal(7, *x.shape), x)
    one, two = (
        encoder(Tokens(values=values, padding=padding, attention_bias=bias)).last[:, :4]
        for values in (x, other)
    )
    assert torch.equal(one, two)
    short = None if bias is None else bias[..., :4, :4]
    alone = encoder(Tokens(values=x[:, :4], attention_bias=short)).last
    torch.testing.assert_close(one, alone, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_attention__fused_and_matmul_agree_in_value_and_gradient(padded: bool) -> None:
    encoder = tiny_encoder()
    bias = nn.Parameter(normal(8, 1, 2, 7, 7))
    padding = tail_padding([7, 5, 2], 7) if padded else None
    found = []
    for fused in (True, False):
        encoder.use_fused_attention(fused)
        assert {block.attn.fused_attn for block in encoder._typed_blocks()} == {fused}
        bias.grad = None
        tokens = Tokens(values=normal(9, 3, 7, 12), attention_bias=bias, padding=padding)
        out = encoder(tokens).last
        found.append({"out": out, **gradients(out[:, :2], encoder), "bias": bias.grad})
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-9, atol=1e-10)


def test_key_bias__cancels_in_the_softmax() -> None:
    encoder = tiny_encoder()
    tokens = Tokens(values=normal(10, 2, 5, 12))
    before = encoder(tokens).last.detach()
    with torch.no_grad():
        for block in encoder._typed_blocks():
            block.attn.qkv.bias[12:24] += 3.0
    torch.testing.assert_close(encoder(tokens).last, before, rtol=1e-10, atol=1e-10)


def test_layer_norm__has_the_settings_epsilon() -> None:
    encoder = tiny_encoder(norm_eps=0.5)
    x = normal(11, 2, 3, 12)
    block = encoder._typed_blocks()[0]
    expected = F.layer_norm(x, (12,), block.norm1.weight, block.norm1.bias, eps=0.5)
    torch.testing.assert_close(block.norm1(x), expected)
    assert isinstance(encoder.norm, nn.LayerNorm)
    assert encoder.norm.eps == 0.5


# A bias for each block


@pytest.mark.parametrize("norm_position", get_args(NormPosition))
@pytest.mark.parametrize("samples", [1, 2], ids=["shared by samples", "one a sample"])
def test_bias__of_each_block_acts_there_beside_padding(samples: int, norm_position: str) -> None:
    encoder = tiny_encoder(norm_position=norm_position)
    biases, padding = normal(12, 3, samples, 2, 5, 5), tail_padding([5, 3], 5)
    x = normal(13, 2, 5, 12)
    found = encoder(Tokens(values=x, attention_bias=biases, padding=padding)).before_norm
    for row in range(2):
        one = x[row : row + 1]
        for block, bias in zip(encoder.blocks, biases, strict=True):
            own = bias[min(row, samples - 1)]
            one = slow_block(block, one, own, padding[row : row + 1])["end_of_block"]
        keep = ~padding[row]
        torch.testing.assert_close(found[row, keep], one[0, keep], rtol=1e-10, atol=1e-10)


def test_bias__the_same_in_every_block_equals_a_shared_one() -> None:
    encoder, x, bias = tiny_encoder(), normal(14, 2, 5, 12), normal(15, 1, 2, 5, 5)
    shared = encoder(Tokens(values=x, attention_bias=bias)).last
    stacked = bias.expand(3, -1, -1, -1, -1)
    assert torch.equal(encoder(Tokens(values=x, attention_bias=stacked)).last, shared)
    other = stacked.clone()
    other[1] = 0
    assert not torch.allclose(encoder(Tokens(values=x, attention_bias=other)).last, shared)
