"""A model of another library as a run directory, whole or not there.

pretrain/config.yaml        name, modality, encoder and objective: what later stages take over
pretrain/checkpoints/       an ordinary checkpoint of step 0: student, teacher where there is one
finetune/model/             an ordinary model folder, where the source has a task's head
tokenizer.json              where the source has one
import.json                 the kind; where every tensor went, and what was made anew
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from d2v.build import identity
from d2v.engine.checkpoint import load_checkpoint, save_checkpoint, write_durably
from d2v.engine.run_directory import RunDirectory
from d2v.engine.whole_folder import as_json, whole_folder
from d2v.errors import D2VError, UsageError
from d2v.exchange.account import Accounted
from d2v.exchange.assembled import Assembled, assembled
from d2v.exchange.foreign import Foreign
from d2v.exchange.own_recipe import recipe_of
from d2v.modalities import build_modality
from d2v.modalities.text.tokenizer import TOKENIZER_FILE
from d2v.model_folder import save_model
from d2v.recipe import Recipe

MANIFEST = "import.json"
_WRITTEN = {"pretrain", "finetune", TOKENIZER_FILE, MANIFEST}


@dataclass(frozen=True, kw_only=True)
class Landed:
    """What was written.

    Args:
        folder: the run directory.
        recipe: its settings.
        accounted: where every tensor went.
        num_parameters: learned numbers of the student, head included.
    """

    folder: Path
    recipe: Recipe
    accounted: Accounted
    num_parameters: int


def check_free(dest: Path, source: Path, *, fresh: bool) -> None:
    """Refuse a folder that holds something.

    Args:
        dest: to write.
        source: must outlive it.
        fresh: an earlier import may be replaced; anything else is left alone.

    Raises:
        UsageError: it holds something else, or is the folder that one is in.
    """
    if dest.resolve() == Path.cwd():  # the folder is put in its place: this one would be gone
        raise UsageError(
            f"{dest} is the folder that you are in", remedy="Name one that is not there."
        )
    if source.expanduser().resolve().is_relative_to(dest.resolve()) and source.exists():
        raise UsageError(
            f"{source} lies in {dest}, which would be replaced", remedy="Name another folder."
        )
    if not dest.exists() or (dest.is_dir() and not any(dest.iterdir())):
        return
    if not (dest / MANIFEST).is_file():
        raise UsageError(
            f"{dest} exists, and d2v import did not write it",
            expected="a folder that is not there yet",
            remedy="Name another one.",
        )
    if not fresh:
        raise UsageError(
            f"{dest} holds an imported model", remedy="Pass --fresh to replace it, or name another."
        )
    if more := sorted(_names(dest) - _WRITTEN | _names(dest / "finetune") - {"model"}):
        raise UsageError(
            f"{dest} holds more than an imported model: {', '.join(more)}",
            expected="nothing that --fresh would lose",
            remedy="Move it away, or name another folder.",
        )


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def land(foreign: Foreign, dest: Path, source: Path) -> Landed:
    """Write the run directory.

    Args:
        foreign: what was read.
        dest: the folder; what is there is replaced.
        source: where it was read from.

    Raises:
        UsageError: d2v cannot express the model, or its tensors are not those that it should have.
        D2VError: the disk is full or not writable; nothing half-written is left.
    """
    recipe = recipe_of(foreign, dest)
    if foreign.task is not None and _lacks_tokenizer(foreign, recipe):
        raise UsageError(
            f"{source} has no tokenizer, and without it nobody can ask {foreign.kind} anything",
            expected="a tokenizer.json, or a vocab.json with its merges.txt",
            remedy="Download it, or name one with --tokenizer FILE.",
        )
    made = assembled(foreign, recipe, str(source))
    try:
        with whole_folder(dest) as folder:
            if foreign.tokenizer is not None:
                write_durably(folder / TOKENIZER_FILE, foreign.tokenizer)
            _write_pretrain(folder, foreign, recipe, made)
            _write_model(folder / "finetune" / "model", foreign, recipe, made)
            write_durably(folder / MANIFEST, as_json(_manifest(foreign, source, made.accounted)))
    except OSError as error:
        raise D2VError(
            f"{dest} could not be written: {error.strerror or error}",
            remedy="Make room or mend the permissions, then start the same command again.",
        ) from error
    return Landed(
        folder=dest, recipe=recipe, accounted=made.accounted, num_parameters=made.num_parameters
    )


def _lacks_tokenizer(foreign: Foreign, recipe: Recipe) -> bool:
    return recipe.modality.name == "text" and foreign.tokenizer is None


def _write_pretrain(folder: Path, foreign: Foreign, recipe: Recipe, made: Assembled) -> None:
    """The stage's folder as a finished training leaves it."""
    known = not _lacks_tokenizer(foreign, recipe)
    about = build_modality(recipe.modality, folder).about() if known else {}
    (folder / "pretrain").mkdir()
    stage = RunDirectory(folder / "pretrain")
    config = recipe.model_dump(
        mode="json", include={"name", "seed", "modality", "encoder", "objective"}
    )
    text = f"# Imported: {foreign.kind}\n" + yaml.safe_dump(config, sort_keys=False)
    # Settings of no recipe: pre-training never continues here, it starts from here.
    stage.start({"imported": foreign.kind}, {}, text, "cpu")
    path = save_checkpoint(
        stage.path / "checkpoints", 0, {"model": made.checkpoint_tensors()},
        {"identity": identity(recipe), "about": about},
    )  # fmt: skip
    stage.finish(
        {
            "imported": foreign.kind,
            "steps": 0,
            "checkpoint": path.name,
            "checkpoint_digest": load_checkpoint(path).digest,
            "report": {"headline": f"Imported: {foreign.kind}"},
        }
    )


def _write_model(folder: Path, foreign: Foreign, recipe: Recipe, made: Assembled) -> None:
    """The model folder, where the source has a task's head."""
    if made.model is None or made.task is None:
        return
    with TemporaryDirectory() as name:
        learned = Path(name)
        if foreign.tokenizer is not None:
            write_durably(learned / TOKENIZER_FILE, foreign.tokenizer)
        save_model(folder, made.model, made.task, recipe, figures={}, learned=learned)


def _manifest(foreign: Foreign, source: Path, accounted: Accounted) -> dict[str, Any]:
    return {
        "kind": foreign.kind,
        "source": str(source),
        "mapped": accounted.mapped,
        "left_out": accounted.left_out,
        "made_anew": accounted.anew,
        "notes": list(foreign.notes),
    }
