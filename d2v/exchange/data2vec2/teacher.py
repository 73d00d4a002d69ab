"""The averaged part of a data2vec 2.0 file as the teacher (reference section 4.7).

It is the whole model without decoders, the same without what makes local features, or the shared
blocks alone.
"""

from __future__ import annotations

import re

from d2v.exchange.data2vec2.look import Second
from d2v.exchange.data2vec2.settings import Blocks, encoder_links
from d2v.exchange.data2vec2.towers import Tower
from d2v.exchange.links import Layout, Link

_LOCAL = ("local_encoder.", "project_features.")
_SHARED = "not averaged there: the teacher has the student's"
_USUAL = {"IMAGE": "all", "AUDIO": "after_features", "TEXT": "encoder"}


def teacher_of(found: Second, tower: Tower, blocks: Blocks) -> tuple[Layout | None, list[str]]:
    """Layout of `teacher.*`, and notes; None where the file has none or is fine-tuned."""
    if found.prefix or not found.holds("_ema."):
        return None, []
    theirs = found.teachers_tower
    stem = "_ema.blocks." if found.holds("_ema.blocks.") else "_ema."
    encoder = encoder_links("teacher.encoder", theirs, stem, blocks)
    left_out = {
        **tower.left_out(theirs),
        rf"{re.escape(theirs)}decoder\..*": "the teacher has no decoder",
    }
    if not found.holds(theirs):
        prenet = [link.ours for link in encoder if link.theirs[0].startswith(theirs)]
        links = [link for link in encoder if link.ours not in prenet]
        anew = dict.fromkeys(prenet, _SHARED)
        note = (
            f"Its teacher has the student's {blocks.prenet} blocks of the prenet; d2v averages "
            "them from here on."
        )
        layout = Layout(links=tuple(links), left_out=left_out, anew=anew)
        return layout, [note] if blocks.prenet else []
    frontend = tower.links("teacher.frontend", theirs)
    lacking = [link for link in frontend if _is_local(link, theirs) and not _has(found, link)]
    kept = [link for link in frontend if link not in lacking]
    if not kept:  # what is left of the frontend is the student's
        return Layout(links=tuple(encoder), left_out=left_out), []
    anew = dict.fromkeys([link.ours for link in lacking], _SHARED) | tower.anew("teacher.frontend")
    return Layout(links=(*kept, *encoder), left_out=left_out, anew=anew), []


def averages(found: Second, teacher: Layout | None) -> str:
    """What `objective.teacher_averages` should say; as published where no teacher tells."""
    if teacher is None:
        return _USUAL[found.kind]
    frontend = [link for link in teacher.links if link.ours.startswith("teacher.frontend.")]
    if not frontend:
        return "encoder"
    local = any(_is_local(link, found.teachers_tower) for link in frontend)
    return "all" if local else "after_features"


def _is_local(link: Link, tower: str) -> bool:
    """Whether it belongs to what makes features of samples."""
    return link.theirs[0].startswith(tuple(f"{tower}{part}" for part in _LOCAL))


def _has(found: Second, link: Link) -> bool:
    return all(name in found.tensors for name in link.theirs)
