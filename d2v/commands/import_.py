"""`d2v import`: a model of another library to a run directory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from d2v.exchange.foreign import Foreign
from d2v.exchange.land import Landed, check_free, land
from d2v.exchange.recognise import recognise
from d2v.report import Report


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be imported.

    Args:
        source: a file or folder of another library.
        dest: the run directory to write.
        num_heads: of attention, where the source does not tell.
        tokenizer: a tokenizer's file, where the source has none.
        fresh: replace an earlier import.
        verbosity: -1 quiet, 0 normal, 1 verbose.
    """

    source: Path
    dest: Path
    num_heads: int | None = None
    tokenizer: Path | None = None
    fresh: bool = False
    verbosity: int = 0


def run(request: Request) -> Report:
    """Recognise, read, account for every tensor, write.

    Raises:
        UsageError: the source is unknown or damaged, or the destination holds something.
    """
    check_free(request.dest, request.source, fresh=request.fresh)
    foreign = recognise(request.source, num_heads=request.num_heads, tokenizer=request.tokenizer)
    landed = land(foreign, request.dest, request.source)
    return _report(foreign, landed, request.verbosity)


def _report(foreign: Foreign, landed: Landed, verbosity: int) -> Report:
    """Counts with their reasons, and what can be done next."""
    found = landed.accounted
    rows = [["mapped", f"{len(found.mapped):,}", "tensors of the source"]]
    for what, reasons in (("left out", found.left_out), ("made anew", found.anew)):
        for why, count in Counter(reasons.values()).items():
            rows.append([what, f"{count:,}", why])
    remarks = list(foreign.notes)
    if verbosity > 0:
        remarks += [f"left out: {name}: {why}" for name, why in found.left_out.items()]
        remarks += [f"made anew: {name}: {why}" for name, why in found.anew.items()]
    if verbosity >= 0:
        remarks += _next(foreign, landed)
    return Report(
        headline=f"{foreign.kind}, {landed.num_parameters:,} parameters, imported into "
        f"{landed.folder}",
        columns=["tensors", "number", ""],
        rows=rows,
        remarks=remarks,
    )


def _next(foreign: Foreign, landed: Landed) -> list[str]:
    teacher = " pretrain.init_teacher=teacher" if foreign.teacher is not None else ""
    commands = [
        f"probe RECIPE --from {landed.folder}",
        f"finetune RECIPE --from {landed.folder}",
        f"pretrain RECIPE --from {landed.folder}{teacher}",
    ]
    if foreign.task is not None:
        commands.insert(0, f"predict {landed.folder} INPUT...")
    return [f"{'next:' * (not number):5} d2v {one}" for number, one in enumerate(commands)]
