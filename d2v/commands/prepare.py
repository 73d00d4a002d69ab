"""`d2v prepare`: raw data to shards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from d2v.commands.bar import Bar
from d2v.commands.learned import learned_files
from d2v.commands.options import Options
from d2v.commands.prepare_report import (
    prepare_plan,
    prepare_report,
    source_key,
    subset_remarks,
)
from d2v.commands.stage import need, shards_folder, stage_folder, working
from d2v.config import Loaded
from d2v.data.numbers import numbered
from d2v.data.prepare import PrepareProgress, PrepareSummary, prepare
from d2v.data.progress import Progress, Reporter
from d2v.data.shards import Shards, check
from d2v.data.subsets import Unit, check_units, write_subsets
from d2v.data_sets import DataSet
from d2v.engine.run_directory import RunDirectory
from d2v.errors import D2VError, UsageError
from d2v.modalities import Modality, build_modality
from d2v.modalities.base import SourceSettings
from d2v.recipe import TESTS, Recipe
from d2v.report import Report
from d2v.samples import SourceItem


def run(loaded: Loaded[Recipe], options: Options) -> Report:
    """Write shards for every data set of the recipe, or check those that are there."""
    recipe = loaded.settings
    need(recipe, "prepare", loaded)
    modality = build_modality(recipe.modality)
    if options.check and options.fresh:
        raise UsageError("--check and --fresh exclude each other", remedy="Drop one of them")
    if options.check:
        return _check(recipe, loaded, options)
    sets = _sets_to_prepare(recipe)
    folders = {name: shards_folder(loaded, options, name, data) for name, data in sets.items()}
    place = stage_folder(loaded, options, "prepare")
    assert recipe.prepare is not None
    check_units(recipe.prepare.subsets, _unit(modality))
    if options.dry_run:
        _check_sources(modality, {n: data for n, data in sets.items() if data.source}, place)
        return prepare_plan(sets, folders, recipe)
    if options.fresh or not (place / "result.json").exists():
        _check_sources(modality, sets, place)
    with _one_thread(), working(loaded, options, "prepare", {}) as (stage, done):
        if done is not None:
            _still_there(stage, folders)
            return replace(done, remarks=done.remarks + _subsets(recipe, folders, modality))
        with learned_files(
            stage, modality, recipe, partial(_listed, modality, verbosity=options.verbosity)
        ) as learned:
            modality = build_modality(recipe.modality, learned)
            summaries = {}
            for name, data in sets.items():
                with Bar("inputs", options.verbosity) as bar:
                    told = partial(_tell, bar, f"prepare {name}")
                    summaries[name] = _prepare_set(
                        modality, recipe, name, data, folders[name], told
                    )
        subsets = _subsets(recipe, folders, modality)
        report = prepare_report(summaries, folders, modality)
        data_json = {name: summary.as_json() for name, summary in summaries.items()}
        stage.finish({"sets": data_json, "report": vars(report)})
    return replace(report, remarks=report.remarks + subsets)


def _prepare_set(
    modality: Modality, recipe: Recipe, name: str, data: DataSet, folder: Path, told: Progress
) -> PrepareSummary:
    settings = recipe.modality
    assert recipe.prepare is not None
    items = partial(modality.read_source, data)
    if data.label_kind == "number":
        items = partial(numbered, items)
    return prepare(
        partial(_test_items, name, items) if name.startswith(TESTS) else items,
        modality.encode,
        folder,
        recipe.prepare,
        seed=recipe.seed,
        progress=told,
        identity={
            "source": data.model_dump(include=set(SourceSettings.model_fields)),
            "modality": settings.name,
            "settings": settings.model_dump(mode="json", include=set(settings.prepare_sections)),
        },
        about=modality.about(),
        summarise=lambda totals: modality.summarise(totals).files,
    )


def _test_items(name: str, items: Callable[[], Iterable[SourceItem]]) -> Iterator[SourceItem]:
    """The items of a further test set: those that the source has for test, or has no split for."""
    is_empty = True
    for item in items():
        if item.split in (None, "test"):
            is_empty = False
            yield replace(item, split="test")
    if is_empty:
        raise UsageError(
            f"{source_key(name)} has samples for train and val, and none for test",
            remedy=f"Say which file it is: {source_key(name, 'files')}={{test: NAME}}.",
        )


def _subsets(recipe: Recipe, folders: dict[str, Path], modality: Modality) -> list[str]:
    """Write the subsets of the set that fine-tuning reads, where it is prepared here; in words."""
    assert recipe.prepare is not None
    name, _ = recipe.data_set("finetune")
    if name not in folders:
        return []
    unit = _unit(modality)
    found = write_subsets(folders[name], recipe.prepare.subsets, seed=recipe.seed, unit=unit)
    return subset_remarks(found, modality.length_unit)


def _unit(modality: Modality) -> Unit:
    return Unit(modality.length_unit.name, modality.length_unit.size)


def _listed(modality: Modality, data: DataSet, verbosity: int) -> Iterator[SourceItem]:
    """The items of a source, with a bar that shows how many have been read."""
    with Bar("inputs", verbosity) as bar:
        report = Reporter(partial(_tell, bar, "learn"))
        for number, item in enumerate(modality.read_source(data), start=1):
            report.listed(number)
            yield item


@contextmanager
def _one_thread() -> Iterator[None]:
    """One sample is too small to share between cores: threads would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_sources(modality: Modality, sets: dict[str, DataSet], place: Path) -> None:
    """Refuse a source that makes no sense before anything is made or, with --fresh, removed."""
    for name, data in sets.items():
        if name != "common" and data.source is None:
            raise UsageError(
                f"{source_key(name)} is not set",
                expected=f"a source for each of {', '.join(map(source_key, sets))}",
                remedy=f"Set {source_key(name)}=PATH.",
            )
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


def _tell(bar: Bar, title: str, now: PrepareProgress) -> None:
    what = "listing" if now.stage == "list" else "storing"
    bar.show(f"{title}: {what}", now.done, now.total, now.seconds)
