"""Images as a modality: the promises of modalities/base.py kept."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Generator, Tensor
from torch.nn.functional import adaptive_avg_pool2d

from d2v.core.encoder import EncoderSettings
from d2v.modalities.base import (
    Features,
    LengthUnit,
    Modality,
    SourceSettings,
    Summarised,
)
from d2v.modalities.figures import ModalityPlan
from d2v.modalities.inputs import input_items
from d2v.modalities.vision.augment import AugmentSettings, augment, middle
from d2v.modalities.vision.decode import read_picture
from d2v.modalities.vision.frontend import FrontendSettings, VisionFrontend
from d2v.modalities.vision.masks import MaskSettings, patch_masks
from d2v.modalities.vision.pictures import draw_masks
from d2v.modalities.vision.source import PICTURES, read_source
from d2v.modalities.vision.store import StoreSettings, encode_image
from d2v.samples import SourceItem, StoredSample
from d2v.settings import Settings
from d2v.types import Batch, Frontend, Mask

_BASELINE_SIDE = 32
"""Raw pixels are averaged down to this side: more would drown a linear probe."""


class VisionSettings(Settings):
    """Everything about images."""

    name: Literal["vision"]
    frontend: FrontendSettings = FrontendSettings()
    mask: MaskSettings = MaskSettings()
    augment: AugmentSettings = AugmentSettings()
    store: StoreSettings = StoreSettings()

    prepare_sections: ClassVar[tuple[str, ...]] = ("store",)
    """Sections that decide what preparing writes."""
    model_sections: ClassVar[tuple[str, ...]] = ("frontend",)
    """Sections that decide which tensors a model has."""

    @property
    def has_cls(self) -> bool:
        """Whether a CLS token stands before the patches."""
        return self.frontend.cls_token

    def check_encoder(self, encoder: EncoderSettings) -> None:
        """Raises ValueError where the two do not fit."""
        if self.frontend.positions == "sincos_2d" and encoder.dim % 4:
            raise ValueError(
                f"encoder.dim {encoder.dim} is not divisible by 4, which positions sincos_2d need"
            )

    @model_validator(mode="after")
    def _check(self) -> "VisionSettings":
        if self.frontend.grid_side == 1:
            raise ValueError("one patch covers the whole picture: nothing is left to predict from")
        num_patches = self.frontend.grid_side**2
        if self.mask.kind == "block" and self.mask.min_block > num_patches:
            raise ValueError(
                f"mask.min_block {self.mask.min_block} is more than the {num_patches} patches of a "
                "picture: no block fits"
            )
        return self


@dataclass(frozen=True)
class Vision(Modality):
    """Images."""

    settings: VisionSettings
    learned: Path | None = None

    @property
    def length_unit(self) -> LengthUnit:
        """Pictures are counted."""
        return LengthUnit(name="pictures", size=1)

    @property
    def seconds_per_token(self) -> None:
        """Patches lie in no time."""

    def learn(self, items: Callable[[], Iterable[SourceItem]], folder: Path) -> None:
        """Nothing: a picture is stored without knowledge of the others."""

    def about(self) -> dict[str, Any]:
        """Nothing that shards of pictures do not show themselves."""
        return {}

    @property
    def common_about(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    def check_data(self, about: Mapping[str, Any]) -> None:
        """Any shards with pictures will do."""

    def summarise(self, totals: Mapping[str, Mapping[str, float]]) -> Summarised:
        """Nothing beyond what the summary counts anyway."""
        return Summarised()

    def read_source(self, source: SourceSettings) -> Iterator[SourceItem]:
        """Folder trees, flat folders, tables, built-in digits."""
        return read_source(source)

    def read_inputs(
        self, inputs: Sequence[Path | bytes], source: SourceSettings
    ) -> Iterator[SourceItem]:
        """One picture a file."""
        return input_items(inputs, PICTURES)

    def encode(self, item: SourceItem) -> list[StoredSample]:
        """A JPEG, PNG or WebP that needs no further conversion."""
        return [StoredSample(members=encode_image(item, self.settings.store))]

    def decode(
        self, parts: dict[str, bytes], generator: Generator | None, limit: int | None = None
    ) -> Tensor:
        """(C, S, S) uint8, augmented where there is a generator."""
        frontend, changes = self.settings.frontend, self.settings.augment
        image = read_picture(
            parts, channels=frontend.channels, max_pixels=self.settings.store.max_pixels
        )
        if generator is None:
            return middle(image, frontend.image_size, changes.evaluation_scale)
        return augment(
            image,
            frontend.image_size,
            changes,
            generator,
            mean=frontend.pixel_mean,
            std=frontend.pixel_std,
        )

    def collate(self, examples: Sequence[Tensor]) -> Batch:
        """(B, C, S, S) uint8; nothing is padded."""
        return Batch(inputs=torch.stack(list(examples)))

    def build_frontend(self, encoder: EncoderSettings) -> Frontend:
        """Patches, mask vector, CLS, positions."""
        return VisionFrontend(self.settings.frontend, encoder)

    def sample_mask(self, batch: Batch, generators: Sequence[Generator]) -> Mask:
        """Blocks of patches, another draw for each picture."""
        return patch_masks(self.settings.frontend.grid_side, self.settings.mask, generators)

    def baselines(self, train: Callable[[], Iterable[Batch]]) -> dict[str, Features]:
        """Raw pixels in 0..1, averaged down to at most 32 x 32."""
        return {"raw pixels": _raw_pixels}

    def plan(self, encoder: EncoderSettings, length: float | None = None) -> ModalityPlan:
        """Figures for a dry run."""
        frontend = self.settings.frontend
        patches = frontend.grid_side**2
        masked = self.settings.mask.num_masked(patches)
        embedding = 2.0 * patches * frontend.patch_size**2 * frontend.channels * encoder.dim
        return ModalityPlan(
            num_tokens=patches + frontend.cls_token,
            num_masked=masked,
            num_prefix=int(frontend.cls_token),
            token_name="patches",
            exact_kind="inverse_block" if self.settings.mask.kind == "block" else None,
            frontend_flops=embedding,
            feature_flops=embedding,
            text=f"{frontend.image_size} x {frontend.image_size} pixels, patches of "
            f"{frontend.patch_size} x {frontend.patch_size}: {patches} patches"
            f"{' + CLS' if frontend.cls_token else ''}, {masked} masked",
        )

    def show_masks(self, batch: Batch, mask: Mask, path: Path) -> None:
        """A grid of pictures with the masked patches greyed out."""
        draw_masks(batch, mask, self.settings.frontend.grid_side, path)


def _raw_pixels(batch: Batch) -> Tensor:
    pixels = batch.inputs.float() / 255
    if pixels.shape[-1] > _BASELINE_SIDE:
        pixels = adaptive_avg_pool2d(pixels, _BASELINE_SIDE)
    return pixels.flatten(1)
