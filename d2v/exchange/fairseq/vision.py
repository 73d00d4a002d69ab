"""fairseq's port of the picture model: other names, a head that it never applied (reference P8)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from d2v.exchange.fairseq.settings import objective_of, told_settings
from d2v.exchange.foreign import Foreign
from d2v.exchange.links import Layout
from d2v.exchange.pictures.vit_names import PORT, anew, vit_links
from d2v.exchange.pictures.vit_settings import IMAGENET, INDEX, INDEX_REASON, Found, Untold, look

_EPS = 1e-5
_FINE_TUNED = "model."
_PUBLISHED: dict[str, Any] = {
    "top_k": 6,
    "target_norm": "none",
    "mean_norm": "layer",
    "beta": 2.0,
    "channel_reduction": "inv_sqrt_dim",
    "head_layers": 1,
    "tau": {"schedule": "linear", "tau_0": 0.999, "tau_e": 0.9998, "tau_n": "100 %"},
}


def is_port(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of the port."""
    return any(f"{prefix}{PORT.patch_embed}.weight" in tensors for prefix in ("", _FINE_TUNED))


def read_port(
    path: Path, content: Mapping[str, Any], tensors: Mapping[str, Tensor], *, num_heads: int | None
) -> Foreign:
    """A picture model of the port, pre-trained or fine-tuned.

    Args:
        path: of the file, for errors.
        content: of the file.
        tensors: of its model, flat.
        num_heads: where the user says.

    Raises:
        UsageError: d2v cannot express it.
    """
    prefix = _FINE_TUNED if f"{_FINE_TUNED}{PORT.patch_embed}.weight" in tensors else ""
    untold = Untold(norm_eps=_EPS, pixels=IMAGENET, num_heads=num_heads)
    found = look(str(path), tensors, PORT, untold, prefix)
    links = vit_links(PORT, found.frontend, found.encoder, found.kept, prefix=prefix)
    told = told_settings(content)
    objective, notes = objective_of(
        told, _PUBLISHED, dim=found.encoder.dim, depth=found.encoder.depth, head_layers=0
    )
    ends = told.get("end_of_block_targets", True)
    objective["target_feature"] = "end_of_block" if ends else "ffn"
    left_out = {
        INDEX: INDEX_REASON,
        rf"{re.escape(prefix)}final_proj\..*": "the port never applied this head",
    }
    if prefix:
        left_out[r"(fc_norm|head)\..*"] = "the port's classifier reads other tokens than d2v's"
        left_out[rf"{re.escape(prefix)}_ema\..*"] = "of pre-training; the file is fine-tuned"
        notes.append("Its classifier is left out: it passes the first patch over, d2v's does not.")
    return Foreign(
        kind=f"fairseq data2vec vision, {'fine-tuned' if prefix else 'pre-trained'}",
        modality={"name": "vision", "frontend": found.frontend.model_dump(mode="json")},
        encoder=found.encoder.model_dump(mode="json"),
        objective=objective,
        layout=Layout(links=tuple(links), left_out=left_out, anew=anew(found.encoder, found.kept)),
        tensors=tensors,
        teacher=None if prefix else _teacher(tensors, found),
        notes=tuple(notes),
    )


def _teacher(tensors: Mapping[str, Tensor], found: Found) -> Layout | None:
    """The averaged encoder; patches and CLS are the student's, as there (reference 1.1)."""
    if "_ema.blocks.0.norm1.weight" in tensors:
        names = replace(PORT, stem="_ema.")
    elif "_ema.encoder.blocks.0.norm1.weight" in tensors:
        names = replace(PORT, stem="_ema.encoder.")
    else:
        return None
    return Layout(
        links=tuple(vit_links(names, found.frontend, found.encoder, found.kept, ours="teacher.")),
        left_out={rf"_ema\.{INDEX}": INDEX_REASON},
        anew=anew(found.encoder, found.kept, ours="teacher."),
    )
