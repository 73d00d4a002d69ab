"""`d2v embed`: what an encoder makes of files, folders or shards, written to a file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from d2v.build import Network
from d2v.commands.bar import Bar
from d2v.commands.embed_formats import Format, format_of
from d2v.commands.embed_inputs import open_source
from d2v.commands.embed_model import Embedder, load_embedder, place_of
from d2v.commands.embed_out import Record, assemble, check_out, errors_of, finished
from d2v.commands.embed_parts import Parts, opened
from d2v.commands.embed_source import Embed, Source
from d2v.commands.stage import share_cores
from d2v.core.features import Pool
from d2v.data.files import WriteFailedError
from d2v.errors import D2VError, UsageError
from d2v.extract import encoder_features, encoder_tokens
from d2v.report import Report


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked.

    Args:
        run: a run, a checkpoint, a model folder or an imported model; or a recipe, for its run.
        inputs: files, folders, prepared shards; bytes are what came through standard input.
        out: file or folder to write; its ending says in which format.
        pool: how tokens become a vector; None for what the recipe's probe does.
        per_token: one vector a token instead.
        block: 1..depth; None for what the recipe's probe reads.
        network: whose features; None likewise.
        split: of prepared shards; None for all.
        batch_size: samples at once.
        runs: folder of the run directories, for a recipe.
        fresh: start over, and replace what was finished.
        verbosity: -1 quiet, 0 normal, 1 verbose.
    """

    run: str
    inputs: tuple[Path | bytes, ...]
    out: Path
    pool: Pool | None = None
    per_token: bool = False
    block: int | None = None
    network: Network | None = None
    split: str | None = None
    batch_size: int = 64
    runs: Path = Path("runs")
    fresh: bool = False
    verbosity: int = 0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How it went: a report, and the inputs that could not be used."""

    report: Report
    num_inputs: int
    num_bad: int
    listed: Path

    def raise_if_bad(self) -> None:
        """Raises D2VError where an input could not be used."""
        if self.num_bad:
            raise D2VError(
                f"{self.num_bad:,} of {self.num_inputs:,} inputs could not be used",
                expected="inputs like those that the model was trained on",
                remedy=f"Each is listed in {self.listed} with its reason; the others are complete.",
            )


def run(request: Request) -> Outcome:
    """Write the features of every input, in their order.

    Raises:
        UsageError: no such model, input or block, or a place that cannot be written.
        D2VError: no input can be used, or the disk is full; what is done is kept.
    """
    form = format_of(request.out)
    check_out(request.out, form, request.inputs)
    place = place_of(request.run, request.runs)
    with TemporaryDirectory(prefix="d2v-") as scratch, _explained(request.out):
        embedder = load_embedder(place, request.network, Path(scratch))
        choice = _choice(request, embedder)
        source = open_source(embedder, request.inputs, request.split, request.batch_size)
        share_cores(source.workers)
        settings = _settings(request, embedder, source, choice)
        done = None if request.fresh else finished(request.out, form, settings)
        if done is not None:
            headline = f"{request.out} is already finished; nothing was done (--fresh starts over)."
            return _outcome(request, form, done, headline, embedder)
        begun = time.perf_counter()
        with opened(
            request.out, settings, fresh=request.fresh,
            per_token=request.per_token, ragged=form.ragged,
        ) as parts:  # fmt: skip
            earlier = parts.consumed
            _fill(parts, source, _function(embedder, request.per_token, choice), request)
            _refuse_nothing(parts)
            done = assemble(parts, request.out, form, settings, embedder.place)
    return _outcome(request, form, done, _told(request, done, earlier, begun), embedder)


def _choice(request: Request, embedder: Embedder) -> dict[str, Any]:
    """Pool and block, as asked or as the probe has them.

    Raises:
        UsageError: the encoder has no such block, or no CLS token.
    """
    probe, depth = embedder.probe, embedder.recipe.encoder.depth
    block = probe.block if request.block is None else request.block
    if block is not None and not 1 <= block <= depth:
        raise UsageError(
            f"--block {block}: the encoder has {depth} blocks",
            expected=f"a number from 1 to {depth}",
        )
    if request.per_token:
        return {"pool": None, "block": block or depth}
    pool = request.pool or probe.pool
    if pool in ("cls", "mean_cls") and not embedder.recipe.modality.has_cls:
        raise UsageError(
            f"--pool {pool} needs a CLS token, and the encoder has none", remedy="Pass --pool mean."
        )
    return {"pool": pool, "block": block or depth}


def _settings(
    request: Request, embedder: Embedder, source: Source, choice: dict[str, Any]
) -> dict[str, Any]:
    """What decides the bytes."""
    frozen = embedder.frozen
    return {
        "weights_sha256": frozen.digest,
        "network": embedder.network,
        **choice,
        "per_token": request.per_token,
        "batch_size": request.batch_size,
        "device": next(frozen.encoder.parameters()).device.type,
        "precision": frozen.precision,
        **source.identity,
    }


def _function(embedder: Embedder, per_token: bool, choice: dict[str, Any]) -> Embed:
    """The features of each sample of a batch."""
    pool, block = choice["pool"], choice["block"]
    if per_token:
        return encoder_tokens(embedder.frozen, block=block)
    if pool == "tokens":  # put side by side here: what differs in length is refused with its name
        tokens = encoder_tokens(embedder.frozen, block=block)
        return lambda batch: [one.flatten() for one in tokens(batch)]
    pooled = encoder_features(embedder.frozen, pool=pool, block=block)
    return lambda batch: list(pooled(batch).cpu())  # all at once: one wait for a GPU


def _fill(parts: Parts, source: Source, embed: Embed, request: Request) -> None:
    """Go on behind what an earlier start has finished."""
    begun, earlier = time.perf_counter(), parts.consumed
    with Bar("inputs", request.verbosity) as bar, closing(source.pieces(embed, earlier)) as pieces:
        for piece in pieces:
            parts.add(piece)
            seconds = time.perf_counter() - begun
            bar.show("embed", piece.consumed, source.total, seconds, earlier=earlier)


@contextmanager
def _explained(out: Path) -> Iterator[None]:
    try:
        yield
    except WriteFailedError as error:
        raise D2VError(
            f"{error.path} cannot be written: {error.reason}",
            remedy=f"Make room or mend the permissions, then start again: it continues with {out}.",
        ) from error


def _refuse_nothing(parts: Parts) -> None:
    """Refuse to write a file without a row. The parts go: they hold nothing."""
    parts.end_part()
    if parts.num_rows == 0:
        first = next(parts.errors())
        parts.discard()
        raise D2VError(
            f"None of the {parts.num_errors:,} inputs can be used. The first, {first['input']}: "
            f"{first['error']}",
            expected="inputs like those that the model was trained on",
        )


def _outcome(
    request: Request, form: Format, done: Record, headline: str, embedder: Embedder
) -> Outcome:
    settings = done["settings"]
    what = (
        "the encoder's output"
        if settings["block"] == embedder.recipe.encoder.depth
        else f"block {settings['block']}"
    )
    how = "every token" if settings["per_token"] else f"pool {settings['pool']}"
    remark = f"{how} of {what}, {settings['network']} of {embedder.place}"
    return Outcome(
        report=Report(headline=headline, remarks=[remark] if request.verbosity >= 0 else []),
        num_inputs=done["rows"] + done["errors"],
        num_bad=done["errors"],
        listed=errors_of(request.out, form),
    )


def _told(request: Request, done: Record, earlier: int, begun: float) -> str:
    """What was written, and how fast."""
    seconds = time.perf_counter() - begun
    shape = " x ".join(f"{size:,}" for size in done["shape"])
    if done["settings"]["per_token"] and request.out.suffix != ".npy":
        shape = f"tokens x {done['shape'][1]:,}"
    count = done["rows"] + done["errors"] - earlier
    again = f", {earlier:,} of them from an earlier start" if earlier else ""
    return (
        f"Wrote {request.out}: {done['rows']:,} rows of {shape}{again}; "
        f"{seconds:.1f} s, {count / seconds:,.0f} inputs/s"
    )
