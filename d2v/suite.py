"""Settings of a suite: recipes that are fine-tuned one after the other."""

from pydantic import Field

from d2v.settings import Settings


class PartSettings(Settings):
    """One recipe of a suite."""

    recipe: str
    """Path, or name of a shipped recipe, that fine-tunes on `data.finetune`."""
    figures: tuple[str, ...] = Field(min_length=1)
    """What it is judged by; their mean is its score. `NAME.figure` is that of data.tests.NAME."""


class SuiteSettings(Settings):
    """The suite section: recipes that are fine-tuned one after the other, for one table."""

    source: str | None = None
    """A folder with a folder for each part."""
    parts: dict[str, PartSettings] = Field(min_length=1)
    """Folder -> part."""
