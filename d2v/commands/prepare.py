"""`d2v prepare`: raw data to shards."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TextColumn

from d2v.commands.options import Options
from d2v.commands.stage import need, shards_folder, stage_folder, working
from d2v.config import Loaded
from d2v.data.prepare import PrepareProgress, PrepareSummary, prepare
from d2v.data.shards import Shards, check
from d2v.engine.run_directory import RunDirectory
from d2v.errors import D2VError, UsageError
from d2v.modalities import Modality, build_modality
from d2v.modalities.base import SourceSettings
from d2v.recipe import DataSet, Recipe
from d2v.report import Report

_REASONS = 5
"""Rejections are shown for so many reasons, the commonest first."""


def run(loaded: Loaded[Recipe], options: Options) -> Report:
    """Write shards for every data set of the recipe, or check those that are there."""
    recipe = loaded.settings
    settings = need(recipe, "prepare", loaded)
    modality = build_modality(recipe.modality)
    if options.check and options.fresh:
        raise UsageError("--check and --fresh exclude each other", remedy="Drop one of them")
    if options.check:
        return _check(recipe, loaded, options)
    sets = _sets_to_prepare(recipe)
    folders = {name: shards_folder(loaded, options, name, data) for name, data in sets.items()}
    place = stage_folder(loaded, options, "prepare")
    if options.dry_run:
        _check_sources(modality, [data for data in sets.values() if data.source], place)
        return _plan(sets, folders, recipe)
    if options.fresh or not (place / "result.json").exists():
        _check_sources(modality, list(sets.values()), place)
    with working(loaded, options, "prepare", {}) as (stage, done):
        if done is not None:
            _still_there(stage, folders)
            return done
        summaries = {}
        for name, data in sets.items():
            with _Bar(f"prepare {name}", options.verbosity) as bar:
                summaries[name] = prepare(
                    partial(modality.read_source, data),
                    modality.encode,
                    folders[name],
                    settings,
                    seed=recipe.seed,
                    progress=bar,
                    identity={
                        "source": data.model_dump(include=set(SourceSettings.model_fields)),
                        "modality": recipe.modality.name,
                        "store": recipe.modality.store.model_dump(mode="json"),
                    },
                )
        report = _report(summaries, folders)
        data_json = {name: summary.as_json() for name, summary in summaries.items()}
        stage.finish({"sets": data_json, "report": vars(report)})
    return report


def _check_sources(modality: Modality, sets: list[DataSet], place: Path) -> None:
    """Refuse a source that makes no sense before anything is made or, with --fresh, removed."""
    for data in sets:
        next(iter(modality.read_source(data)), None)
        source = Path(data.source or "").expanduser()
        if source.is_dir() and place.resolve().is_relative_to(source.resolve()):
            raise UsageError(
                f"The run directory {place} lies inside the source {source}",
                expected="a place outside it: what a run writes would become its own input",
                remedy="Choose another --out.",
            )


def _still_there(stage: RunDirectory, folders: dict[str, Path]) -> None:
    """Refuse to call a preparation finished whose shards were moved away or cut since."""
    result = stage.result()
    assert result is not None
    for name, folder in folders.items():
        for split in result["sets"][name]["splits"]:
            try:
                Shards.open(folder / split)
            except UsageError as error:
                raise UsageError(
                    f"{stage.path} is finished, but {error.happened}",
                    remedy="Copy the shards back, or pass --fresh to prepare them again.",
                ) from error


def _sets_to_prepare(recipe: Recipe) -> dict[str, DataSet]:
    """Those that have no shards of their own yet."""
    sets = recipe.data_sets() or {"common": recipe.data}
    missing = {name: data for name, data in sets.items() if data.shards is None}
    if not missing:
        raise UsageError(
            "All data sets of the recipe name their shards; there is nothing to prepare",
            remedy="Remove data.shards and set data.source.",
        )
    return missing


def _report(summaries: dict[str, PrepareSummary], folders: dict[str, Path]) -> Report:
    rows, remarks = [], []
    for name, summary in summaries.items():
        for split, part in summary.splits.items():
            rows.append([name, split, f"{part.num_samples:,}", str(part.num_shards),
                         f"{part.num_bytes / 1e6:.1f}"])  # fmt: skip
        remarks.append(
            f"{name}: {summary.total:,} inputs = {summary.stored:,} stored + "
            f"{summary.rejected:,} rejected + {summary.dropped:,} dropped; "
            f"{summary.duplicates:,} exact duplicates; {len(summary.classes) or 'no'} "
            f"{'class' if len(summary.classes) == 1 else 'classes'}."
        )
        reasons = list(summary.reasons.items())
        remarks += [f"  rejected {count:,}: {reason}" for reason, count in reasons[:_REASONS]]
        if rest := reasons[_REASONS:]:
            remarks.append(f"  rejected {sum(count for _, count in rest):,}: for other reasons")
        if summary.rejected or summary.duplicates:
            remarks.append(f"  see rejected.jsonl and duplicates.jsonl in {folders[name]}")
        if len(summary.classes) == 1:
            remarks.append(f"  only one class ({summary.classes[0]}): there is nothing to probe.")
    return Report(
        headline=f"Prepared {', '.join(str(folder) for folder in folders.values())}",
        columns=["set", "split", "samples", "shards", "MB"],
        rows=rows,
        remarks=remarks,
    )


def _plan(sets: dict[str, DataSet], folders: dict[str, Path], recipe: Recipe) -> Report:
    lines = [
        f"{name}: {data.source or 'not set yet (data.source=PATH)'} -> {folders[name]}"
        for name, data in sets.items()
    ]
    settings = recipe.prepare
    assert settings is not None
    lines.append(
        f"shards of at most {settings.shard_samples:,} samples and "
        f"{settings.shard_megabytes:g} MB; val {settings.val_fraction:.1%}, test "
        f"{settings.test_fraction:.1%} where the source has none; duplicates: {settings.duplicates}"
    )
    return Report(headline="Plan of prepare (nothing is written)", text="\n".join(lines))


def _check(recipe: Recipe, loaded: Loaded[Recipe], options: Options) -> Report:
    """Verify every byte of every split."""
    sets = recipe.data_sets() or {"common": recipe.data}
    rows = []
    for name, data in sets.items():
        folder = shards_folder(loaded, options, name, data)
        splits = sorted(path.parent for path in folder.glob("*/index.json"))
        if not splits:
            raise UsageError(
                f"There are no shards in {folder}",
                expected="folders train/, val/, ... with index.json",
                remedy="Run d2v prepare first.",
            )
        for split in splits:
            problems = check(split)
            if problems:
                raise D2VError(
                    f"{split} is damaged: {problems[0]}"
                    + (f" and {len(problems) - 1} more" if len(problems) > 1 else ""),
                    remedy="Copy the shard again, or run d2v prepare with --fresh.",
                )
            rows.append([name, split.name, "good"])
    return Report(headline="Every hash is right.", columns=["set", "split", "state"], rows=rows)


class _Bar:
    """Progress of preparing: a bar on a terminal, a line in ten seconds in a pipe."""

    def __init__(self, title: str, verbosity: int) -> None:
        self.title, self.verbosity = title, verbosity
        console = Console()
        self.terminal = console.is_terminal and verbosity >= 0
        columns = [*Progress.get_default_columns(), TextColumn("{task.fields[speed]}")]
        self.progress = Progress(*columns, console=console, disable=not self.terminal)
        self.task = self.progress.add_task(title, total=None, speed="")
        self.next_line_seconds = 10.0

    def __enter__(self) -> _Bar:
        self.progress.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self.progress.stop()

    def __call__(self, now: PrepareProgress) -> None:
        speed = f"{now.done / now.seconds:,.0f} samples/s" if now.seconds > 0 else ""
        title = f"{self.title}: {'listing' if now.stage == 'list' else 'storing'}"
        self.progress.update(
            self.task, description=title, completed=now.done, total=now.total, speed=speed
        )
        if not self.terminal and self.verbosity >= 0 and now.seconds >= self.next_line_seconds:
            self.next_line_seconds = now.seconds + 10
            print(f"{title} {now.done:,}/{now.total or '?'}  {speed}", flush=True)
