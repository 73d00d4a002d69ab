"""Every tensor of a source accounted for: taken by the student, by the teacher, or left out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Size, Tensor, nn

from d2v.exchange.foreign import Foreign
from d2v.exchange.links import Layout, Translated, to_ours

TEACHER = "teacher."


@dataclass(frozen=True, kw_only=True)
class Accounted:
    """What became of a source's tensors.

    Args:
        student: `frontend.*`, `encoder.*` and `head.*`.
        teacher: `teacher.encoder.*` and `teacher.frontend.*`; None where the source has none.
    """

    student: Translated
    teacher: Translated | None

    @property
    def mapped(self) -> dict[str, str]:
        """Name there -> our name, or names where student and teacher share it."""
        found: dict[str, str] = {}
        for part in (self.student, self.teacher):
            for ours, theirs in {} if part is None else part.origins.items():
                for name in theirs:
                    found[name] = f"{found[name]}, {ours}" if name in found else ours
        return found

    @property
    def left_out(self) -> dict[str, str]:
        """Name there -> why nobody took it."""
        teacher = {} if self.teacher is None else self.teacher.left_out
        both = {**teacher, **self.student.left_out}
        return {name: why for name, why in both.items() if name not in self.mapped}

    @property
    def anew(self) -> dict[str, str]:
        """Our name -> why it had to be drawn."""
        return {**self.student.anew, **({} if self.teacher is None else self.teacher.anew)}


def account(foreign: Foreign, parts: Mapping[str, nn.Module], place: str) -> Accounted:
    """Translate what a source holds.

    Args:
        foreign: the source; of student and teacher, each is asked for its own tensors alone.
        parts: name -> module that the tensors are for: frontend, encoder and, where there is one,
            head.
        place: names the source, for errors.

    Raises:
        UsageError: a tensor is missing, of another shape, or known to nobody.
    """
    shapes = shapes_of(parts)
    own = _used(foreign.layout)
    teachers = set() if foreign.teacher is None else _claimed(foreign.teacher, foreign.tensors)
    for_student = _picked(foreign.tensors, foreign.tensors.keys() - (teachers - own))
    student = to_ours(foreign.layout, for_student, shapes, place)
    if foreign.teacher is None:
        return Accounted(student=student, teacher=None)
    kept = {name.removeprefix(TEACHER).partition(".")[0] for name in _ours(foreign.teacher)}
    theirs = {
        f"{TEACHER}{name}": shape
        for name, shape in shapes.items()
        if name.partition(".")[0] in kept
    }
    for_teacher = _picked(foreign.tensors, teachers)
    return Accounted(student=student, teacher=to_ours(foreign.teacher, for_teacher, theirs, place))


def shapes_of(parts: Mapping[str, nn.Module]) -> dict[str, Size]:
    """Our names -> shapes."""
    return {
        f"{part}.{name}": tensor.shape
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }


def _used(layout: Layout) -> set[str]:
    return {name for link in layout.links for name in link.theirs}


def _claimed(layout: Layout, tensors: Iterable[str]) -> set[str]:
    """Names that a layout uses, or knows and leaves out."""
    known = {
        name for name in tensors for what in layout.left_out if re.fullmatch(what, name) is not None
    }
    return known | (_used(layout) & set(tensors))


def _ours(layout: Layout) -> list[str]:
    return [*(link.ours for link in layout.links), *layout.anew]


def _picked(tensors: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    chosen = set(names)
    return {name: tensor for name, tensor in tensors.items() if name in chosen}
