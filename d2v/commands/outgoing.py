"""The model that `d2v export` takes out of a run, and what is known of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from d2v.architecture import find_config
from d2v.build import Network, fitting_checkpoint, load_network
from d2v.commands.learned import learned_folder, run_of
from d2v.commands.saved_recipe import saved_recipe
from d2v.core.encoder import Encoder
from d2v.errors import UsageError
from d2v.exchange.outgoing import Outgoing, Table
from d2v.modalities import build_modality
from d2v.model_folder import LoadedModel, find_model, load_model
from d2v.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What of the run is wanted.

    Args:
        encoder: the encoder, even where there is a fine-tuned model.
        teacher: with the teacher's weights.
        licence: of the model, as the user says.
    """

    encoder: bool = False
    teacher: bool = False
    licence: str | None = None


def outgoing_model(path: Path, chosen: Chosen) -> Outgoing:
    """The fine-tuned model where there is one, else the encoder.

    Args:
        path: a run directory, a folder in it, a model folder, or a checkpoint.
        chosen: what is wanted.

    Raises:
        UsageError: there is neither, or no teacher where it is asked for.
        D2VError: the checkpoint is damaged.
    """
    run = run_of(path)
    model = None if chosen.encoder else _model(path)
    found = _encoder(path, run, chosen) if model is None else _task_model(model)
    return replace(
        found,
        licence=chosen.licence,
        made_anew=frozenset(_made_anew(run)),
        figures={**found.figures, **_probe_figures(run, found)},
        data=tuple(_data(run, found.recipe)),
        steps=found.steps if found.steps is not None else _steps(run),
    )


def _model(path: Path) -> LoadedModel | None:
    try:
        find_model(path)
    except UsageError:
        return None
    return load_model(path)


def _task_model(loaded: LoadedModel) -> Outgoing:
    learned = loaded.folder / "learned"
    return Outgoing(
        recipe=loaded.recipe,
        modality=loaded.modality,
        frontend=loaded.model.frontend,
        encoder=loaded.model.encoder,
        model=loaded.model,
        task=loaded.task,
        learned=learned if learned.is_dir() else None,
        figures=_task_figures(loaded.figures),
        name=loaded.recipe.name,
        network="fine-tuned model",
    )


def _encoder(path: Path, run: Path, chosen: Chosen) -> Outgoing:
    recipe = _recipe(path)
    network: Network = "teacher" if chosen.teacher else "student"
    checkpoint = fitting_checkpoint(recipe, path)
    tensors = checkpoint.tensors["model"]
    learned = learned_folder(run)
    modality = build_modality(recipe.modality, learned)
    frontend, encoder = modality.build_frontend(recipe.encoder), Encoder(recipe.encoder)
    load_network(checkpoint, frontend, encoder, network)
    head = {
        name.removeprefix("head."): tensor
        for name, tensor in tensors.items()
        if name.startswith("head.")
    }
    return Outgoing(
        recipe=recipe,
        modality=modality,
        frontend=frontend.eval().requires_grad_(False),
        encoder=encoder.eval().requires_grad_(False),
        learned=learned,
        regression_head=head,
        name=recipe.name,
        network=network,
        steps=checkpoint.step or None,
    )


def _recipe(path: Path) -> Recipe:
    """The resolved recipe beside a checkpoint. Raises UsageError."""
    config = find_config(path)
    if config is None:
        kind = "holds no run of d2v" if path.exists() else "does not exist"
        raise UsageError(
            f"{path} {kind}",
            expected="a run directory (runs/NAME), a model folder, or a checkpoint",
            remedy="Run d2v pretrain or d2v finetune first, or name the folder that it wrote.",
        )
    return saved_recipe(config)[0]


def _json(path: Path) -> dict[str, Any]:
    """Content of a file that need not be there."""
    with suppress(OSError, ValueError):
        found = json.loads(path.read_bytes())
        return found if isinstance(found, dict) else {}
    return {}


def _made_anew(run: Path) -> list[str]:
    """Weights that an import drew, as long as nobody trained them: then it would be another run."""
    return [str(name) for name in _json(run / "import.json").get("made_anew", {})]


def _steps(run: Path) -> int | None:
    steps = _json(run / "pretrain" / "result.json").get("steps")
    return steps if isinstance(steps, int) and steps > 0 else None


def _task_figures(figures: Mapping[str, Any]) -> dict[str, Table]:
    """Scores of each split that was looked at, with their intervals."""
    rows = [
        (split, name, f"{value:.4g}", _interval(scored.get("interval", {}).get(name)))
        for reading in figures.get("scores", {}).values()
        for split, scored in reading.items()
        for name, value in scored.get("figures", {}).items()
    ]
    if not rows:
        return {}
    seeds = figures.get("seeds", [])
    remark = f"Mean over {len(seeds)} trainings." if len(seeds) > 1 else "Of one training."
    columns = ("split", "score", "value", "95 % interval")
    return {"Fine-tuned": Table(columns=columns, rows=tuple(rows), remarks=(remark,))}


def _interval(ends: Any) -> str:
    return "" if not ends else f"{ends[0]:.4g} to {ends[1]:.4g}"


def _probe_figures(run: Path, found: Outgoing) -> dict[str, Table]:
    """The probe's table, where it probed this encoder."""
    report = _json(run / "probe" / "result.json").get("report", {})
    if found.model is not None or not report.get("rows"):
        return {}
    remarks = [line for line in report.get("remarks", ()) if "/" not in line]  # no private paths
    rows = tuple(tuple(map(str, row)) for row in report["rows"])
    table = Table(columns=tuple(report["columns"]), rows=rows, remarks=tuple(remarks))
    return {"Probe of the frozen encoder": table}


def _data(run: Path, recipe: Recipe) -> Iterator[str]:
    """Names of sources, and how many samples each set has; folders of this machine stay private."""
    prepared = _json(run / "prepare" / "result.json").get("sets", {})
    for name, data in recipe.data_sets().items():
        if data.source is None:
            continue
        source = data.source if ":" in data.source else Path(data.source).name
        splits = prepared.get(name, {}).get("splits", {})
        counts = ", ".join(f"{split['num_samples']:,} {kind}" for kind, split in splits.items())
        use = "" if name == "common" else f" ({name})"
        yield f"Data{use}: {source}" + (f"; samples: {counts}." if counts else ".")
