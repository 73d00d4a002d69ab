"""A small case of every modality, for the contract that all of them keep."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from d2v.types import SourceItem
from tests.training_case import VISION, picture


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way to set a modality up.

    Args:
        name: of the test.
        settings: the `modality` section.
        items: a few raw samples, made anew at each call.
        ragged: whether they differ in length.
        teacher_averages: as its recipes have it.
    """

    name: str
    settings: dict[str, Any]
    items: Callable[[], list[SourceItem]]
    ragged: bool
    teacher_averages: Literal["all", "encoder"]


def _pictures() -> list[SourceItem]:
    return [SourceItem(name=f"{number}.png", content=picture(number)) for number in range(4)]


CASES = [
    Case(name="vision", settings=VISION.model_dump(mode="json"), items=_pictures, ragged=False,
         teacher_averages="all"),
]  # fmt: skip
