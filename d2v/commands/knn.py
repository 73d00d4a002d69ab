"""The held-out kNN score that is logged during pre-training."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from d2v.build import FrozenEncoder, check_samples
from d2v.commands.options import Options
from d2v.commands.stage import shards_folder
from d2v.config import Loaded
from d2v.core.classifiers import knn_predictions
from d2v.core.probing import ProbeSettings
from d2v.data.shards import Shards
from d2v.data2vec import Distillation
from d2v.engine.distributed import World
from d2v.extract import encoder_features, extract, length_at_once
from d2v.hardware import resolve_precision
from d2v.modalities import build_modality
from d2v.recipe import Recipe

_KNN = 10


class HeldOut(NamedTuple):
    """Labelled splits: `val` is scored by its neighbours in `train`."""

    train: Shards
    val: Shards


def held_out(loaded: Loaded[Recipe], options: Options, trained: Shards) -> HeldOut | None:
    """The splits that the score takes; None where there are no labels.

    Args:
        loaded: the recipe.
        options: where its runs lie.
        trained: what pre-training reads.

    Raises:
        UsageError: the splits do not fit the modality, or mean something else than `trained`.
    """
    recipe = loaded.settings
    data = recipe.data_set("probe" if recipe.probe is not None else "pretrain")
    folder = shards_folder(loaded, options, *data)
    if not (folder / "val" / "index.json").exists():
        return None
    splits = HeldOut(Shards.open(folder / "train"), Shards.open(folder / "val"))
    if len(splits.val.classes) < 2 or not all((part.labels >= 0).any() for part in splits):
        return None
    for part in splits:
        build_modality(recipe.modality).check_data(part.about)
        check_samples(recipe, part, trained.about, f"this recipe ({trained.folder})")
    return splits


def knn_score(
    recipe: Recipe,
    splits: HeldOut,
    model: Distillation,
    world: World,
    on_problem: Callable[[str], None],
) -> Callable[[], dict[str, float]]:
    """KNN accuracy of the student on held-out data."""
    assert recipe.pretrain is not None
    probe = recipe.probe or ProbeSettings()
    precision = resolve_precision(recipe.pretrain.precision, recipe.encoder, world.device.type)
    modality, limit = build_modality(recipe.modality), recipe.pretrain.probe_samples

    def score() -> dict[str, float]:
        if not world.writes:  # the score picks the best checkpoint, which rank 0 alone writes
            return {}
        frozen = FrozenEncoder(
            frontend=model.frontend, encoder=model.encoder, digest="", precision=precision
        )
        function = encoder_features(frozen, pool=probe.pool, block=probe.block)
        parts = [
            extract(split, modality, function, batch_size=probe.batch_size,
                    batch_length=length_at_once(probe, modality.length_unit), limit=limit,
                    max_bad_fraction=recipe.data.max_bad_fraction, on_problem=on_problem)
            for split in splits
        ]  # fmt: skip
        mean = parts[0].features.mean(0)
        predicted = knn_predictions(
            parts[0].features - mean, parts[0].labels, parts[1].features - mean,
            num_classes=len(splits.val.classes), ks=[_KNN],
        )[_KNN]  # fmt: skip
        return {"knn": float((predicted == parts[1].labels).float().mean())}

    return score
