"""Which data2vec 2.0 model of fairseq's a file holds, and what the file says of its training.

A fine-tuned file holds the settings of its pre-training inside its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from torch import Tensor

from d2v.errors import UsageError
from d2v.exchange.data2vec2.published import Kind
from d2v.exchange.fairseq.settings import Told, told_settings
from d2v.exchange.pickled import as_plain

_TOWER = re.compile(r"(.*?)modality_encoders\.([A-Za-z]+)\..*")
_TEACHER = "_ema."
_FINE_TUNED: dict[str, Kind] = {"model.": "IMAGE", "w2v_encoder.w2v_model.": "AUDIO"}
"""What stands before all names of a model that was fine-tuned -> its modality."""
_INSIDE = ("w2v_args", "pretrained_model_args")
"""Where a fine-tuned file keeps the settings of pre-training."""
_SET_ANEW = {
    "dropout": "encoder_dropout",
    "encoder_dropout": "encoder_dropout",
    "post_mlp_drop": "post_mlp_drop",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "layerdrop": "layerdrop",
    "drop_path_rate": "end_drop_path_rate",
    "final_dropout": "final_dropout",
    "prediction_mode": "prediction_mode",
}
"""Settings of fine-tuning -> what they replace."""
_UNRESOLVED = ("${", "???")


@dataclass(frozen=True, kw_only=True)
class Second:
    """A file and what its names and settings tell.

    Args:
        place: names the file.
        tensors: all of it.
        kind: of modality.
        prefix: of all names; empty where it is pre-trained.
        num_heads: as the user says.
        told: settings of the model, flat.
        own: settings of its modality, flat.
        decoder: settings of its decoder.
        batch_size: samples of a device; None where nothing tells.
    """

    place: str
    tensors: Mapping[str, Tensor]
    kind: Kind
    prefix: str
    num_heads: int | None
    told: Told = field(default_factory=dict)
    own: Told = field(default_factory=dict)
    decoder: Told = field(default_factory=dict)
    batch_size: int | None = None

    @property
    def tower(self) -> str:
        """What stands before the parts of its modality."""
        return f"{self.prefix}modality_encoders.{self.kind}."

    @property
    def teachers_tower(self) -> str:
        """The same of the average."""
        return f"{_TEACHER}{self.tower}"

    def holds(self, start: str) -> bool:
        """Whether a name begins so."""
        return any(name.startswith(start) for name in self.tensors)

    def weight(self, name: str) -> Tensor:
        """A tensor that must be there. Raises UsageError."""
        if name not in self.tensors:
            raise UsageError(f"{self.place} has no {name}", expected="a whole data2vec 2.0 model")
        return self.tensors[name]

    def several(self, name: str, first: int = 0) -> list[Tensor]:
        """The tensors `name` with `first`, ... in it, as far as they go."""
        found: list[Tensor] = []
        while (one := name.format(first + len(found))) in self.tensors:
            found.append(self.tensors[one])
        return found


def is_second(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of such a model."""
    return any(map(_TOWER.fullmatch, tensors))


def look(
    place: str, content: Mapping[str, Any], tensors: Mapping[str, Tensor], num_heads: int | None
) -> Second:
    """Sort out one modality.

    Args:
        place: names the file.
        content: of the file.
        tensors: of its model, flat; `is_second` holds.
        num_heads: where the user says.

    Raises:
        UsageError: it has several modalities, or is fine-tuned for what d2v does not know.
    """
    towers = {
        match.groups()
        for name in tensors
        if _TEACHER not in name and (match := _TOWER.fullmatch(name))
    }
    if len(towers) != 1:
        names = sorted(f"{prefix}modality_encoders.{kind}" for prefix, kind in towers)
        raise UsageError(
            f"{place} holds {', '.join(names) or 'the average of a model alone'}",
            expected="one modality_encoders of IMAGE, AUDIO or TEXT",
        )
    ((prefix, name),) = towers
    kind = next((one for one in get_args(Kind) if one == name), None)
    if kind is None:
        raise UsageError(
            f"{place} has modality_encoders.{name}", expected=f"one of {', '.join(get_args(Kind))}"
        )
    if prefix and _FINE_TUNED.get(prefix) != kind:
        raise UsageError(
            f"{place} is a data2vec 2.0 model of {kind} with {prefix}* before every name",
            expected="one that is pre-trained, or fine-tuned to classify pictures (model.*) or "
            "with CTC (w2v_encoder.w2v_model.*)",
            remedy="Import what it was fine-tuned from.",
        )
    bare = Second(place=place, tensors=tensors, kind=kind, prefix=prefix, num_heads=num_heads)
    return _told(bare, content)


def _told(found: Second, content: Mapping[str, Any]) -> Second:
    """The same with what the file says of its settings."""
    outer = _inside({"cfg": as_plain(content.get("cfg"))}, "cfg")
    model = _inside(outer, "model")
    whole = next((_inside(model, name) for name in _INSIDE if _inside(model, name)), outer)
    told = told_settings({"cfg": whole})
    if whole is not outer:
        told |= {_SET_ANEW[name]: model[name] for name in _SET_ANEW if name in model}
    own = _inside(_inside(_inside(whole, "model"), "modalities"), found.kind.lower())
    size = _inside(whole, "dataset").get("batch_size")
    return replace(
        found,
        told=told,
        own=_values(own),
        decoder=_values(_inside(own, "decoder")),
        batch_size=size if isinstance(size, int) and size > 0 else None,
    )


def _inside(section: Told, name: str) -> Told:
    found = section.get(name)
    return found if isinstance(found, dict) else {}


def _values(section: Told) -> Told:
    """Without sections, what is unsaid, and omegaconf's references."""
    return {
        name: value
        for name, value in section.items()
        if value is not None
        and not isinstance(value, dict)
        and not (isinstance(value, str) and value.startswith(_UNRESOLVED))
    }
