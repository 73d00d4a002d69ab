"""The encoder that a run, a checkpoint, a model folder or a recipe names, and its data's way in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from d2v.architecture import find_config
from d2v.build import FrozenEncoder, Network, fitting_checkpoint, frozen, load_network
from d2v.commands.learned import take_over
from d2v.commands.saved_recipe import saved_recipe
from d2v.config import load_recipe, shipped_recipes
from d2v.core.encoder import Encoder
from d2v.core.probing import ProbeSettings
from d2v.data_sets import DataSet
from d2v.engine.checkpoint import Checkpoint
from d2v.errors import UsageError
from d2v.hardware import resolve_device, resolve_precision
from d2v.modalities import Modality, build_modality
from d2v.model_folder import find_model, load_model
from d2v.recipe import Recipe

Precision = Literal["auto", "float32", "bfloat16"]
_PLACES = "a run directory, a checkpoint, an imported model or the folder of a fine-tuned one"


@dataclass(frozen=True, kw_only=True)
class Embedder:
    """A frozen encoder and how data reach it.

    Args:
        frozen: the encoder.
        modality: turns raw data into what it reads.
        recipe: as it was trained.
        trained_on: `about` of its training data.
        source: how raw data were read then.
        network: whose weights these are.
        place: names it for people.
    """

    frozen: FrozenEncoder
    modality: Modality
    recipe: Recipe
    trained_on: Mapping[str, Any]
    source: DataSet
    network: Network
    place: Path

    @property
    def probe(self) -> ProbeSettings:
        """What its recipe would read from it."""
        return self.recipe.probe or ProbeSettings()


def place_of(name: str, runs: Path) -> Path:
    """Where the weights lie that a person names.

    Args:
        name: a folder, or a recipe's path or name, which stands for its run.
        runs: folder of the run directories.

    Raises:
        UsageError: there is nothing of that name, or the recipe has no run.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if not path.exists() and name not in [shipped.name for shipped in shipped_recipes()]:
        raise UsageError(
            f"There is no run and no recipe {name}",
            expected=f"{_PLACES}; or the path or name of a recipe that was trained",
        )
    loaded = load_recipe(name, [], Recipe)
    pretrain = loaded.settings.pretrain
    if pretrain is not None and pretrain.checkpoint is not None:
        return pretrain.checkpoint.expanduser()
    folder = runs / loaded.name
    if not folder.is_dir():
        raise UsageError(
            f"The recipe {name} has no run: {folder} does not exist",
            expected="a recipe that was trained",
            remedy=f"Run d2v pretrain {name}, or say with --runs where its run lies.",
        )
    return folder


def load_embedder(place: Path, network: Network | None, scratch: Path) -> Embedder:
    """The encoder at a place.

    Args:
        place: of `place_of`.
        network: whose weights; None for those that the probe would read.
        scratch: an empty folder; what encoding must know of the training data is copied there.

    Raises:
        UsageError: nothing is there that could be used.
        D2VError: the checkpoint is damaged.
    """
    model, config = _model_folder(place), find_config(place)
    if model is not None and (config is None or not _is_whole_run(place)):
        return _of_model(model, network)
    if config is None:
        raise UsageError(
            f"There is no encoder in {place}",
            expected=_PLACES,
            remedy="Name a folder with pretrain/config.yaml, such as runs/vision/digits.",
        )
    recipe, values = saved_recipe(config)
    recipe = _on_this_machine(recipe)
    asked: Precision = (values.get("pretrain") or {}).get("precision", "auto")
    checkpoint = fitting_checkpoint(recipe, place)
    modality = build_modality(recipe.modality)
    take_over(place, scratch, modality, asked="The encoder is that of")
    modality = build_modality(recipe.modality, scratch)
    trained_on = checkpoint.state.get("about", {})
    _refuse_foreign(modality, scratch, trained_on, place)
    network = network or (recipe.probe or ProbeSettings()).network
    return Embedder(
        frozen=_read_network(recipe, checkpoint, modality, network, asked),
        modality=modality,
        recipe=recipe,
        trained_on=trained_on,
        source=recipe.data_set("pretrain" if recipe.probe is None else "probe")[1],
        network=network,
        place=checkpoint.path,
    )


def _model_folder(place: Path) -> Path | None:
    try:
        return find_model(place)
    except UsageError:
        return None


def _is_whole_run(place: Path) -> bool:
    """Whether a place holds the encoder before it was fine-tuned, too."""
    return (place / "pretrain" / "config.yaml").is_file()


def _of_model(folder: Path, network: Network | None) -> Embedder:
    if network == "teacher":
        raise UsageError(
            f"{folder} is a fine-tuned model: it has no teacher",
            remedy="Leave --network out, or name the run that it was fine-tuned from.",
        )
    loaded = load_model(folder, with_readings=False)
    recipe = _on_this_machine(loaded.recipe)
    device = torch.device(resolve_device(recipe))
    asked = "auto" if recipe.finetune is None else recipe.finetune.precision
    model = loaded.model.to(device)
    return Embedder(
        frozen=FrozenEncoder(
            frontend=model.frontend,
            encoder=model.encoder,
            digest=hashlib.sha256((folder / "model.json").read_bytes()).hexdigest(),
            precision=resolve_precision(asked, recipe.encoder, device.type),
        ),
        modality=loaded.modality,
        recipe=recipe,
        trained_on=loaded.modality.about(),
        source=recipe.data_set("finetune")[1],
        network="student",
        place=folder,
    )


def _on_this_machine(recipe: Recipe) -> Recipe:
    """With what this machine has, where training asked for a GPU."""
    return recipe.model_copy(update={"device": "auto"}) if recipe.device == "cuda" else recipe


def _read_network(
    recipe: Recipe, checkpoint: Checkpoint, modality: Modality, network: Network, asked: Precision
) -> FrozenEncoder:
    frontend, encoder = modality.build_frontend(recipe.encoder), Encoder(recipe.encoder)
    load_network(checkpoint, frontend, encoder, network)
    precision = resolve_precision(asked, recipe.encoder, resolve_device(recipe))
    return replace(frozen(frontend, encoder, recipe, checkpoint.digest), precision=precision)


def _refuse_foreign(
    modality: Modality, learned: Path, trained: Mapping[str, Any], place: Path
) -> None:
    """Refuse to encode in another way than the training data were."""
    about = modality.about()
    for key in modality.common_about:
        if key in trained and trained[key] != about.get(key):
            files = ", ".join(path.name for path in learned.iterdir())
            raise UsageError(
                f"{place} was trained with {key} {trained[key]!r}, and what lies there now "
                f"({files}) has {about.get(key)!r}",
                expected="what the encoder was trained with: its inputs mean nothing else to it",
                remedy="Put that back, or train again on the data as they are prepared now.",
            )
