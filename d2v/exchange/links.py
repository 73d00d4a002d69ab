"""How the tensors of two layouts belong together: read one way they import, the other they export.

Letters: D width.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Size, Tensor

from d2v.errors import UsageError

_SHOWN = 6
"""Names that an error lists."""


class Link(ABC):
    """One of our tensors, and what holds the same elsewhere."""

    ours: str
    theirs: tuple[str, ...]

    @abstractmethod
    def to_ours(self, theirs: Sequence[Tensor], shape: Size) -> Tensor:
        """Our tensor, of that shape, out of theirs. Raises RuntimeError where they do not fit."""

    @abstractmethod
    def to_theirs(self, ours: Tensor) -> list[Tensor]:
        """Theirs, in the order of their names."""


@dataclass(frozen=True)
class Same(Link):
    """The same values; theirs may have axes of size one in front."""

    ours: str
    theirs: tuple[str, ...]
    leading: int = 0

    def to_ours(self, theirs: Sequence[Tensor], shape: Size) -> Tensor:
        """Theirs without the leading axes."""
        (tensor,) = theirs
        return tensor.reshape(tensor.shape[self.leading :])

    def to_theirs(self, ours: Tensor) -> list[Tensor]:
        """Ours with the leading axes."""
        return [ours.reshape((1,) * self.leading + ours.shape)]


def both(ours: str, theirs: str) -> Iterator[Link]:
    """Weight and bias of a module."""
    for kind in ("weight", "bias"):
        yield Same(f"{ours}.{kind}", (f"{theirs}.{kind}",))


@dataclass(frozen=True)
class Stacked(Link):
    """Ours holds theirs one above the other: query, key and value, say."""

    ours: str
    theirs: tuple[str, ...]

    def to_ours(self, theirs: Sequence[Tensor], shape: Size) -> Tensor:
        """Stacked along the first axis."""
        return torch.cat(list(theirs))

    def to_theirs(self, ours: Tensor) -> list[Tensor]:
        """Cut into equal parts along the first axis."""
        return list(ours.chunk(len(self.theirs)))


@dataclass(frozen=True)
class KeylessBias(Link):
    """The bias of query, key and value where theirs has none of the key.

    A key's bias adds the same to all logits of a query, which softmax takes away again: left out,
    it changes no output (reference section 5.2).
    """

    ours: str
    theirs: tuple[str, ...]

    def to_ours(self, theirs: Sequence[Tensor], shape: Size) -> Tensor:
        """Query, zeros, value."""
        query, value = theirs
        return torch.cat([query, torch.zeros_like(query), value])

    def to_theirs(self, ours: Tensor) -> list[Tensor]:
        """Query and value."""
        query, _, value = ours.chunk(3)
        return [query, value]


@dataclass(frozen=True)
class Reordered(Link):
    """The same rows in another order: row i of ours is row `rows[i]` of theirs."""

    ours: str
    theirs: tuple[str, ...]
    rows: tuple[int, ...]

    def to_ours(self, theirs: Sequence[Tensor], shape: Size) -> Tensor:
        """Rows picked."""
        (tensor,) = theirs
        return tensor[list(self.rows)]

    def to_theirs(self, ours: Tensor) -> list[Tensor]:
        """Rows put back."""
        back = torch.empty_like(ours)
        back[list(self.rows)] = ours
        return [back]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """All tensors of a model in two layouts.

    Args:
        links: what belongs together.
        left_out: regular expression of names elsewhere -> why d2v has no use for them.
        anew: our names that the other layout does not have -> why.
        constants: names elsewhere that hold the same in every model of ours -> their values.
    """

    links: tuple[Link, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    anew: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Translated:
    """A model's tensors in our layout, and an account of every one.

    Args:
        tensors: our name -> tensor.
        origins: our name -> what it was called.
        left_out: their name -> why it was not taken.
        anew: our name -> why there is none of it; it is to be drawn.
    """

    tensors: dict[str, Tensor]
    origins: dict[str, tuple[str, ...]]
    left_out: dict[str, str]
    anew: dict[str, str]


def to_ours(
    layout: Layout, theirs: Mapping[str, Tensor], shapes: Mapping[str, Size], place: str
) -> Translated:
    """Translate and account for every tensor.

    Args:
        layout: of the model.
        theirs: name -> tensor, all that the file holds.
        shapes: our names -> shapes, all that our model has.
        place: names the file, for errors.

    Raises:
        UsageError: a tensor is missing, of another shape, or known to nobody.
    """
    tensors: dict[str, Tensor] = {}
    origins: dict[str, tuple[str, ...]] = {}
    missing: list[str] = []
    wrong: list[str] = []
    for link in layout.links:
        absent = [name for name in link.theirs if name not in theirs]
        if absent:
            missing += absent
            continue
        origins[link.ours] = link.theirs
        wanted = shapes.get(link.ours)
        found = [theirs[name] for name in link.theirs]
        shown = f"{', '.join(link.theirs)} {[list(tensor.shape) for tensor in found]}"
        if wanted is None:
            wrong.append(f"{shown}: the model has no {link.ours}")
            continue
        if integers := [str(one.dtype) for one in found if not one.is_floating_point()]:
            wrong.append(f"{shown}: {integers[0]}, which only its own library turns into weights")
            continue
        try:
            tensor = link.to_ours(found, wanted)
        except (RuntimeError, IndexError, ValueError) as error:
            wrong.append(f"{shown}: {str(error).splitlines()[0]}")
            continue
        if tensor.shape != wanted:
            wrong.append(f"{shown}: {link.ours} is {list(wanted)}")
            continue
        tensors[link.ours] = tensor.contiguous()
    used = {name for link in layout.links for name in link.theirs}
    left_out, unknown = _sorted_out(layout, [name for name in theirs if name not in used])
    anew = {name: why for name, why in layout.anew.items() if name in shapes}
    unmade = sorted(shapes.keys() - {link.ours for link in layout.links} - anew.keys())
    _complain(place, missing, wrong, unknown, unmade)
    return Translated(tensors=tensors, origins=origins, left_out=left_out, anew=anew)


def to_theirs(layout: Layout, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors in the other layout.

    Args:
        layout: of the model.
        ours: name -> tensor; all that links name.
    """
    found = dict(layout.constants)
    for link in layout.links:
        parts = link.to_theirs(ours[link.ours])
        found |= dict(zip(link.theirs, parts, strict=True))
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in found.items()}


def _sorted_out(layout: Layout, names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Names that are known to be of no use, with the reason, and names that nobody knows."""
    left_out: dict[str, str] = {}
    unknown = []
    for name in names:
        reasons = [why for what, why in layout.left_out.items() if re.fullmatch(what, name)]
        if reasons:
            left_out[name] = reasons[0]
        else:
            unknown.append(name)
    return left_out, unknown


def _complain(
    place: str, missing: list[str], wrong: list[str], unknown: list[str], unmade: list[str]
) -> None:
    parts = {
        "missing": missing,
        "of another shape": wrong,
        "unknown": sorted(unknown),
        "without a source": unmade,
    }
    said = [
        f"{len(names)} {what}: " + "; ".join(names[:_SHOWN]) + ("; ..." * (len(names) > _SHOWN))
        for what, names in parts.items()
        if names
    ]
    if said:
        raise UsageError(
            f"The tensors of {place} do not add up: " + ". ".join(said),
            expected="every tensor of the model, and no other",
            remedy="Check that the file is whole and that its settings belong to it.",
        )
