"""`d2v probe`: what the frozen encoder learned, beside what it must beat."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np

from d2v.build import (
    FrozenEncoder,
    check_samples,
    fitting_checkpoint,
    load_encoder,
    untrained_encoder,
)
from d2v.commands.options import Options
from d2v.commands.probe_table import (
    PRETRAINED,
    SUPERVISED,
    UNTRAINED,
    num_labelled,
    probe_report,
)
from d2v.commands.stage import (
    about_weights,
    need,
    open_splits,
    shards_folder,
    share_cores,
    spare_workers,
    stage_folder,
    working,
)
from d2v.commands.supervised import train_supervised
from d2v.config import Loaded
from d2v.core.probing import FeatureSet, ProbeSettings, Score, probe_scores
from d2v.data.loader import read_split
from d2v.data.shards import Shards
from d2v.engine.checkpoint import Checkpoint
from d2v.errors import UsageError
from d2v.extract import encoder_features, extract, length_at_once
from d2v.modalities import Features, Modality, build_modality
from d2v.recipe import Recipe
from d2v.report import Report


def run(loaded: Loaded[Recipe], options: Options) -> Report:
    """Score raw features, the untrained and the pre-trained encoder on the same splits."""
    recipe = loaded.settings
    settings: ProbeSettings = need(recipe, "probe", loaded)
    if options.dry_run:
        return _plan(settings, recipe)
    if settings.supervised:
        need(recipe, "pretrain", loaded)  # its steps, batch and optimiser
    splits = _splits(loaded, options)
    checkpoint = _checkpoint(loaded, options, splits)
    inputs = {"checkpoint": checkpoint.digest}
    inputs |= {name: shards.fingerprint for name, shards in splits.items()}
    with working(loaded, options, "probe", inputs) as (stage, done):
        if done is not None:
            return done
        started = time.perf_counter()
        share_cores(0)
        modality = build_modality(recipe.modality)
        pretrained = load_encoder(recipe, checkpoint.path, settings.network)
        encoders = {PRETRAINED: pretrained}
        if settings.baselines:
            encoders = {UNTRAINED: untrained_encoder(recipe, pretrained), **encoders}
        if settings.supervised:
            encoders[SUPERVISED] = train_supervised(loaded, options, splits, stage.path)
        unusable: set[str] = set()
        table = _score_all(recipe, settings, modality, splits, encoders, unusable)
        report = probe_report(table, settings, splits, time.perf_counter() - started)
        report.remarks.extend([*about_weights(checkpoint, loaded, options), *sorted(unusable)])
        result = _result(table, settings, splits, inputs, report)
        stage.finish(result | {"unusable": sorted(unusable)})
    return report


def check_data(loaded: Loaded[Recipe], options: Options) -> None:
    """Refuse data that the probe could not score.

    Raises:
        UsageError: no val, no labels, or one class only.
    """
    _splits(loaded, options)


def _checkpoint(loaded: Loaded[Recipe], options: Options, splits: dict[str, Shards]) -> Checkpoint:
    """What is to be probed.

    Raises:
        UsageError: there is none, or one of another architecture or of data unlike `splits`.
    """
    recipe = loaded.settings
    named = recipe.pretrain.checkpoint if recipe.pretrain is not None else None
    place = named or stage_folder(loaded, options, "pretrain")
    checkpoint = fitting_checkpoint(recipe, place)
    for shards in splits.values():
        check_samples(recipe, shards, checkpoint.state.get("about", {}), str(checkpoint.path))
    return checkpoint


def _splits(loaded: Loaded[Recipe], options: Options) -> dict[str, Shards]:
    """train, val and test of the probe's data; a source without test is scored on val.

    Raises:
        UsageError: no val, no labels, or one class only.
    """
    recipe = loaded.settings
    folder = shards_folder(loaded, options, *recipe.data_set("probe"))
    splits = open_splits(recipe, folder, "the probe chooses its penalty and k on val")
    for shards in splits.values():
        classes = sorted({int(label) for label in shards.labels} - {-1})
        if len(classes) < 2:
            what = "no labels" if not classes else f"one class only ({shards.classes[classes[0]]})"
            raise UsageError(
                f"{shards.folder} has {what}: there is nothing to probe",
                expected="samples of at least two classes in train, val and test",
                remedy="Arrange the source as one folder a class, or give a table with labels; "
                "without labels leave the probe out (probe=null).",
            )
    _refuse_foreign_classes(splits)
    return splits


def _refuse_foreign_classes(splits: dict[str, Shards]) -> None:
    """Test speakers that train lacks, say: every score would be 0, and tell nothing."""
    known = splits["train"].labels
    for shards in splits.values():
        if not np.isin(shards.labels[shards.labels >= 0], known).any():
            raise UsageError(
                f"No class of {shards.folder} occurs in train: there is nothing to probe",
                expected="classes that train has, too",
                remedy="Where labels are speakers, use one split as the source (its train/), so "
                "that val and test are drawn from the same speakers.",
            )


def _score_all(
    recipe: Recipe,
    settings: ProbeSettings,
    modality: Modality,
    splits: dict[str, Shards],
    encoders: dict[str, FrozenEncoder],
    unusable: set[str],
) -> dict[str, list[Score]]:
    """Every kind of features through the same probe; what is unusable is noted once."""
    read_train = partial(read_split, splits["train"], modality, batch_size=settings.batch_size)
    functions: dict[str, Features] = {}
    if settings.baselines:
        functions |= modality.baselines(read_train)
    for name, frozen in encoders.items():
        functions[name] = encoder_features(frozen, pool=settings.pool, block=settings.block)
    num_classes = len(splits["train"].classes)
    num_workers = spare_workers(recipe) if sum(map(len, splits.values())) > 20_000 else 0
    table = {}
    for name, function in functions.items():
        parts = {
            split: extract(
                shards, modality, function, batch_size=settings.batch_size,
                batch_length=length_at_once(settings, modality.length_unit),
                num_workers=num_workers, max_bad_fraction=recipe.data.max_bad_fraction,
                on_problem=unusable.add,
            )
            for split, shards in splits.items()
        }  # fmt: skip
        test: FeatureSet = parts.get("test", parts["val"])
        table[name] = probe_scores(
            parts["train"], parts["val"], test, settings,
            num_classes=num_classes, seed=recipe.seed,
        )  # fmt: skip
    return table


def _result(
    table: dict[str, list[Score]],
    settings: ProbeSettings,
    splits: dict[str, Shards],
    inputs: dict[str, str],
    report: Report,
) -> dict[str, Any]:
    return {
        "features": "frozen",
        "scored_on": "test" if "test" in splits else "val",
        "samples": {name: num_labelled(shards) for name, shards in splits.items()},
        "settings": settings.model_dump(mode="json"),
        "inputs": inputs,
        "scores": {name: [score.as_json() for score in scores] for name, scores in table.items()},
        "report": vars(report),
    }


def _plan(settings: ProbeSettings, recipe: Recipe) -> Report:
    fits = len(settings.labels_per_class) * settings.draws
    return Report(
        headline="Plan of probe (nothing is written)",
        text=f"features: {'raw, untrained and ' * settings.baselines}pre-trained {settings.network}"
        f"{', trained with labels' if settings.supervised else ''}; pool {settings.pool}\n"
        f"budgets {settings.labels_per_class}, {settings.draws} draws: at most {fits} draws of "
        f"labels, {len(settings.l2_grid)} penalties and {len(settings.k_grid)} k each, "
        f"seed {recipe.seed}",
    )
