"""The modalities: one folder each, listed in one table."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from d2v.modalities.base import Features, LengthUnit, Modality, SourceSettings
from d2v.modalities.figures import ModalityPlan
from d2v.modalities.speech.modality import Speech, SpeechSettings
from d2v.modalities.text.modality import Text, TextSettings
from d2v.modalities.vision.modality import Vision, VisionSettings

ModalitySettings = Annotated[
    VisionSettings | SpeechSettings | TextSettings, Field(discriminator="name")
]
"""The `modality` section of a recipe; `name` picks the row."""

MODALITIES: dict[str, type[Vision] | type[Speech] | type[Text]] = {
    "vision": Vision,
    "speech": Speech,
    "text": Text,
}
"""name -> class, built from its settings."""


def build_modality(settings: ModalitySettings, learned: Path | None = None) -> Modality:
    """The modality that a recipe names; `learned`: where its `learn` wrote."""
    return MODALITIES[settings.name](settings, learned)  # type: ignore[arg-type]  # same row


__all__ = [
    "MODALITIES",
    "Features",
    "LengthUnit",
    "Modality",
    "ModalityPlan",
    "ModalitySettings",
    "SourceSettings",
    "build_modality",
]
