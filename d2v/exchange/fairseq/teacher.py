"""The averaged part of a fairseq checkpoint as the teacher (reference section 1.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from d2v.exchange.links import Layout, Link


def teacher_of(
    tensors: Mapping[str, Tensor],
    encoder: Sequence[Link],
    frontend: Sequence[Link],
    students: Sequence[Link],
    left_out: Mapping[str, str],
    *,
    copied: bool | None,
) -> Layout:
    """Layout of the teacher; of its frontend only where that is not the student's.

    fairseq copies some parts into the average instead of averaging them. d2v's teacher shares these
    with the student, so that there is nothing to keep. A copy may be an update behind: it is made
    before the student's last one.

    Args:
        tensors: of the file.
        encoder: links of `teacher.encoder.*`.
        frontend: links of `teacher.frontend.*`.
        students: links of `frontend.*`, in the same order.
        left_out: patterns of averaged tensors that nobody needs -> why.
        copied: whether the frontend's part is copied, as settings say; None: as its values say.
    """
    names = [
        pair
        for theirs, own in zip(frontend, students, strict=True)
        for pair in zip(theirs.theirs, own.theirs, strict=True)
    ]
    if copied is None:
        copied = all(_same(tensors.get(name), tensors.get(own)) for name, own in names)
    if copied:
        why = "a copy of the student's, which the teacher shares"
        copies = {name.replace(".", r"\."): why for name, own in names if name != own}
        return Layout(links=tuple(encoder), left_out={**left_out, **copies})
    return Layout(links=(*encoder, *frontend), left_out=left_out)


def averages(teacher: Layout | None) -> str:
    """What `objective.teacher_averages` should say."""
    links = () if teacher is None else teacher.links
    return "all" if any(link.ours.startswith("teacher.frontend.") for link in links) else "encoder"


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether there is nothing averaged, or the same as the student's."""
    return one is None or (other is not None and torch.equal(one, other))
