"""From pictures to tokens: normalised pixels, patches, mask vector, CLS, positions.

Letters: B batch, T patches, D width, H heads; C, S channels and side of a picture in pixels.
"""

import math
from collections.abc import Iterable
from typing import Literal

import torch
from pydantic import Field, model_validator
from timm.layers import PatchEmbed, RelPosBias, build_sincos2d_pos_embed
from torch import Tensor, nn

from d2v.core.encoder import EncoderSettings, initialise_linear, initialise_normal
from d2v.errors import UsageError
from d2v.settings import Settings
from d2v.types import Batch, Frontend, Mask, Tokens

Positions = Literal["relative", "relative_per_block", "sincos_2d", "learned", "none"]


class FrontendSettings(Settings):
    """Geometry of the picture and how positions enter (reference section 2.1)."""

    image_size: int = Field(224, ge=1)
    """Side of the square that the model sees, in pixels."""
    patch_size: int = Field(16, ge=1)
    """Side of a patch, in pixels; divides `image_size`."""
    channels: Literal[1, 3] = 3
    """1: greyscale, 3: RGB."""
    positions: Positions = "relative"
    """relative: a bias on attention shared by all blocks (BEiT); relative_per_block: a table for
    each, as published fine-tuned models have (reference P10); the others are added to tokens."""
    patch_init: Literal["encoder", "xavier"] = "encoder"
    """How the patch embedding and CLS start. encoder: as the encoder's weights, bias 0 (data2vec);
    xavier: Xavier-uniform with a bias as PyTorch's convolutions have, CLS N(0, 1) (data2vec 2.0,
    reference section 4.5)."""
    cls_token: bool = True
    """Prepend a learned vector that is never masked and never a target."""
    pixel_mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Subtracted from pixels scaled to 0..1, a value a channel (ImageNet's)."""
    pixel_std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Divides them, a value a channel (ImageNet's)."""

    @model_validator(mode="after")
    def _check(self) -> "FrontendSettings":
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not divisible by patch_size {self.patch_size}"
            )
        if len(self.pixel_mean) != self.channels or len(self.pixel_std) != self.channels:
            raise ValueError(f"pixel_mean and pixel_std need {self.channels} values, one a channel")
        if min(self.pixel_std) <= 0:
            raise ValueError("pixel_std must be above 0")
        return self

    @property
    def grid_side(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size


class VisionFrontend(Frontend):
    """Patch embedding with a mask vector, optional CLS and positions."""

    def __init__(self, settings: FrontendSettings, encoder: EncoderSettings) -> None:
        super().__init__()
        dim, side = encoder.dim, settings.grid_side
        num_tokens = side * side + settings.cls_token
        self.patch_embed = PatchEmbed(
            settings.image_size, settings.patch_size, settings.channels, dim
        )
        self.mask_token = nn.Parameter(torch.empty(dim))
        self.cls_token = nn.Parameter(torch.empty(dim)) if settings.cls_token else None
        self.relative: RelPosBias | nn.ModuleList | None = None
        self.positions: nn.Parameter | None = None
        if settings.positions == "relative":
            self.relative = RelPosBias((side, side), encoder.num_heads, int(settings.cls_token))
        elif settings.positions == "relative_per_block":
            self.relative = nn.ModuleList(
                RelPosBias((side, side), encoder.num_heads, int(settings.cls_token))
                for _ in range(encoder.depth)
            )
        elif settings.positions == "learned":
            self.positions = nn.Parameter(torch.empty(num_tokens, dim))
        elif settings.positions == "sincos_2d":
            if dim % 4:
                raise UsageError(
                    f"encoder.dim is {dim} and modality.frontend.positions is sincos_2d",
                    expected="encoder.dim divisible by 4",
                    remedy="Change one of the two.",
                )
            table = sincos_table(side, dim)
            if settings.cls_token:
                table = torch.cat([torch.zeros(1, dim), table])
            self.register_buffer("sincos", table, persistent=False)
        mean = torch.tensor(settings.pixel_mean).view(-1, 1, 1) * 255
        std = torch.tensor(settings.pixel_std).view(-1, 1, 1) * 255
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)
        self.settings, self.encoder_settings = settings, encoder

    def features(self, batch: Batch) -> Tensor:
        """Patch embeddings. (B, C, S, S) uint8 -> (B, T, D)."""
        mean, std = self.get_buffer("pixel_mean"), self.get_buffer("pixel_std")
        pixels = (batch.inputs.float() - mean) / std
        embedded: Tensor = self.patch_embed(pixels)
        return embedded

    def forward(self, features: Tensor, mask: Mask | None, padding: Tensor | None) -> Tokens:
        """Tokens for the encoder.

        Args:
            features: (B, T, D) patch embeddings.
            mask: masked patches are replaced by one learned vector; None masks nothing.
            padding: None; pictures have one size.

        Returns:
            (B, T + CLS, D) with positions, CLS first; relative bias (1, H, T + CLS, T + CLS), or
            one for each block.
        """
        x = features
        if mask is not None:
            x = torch.where(mask.predict.unsqueeze(-1), self.mask_token.to(x.dtype), x)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.to(x.dtype).expand(x.shape[0], 1, -1), x], dim=1)
        if self.settings.positions == "sincos_2d":
            x = x + self.get_buffer("sincos").to(x.dtype)
        if self.positions is not None:
            x = x + self.positions.to(x.dtype)
        return Tokens(
            values=x,
            attention_bias=self._relative_bias(),
            num_prefix=int(self.settings.cls_token),
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Of the patches."""
        return self.settings.grid_side, self.settings.grid_side

    def _relative_bias(self) -> Tensor | None:
        if isinstance(self.relative, nn.ModuleList):
            return torch.stack([table.get_bias() for table in self._tables()])
        return None if self.relative is None else self.relative.get_bias()

    def _tables(self) -> list[RelPosBias]:
        """The relative tables, one or one a block."""
        return [module for module in self.modules() if isinstance(module, RelPosBias)]

    def calibrate(self, batches: Iterable[Batch]) -> None:
        """Nothing: mean and deviation of pixels are settings."""

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """As the encoder's weights; the relative table at zero (reference 2.1, "Init")."""
        initialise_linear(self.modules(), self.encoder_settings, generator)
        for vector in (self.mask_token, self.cls_token, self.positions):
            if vector is not None:
                initialise_normal(vector, self.encoder_settings, generator)
        if self.settings.patch_init == "xavier":
            self._initialise_patches(generator)
        for table in self._tables():
            table.relative_position_bias_table.zero_()

    def _initialise_patches(self, generator: torch.Generator) -> None:
        """As data2vec 2.0 does, so that patches are not small beside the fixed positions."""
        weight, bias = self.patch_embed.proj.weight, self.patch_embed.proj.bias
        nn.init.xavier_uniform_(weight.flatten(1), generator=generator)  # a view: filled in place
        if bias is not None:
            bound = 1 / math.sqrt(weight[0].numel())
            nn.init.uniform_(bias, -bound, bound, generator=generator)
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, generator=generator)


def sincos_table(side: int, dim: int) -> Tensor:
    """Fixed positions of a grid's patches: (T, D) float32.

    First the sines and cosines of the column, then those of the row (reference section 4.4). timm
    has the sines of row and column first.
    """
    table = build_sincos2d_pos_embed([side, side], dim)
    return table.view(-1, 2, 2, dim // 4).flip(2).transpose(1, 2).flatten(1)
