"""The held-out kNN score that is logged during pre-training."""

from __future__ import annotations

from collections.abc import Callable

from d2v.build import FrozenEncoder, resolve_precision
from d2v.commands.options import Options
from d2v.commands.stage import shards_folder
from d2v.config import Loaded
from d2v.core.classifiers import knn_predictions
from d2v.core.probing import ProbeSettings
from d2v.data.shards import Shards
from d2v.data2vec import Data2Vec
from d2v.engine.distributed import World
from d2v.extract import encoder_features, extract
from d2v.modalities import build_modality
from d2v.recipe import Recipe

_KNN = 10


def knn_score(
    loaded: Loaded[Recipe],
    options: Options,
    model: Data2Vec,
    world: World,
    on_problem: Callable[[str], None],
) -> Callable[[], dict[str, float]] | None:
    """KNN accuracy of the student on held-out data; None where there are no labels."""
    recipe = loaded.settings
    assert recipe.pretrain is not None
    data = recipe.data_set("probe" if recipe.probe is not None else "pretrain")
    folder = shards_folder(loaded, options, *data)
    if not (folder / "val" / "index.json").exists():
        return None
    train_split, val = Shards.open(folder / "train"), Shards.open(folder / "val")
    if len(val.classes) < 2 or not all((part.labels >= 0).any() for part in (train_split, val)):
        return None
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
            extract(split, modality, function, batch_size=probe.batch_size, limit=limit,
                    max_bad_fraction=recipe.data.max_bad_fraction, on_problem=on_problem)
            for split in (train_split, val)
        ]  # fmt: skip
        mean = parts[0].features.mean(0)
        predicted = knn_predictions(
            parts[0].features - mean, parts[0].labels, parts[1].features - mean,
            num_classes=len(val.classes), ks=[_KNN],
        )[_KNN]  # fmt: skip
        return {"knn": float((predicted == parts[1].labels).float().mean())}

    return score
