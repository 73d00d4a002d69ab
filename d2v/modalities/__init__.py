"""The modalities: one folder each, listed in one table."""

from pathlib import Path

from d2v.modalities.base import Features, Modality, ModalityPlan, SourceSettings
from d2v.modalities.vision.modality import Vision, VisionSettings

ModalitySettings = VisionSettings
"""The `modality` section of a recipe; `name` picks the row."""

MODALITIES = {"vision": Vision}
"""name -> class, built from its settings."""


def build_modality(settings: ModalitySettings, learned: Path | None = None) -> Modality:
    """The modality that a recipe names; `learned`: where its `learn` wrote."""
    return MODALITIES[settings.name](settings, learned)


__all__ = ["MODALITIES", "Features", "Modality", "ModalityPlan", "ModalitySettings", "SourceSettings",
           "build_modality"]  # fmt: skip
