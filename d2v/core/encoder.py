"""The encoder that every modality shares: a stack of timm's vision-transformer parts.

Letters: B batch, T tokens, D width, H heads, L blocks, K blocks that become targets.
"""

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from d2v.core.targets import TargetFeature
from d2v.settings import Settings
from d2v.types import Tokens


class EncoderSettings(Settings):
    """Shape and regularisation of the encoder (reference section 2; defaults: published ViT-B)."""

    dim: int = Field(768, ge=1)
    """Width D."""
    depth: int = Field(12, ge=1)
    """Blocks L."""
    num_heads: int = Field(12, ge=1)
    """Attention heads H; divides `dim`."""
    mlp_ratio: float = Field(4.0, gt=0)
    """Hidden width of the feed-forward part over `dim`."""
    norm_position: Literal["pre", "post"] = "pre"
    """pre: norm before each branch, final norm after the stack; post: norm after each residual."""
    final_norm: bool = True
    """Whether a norm follows the last block of the pre variant; false where the weights come from a
    model that was fine-tuned with a norm of its own in its place (reference section 5.5)."""
    norm_eps: float = Field(1e-6, gt=0)
    """Epsilon of every layer norm (official vision 1e-6, fairseq 1e-5; reference P21)."""
    layer_scale: float | None = Field(1e-4, gt=0)
    """Initial value of the learned scale on each branch; null for none."""
    input_norm: bool = False
    """Normalise the tokens, and drop out of them, before the first block (fairseq's encoder of
    post-norm blocks; reference section 2.2). Leave it off where the frontend ends in a norm."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """On attention output, after the feed-forward part, and after `input_norm`."""
    activation_dropout: float = Field(0.0, ge=0, lt=1)
    """Inside the feed-forward part, after GELU."""
    attention_dropout: float = Field(0.05, ge=0, lt=1)
    """On attention weights."""
    drop_path: float = Field(0.25, ge=0, lt=1)
    """Stochastic depth of the last block; linear in depth from 0 (reference section 2.1)."""
    layerdrop: float = Field(0.0, ge=0, lt=1)
    """Chance that training skips a whole block, one draw a block (reference section 1.5)."""
    init: Literal["truncated", "normal"] = "truncated"
    """How weights are drawn. truncated: a normal clipped at one deviation, the branches' outputs
    divided by sqrt(2 l) in block l (official vision); normal: as drawn (fairseq's BERT init)."""
    init_std: float = Field(0.02, gt=0)
    """Deviation of that normal. 0.02 is the published figure for D = 768; a narrow encoder needs
    more (about 1 / sqrt(D)), or its branches start so small that the targets' epsilon swallows
    them."""
    attention: Literal["auto", "fused", "matmul"] = "auto"
    """Attention kernel. auto: matmul where that is faster (bfloat16 on a CPU), else fused."""

    @model_validator(mode="after")
    def _check(self) -> "EncoderSettings":
        if self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} is not divisible by num_heads {self.num_heads}")
        return self


class BlockOutput(NamedTuple):
    """The four features of one block that can become targets, each (B, T, D)."""

    self_attention: Tensor
    ffn: Tensor
    ffn_residual: Tensor
    end_of_block: Tensor


class Encoded(NamedTuple):
    """What the encoder returns.

    Args:
        last: (B, T, D) its output.
        features: those that were asked for.
        before_norm: the output before the final norm, the same where there is none.
    """

    last: Tensor
    features: list[Tensor]
    before_norm: Tensor


class EncoderBlock(Block):
    """timm's block, same parameter names, with the norm before or after and all features shown."""

    def __init__(self, settings: EncoderSettings, drop_path: float) -> None:
        super().__init__(
            settings.dim,
            settings.num_heads,
            mlp_ratio=settings.mlp_ratio,
            qkv_bias=True,
            proj_drop=settings.dropout,
            attn_drop=settings.attention_dropout,
            init_values=settings.layer_scale,
            drop_path=drop_path,
            norm_layer=partial(nn.LayerNorm, eps=settings.norm_eps),  # type: ignore[arg-type]  # timm calls it
        )
        self.mlp.drop1 = nn.Dropout(settings.activation_dropout)
        self.norm_position = settings.norm_position

    def forward(self, x: Tensor, attention_bias: Tensor | None = None) -> BlockOutput:  # type: ignore[override]  # returns the features too
        """One block.

        Args:
            x: (B, T, D).
            attention_bias: (1 or B, H or 1, T, T) float added to the logits; None for none.

        Returns:
            Features before any residual addition (`self_attention`, `ffn`: after layer scale,
            before drop-path), the sum before the closing norm (`ffn_residual`), and the output.
        """
        if self.norm_position == "pre":
            attended = self.ls1(self.attn(self.norm1(x), attn_mask=attention_bias))
            x = x + self.drop_path1(attended)
            ffn = self.ls2(self.mlp(self.norm2(x)))
            out = x + self.drop_path2(ffn)
            return BlockOutput(attended, ffn, out, out)
        attended = self.ls1(self.attn(x, attn_mask=attention_bias))
        x = self.norm1(x + self.drop_path1(attended))
        ffn = self.ls2(self.mlp(x))
        summed = x + self.drop_path2(ffn)
        return BlockOutput(attended, ffn, summed, self.norm2(summed))


class Encoder(nn.Module):
    """L blocks and, for the pre-norm variant, a final norm."""

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        self.settings = settings
        rates = torch.linspace(0, settings.drop_path, settings.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(EncoderBlock(settings, rate) for rate in rates)
        has_norm = {
            "input_norm": settings.input_norm,
            "norm": settings.norm_position == "pre" and settings.final_norm,
        }
        norms = {
            name: nn.LayerNorm(settings.dim, eps=settings.norm_eps) if wanted else nn.Identity()
            for name, wanted in has_norm.items()
        }
        self.input_norm, self.norm = norms["input_norm"], norms["norm"]
        self.dropout = nn.Dropout(settings.dropout if settings.input_norm else 0.0)

    def forward(
        self, tokens: Tokens, collect: TargetFeature = "end_of_block", top_k: int = 0
    ) -> Encoded:
        """Encode, and keep one feature of the top blocks.

        Args:
            tokens: values (B, T, D), padding, attention bias.
            collect: which feature of a block to keep.
            top_k: of how many of the last blocks; 0 for none.

        Returns:
            Output after the final norm (B, T, D), and `top_k` features (B, T, D) in block order.
        """
        biases = _attention_biases(tokens, len(self.blocks))
        # Half precision is for matrix products: the residual stream and the targets stay float32.
        x = tokens.values if tokens.values.dtype == torch.float64 else tokens.values.float()
        x = self.dropout(self.input_norm(x))
        features = []
        skipped = self._skipped()
        for depth, block in enumerate(self.blocks, start=1):
            if depth in skipped:
                continue
            output: BlockOutput = block(x, biases[depth - 1])
            x = output.end_of_block
            if depth > len(self.blocks) - top_k:
                features.append(getattr(output, collect))
        return Encoded(self.norm(x), features, x)

    def use_fused_attention(self, fused: bool) -> None:
        """Choose the attention kernel of every block; results agree up to rounding."""
        for block in self._typed_blocks():
            block.attn.fused_attn = fused

    def _skipped(self) -> set[int]:
        """Numbers of the blocks that layerdrop leaves out of this pass, 1..L."""
        rate = self.settings.layerdrop
        if not self.training or rate == 0:
            return set()
        # Drawn on the CPU wherever the model is: asking a GPU for them would mean waiting for it.
        draws = torch.rand(len(self.blocks), device="cpu").tolist()
        return {depth for depth, draw in enumerate(draws, start=1) if draw < rate}

    def _typed_blocks(self) -> list[Any]:
        return list(self.blocks)  # timm's attributes are not typed

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights anew, as `settings.init` says.

        Source: reference sections 2.1 ("Init"; official pre-training clips at one deviation), 2.2.
        """
        initialise_linear(self.modules(), self.settings, generator)
        if self.settings.init == "normal":
            return
        for number, block in enumerate(self._typed_blocks(), start=1):
            block.attn.proj.weight.div_(math.sqrt(2 * number))
            block.mlp.fc2.weight.div_(math.sqrt(2 * number))


@torch.no_grad()
def initialise_linear(
    modules: Iterable[nn.Module], settings: EncoderSettings, generator: torch.Generator
) -> None:
    """Weights of linear and convolution layers drawn as the encoder's; biases 0."""
    for module in modules:
        if isinstance(module, nn.Linear | nn.Conv2d):
            initialise_normal(module.weight, settings, generator)
            if module.bias is not None:
                module.bias.zero_()


@torch.no_grad()
def initialise_normal(
    weight: Tensor, settings: EncoderSettings, generator: torch.Generator
) -> None:
    """N(0, init_std), clipped at one deviation where `init` is truncated."""
    std = settings.init_std
    if settings.init == "normal":
        nn.init.normal_(weight, std=std, generator=generator)
    else:
        nn.init.trunc_normal_(weight, std=std, a=-std, b=std, generator=generator)


def _attention_biases(tokens: Tokens, depth: int) -> Sequence[Tensor | None]:
    """Bias and padding as one additive tensor for each block, None where there is neither."""
    bias, padding = tokens.attention_bias, tokens.padding
    if padding is not None:
        blocked = torch.zeros(padding.shape, dtype=tokens.values.dtype, device=padding.device)
        blocked = blocked.masked_fill_(padding, float("-inf"))[:, None, None, :]  # (B, 1, 1, T)
        bias = blocked if bias is None else bias + blocked
    if bias is not None and bias.ndim == 5:  # one a block
        return bias.unbind()
    return [bias] * depth
