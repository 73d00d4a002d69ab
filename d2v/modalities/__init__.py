"""The modalities: one folder each, listed in one table."""

from d2v.modalities.base import Modality, ModalityPlan, SourceSettings
from d2v.modalities.vision.modality import Vision, VisionSettings

ModalitySettings = VisionSettings
"""The `modality` section of a recipe; `name` picks the row."""

MODALITIES = {"vision": Vision}
"""name -> class, built from its settings."""


def build_modality(settings: ModalitySettings) -> Modality:
    """The modality that a recipe names."""
    return MODALITIES[settings.name](settings)


__all__ = ["MODALITIES", "Modality", "ModalityPlan", "ModalitySettings", "SourceSettings",
           "build_modality"]  # fmt: skip
