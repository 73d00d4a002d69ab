"""A picture model of ours as a folder that `timm.create_model("local-dir:DEST")` loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save
from torch import Tensor

from d2v.engine.whole_folder import as_json, file_names
from d2v.errors import D2VError
from d2v.exchange.huggingface.card import model_card
from d2v.exchange.huggingface.check import our_rows, random_examples
from d2v.exchange.huggingface.files import write_files
from d2v.exchange.links import to_theirs
from d2v.exchange.outgoing import Exported, Outgoing
from d2v.exchange.pictures.timm_export_layout import TimmStock, timm_model
from d2v.modalities.vision.modality import VisionSettings

_TOLERANCE = 1e-4
_EPS = 1e-6
"""Of the layer norms in timm's models; a folder cannot tell another one."""


def export_timm(outgoing: Outgoing, folder: Path) -> Exported:
    """Write the folder, load it again with timm, and compare outputs.

    Args:
        outgoing: the model.
        folder: that is there and empty; the caller removes it where this fails.

    Raises:
        UsageError: timm has no such model.
        D2VError: timm does not take the tensors, or gives other outputs.
    """
    task, tensors = outgoing.task_and_tensors()
    about = {} if outgoing.task is None else outgoing.task.about()
    classes = list(about.get("classes", ()))
    outputs = 0 if outgoing.model is None else max(1, len(classes))
    recipe = outgoing.recipe
    stock = timm_model(recipe.modality, recipe.encoder, task, outputs)
    assert isinstance(recipe.modality, VisionSettings)
    write_files(
        folder,
        {
            "config.json": as_json(_config(stock, recipe.modality, recipe.encoder.dim, classes)),
            "model.safetensors": save(to_theirs(stock.layout, tensors), metadata={"format": "pt"}),
        },
    )
    difference = _largest_difference(outgoing, folder)
    what = f"timm {stock.architecture}, its arguments changed as config.json says"
    remarks, loading = _remarks(outgoing), _how_to_load(outgoing)
    (folder / "README.md").write_text(model_card(outgoing, "timm", what, loading, remarks))
    return Exported(
        what=what, files=tuple(file_names(folder)), how_to_load=loading,
        largest_difference=difference, remarks=remarks,
    )  # fmt: skip


def _config(
    stock: TimmStock, modality: VisionSettings, dim: int, classes: list[str]
) -> dict[str, Any]:
    """In the format of timm's hub."""
    frontend = modality.frontend
    first = {"first_conv": "patch_embed.proj", "classifier": "head"}
    size = [frontend.channels, frontend.image_size, frontend.image_size]
    return {
        "architecture": stock.architecture,
        "num_classes": stock.arguments["num_classes"],
        "num_features": dim,
        "global_pool": stock.arguments["global_pool"],
        "model_args": stock.arguments,
        "pretrained_cfg": {
            "tag": "d2v",
            "custom_load": False,
            "input_size": size,
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": modality.augment.evaluation_scale,
            "crop_mode": "center",
            "mean": list(frontend.pixel_mean),
            "std": list(frontend.pixel_std),
            "num_classes": stock.arguments["num_classes"],
            "pool_size": None,
            **({"label_names": classes} if classes else {}),
            **first,
        },
    }


@torch.no_grad()
def _largest_difference(outgoing: Outgoing, folder: Path) -> float:
    """Of tokens, or of the task's outputs, for random pictures. Raises D2VError."""
    settings = outgoing.recipe.modality
    assert isinstance(settings, VisionSettings)
    try:
        model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    except (RuntimeError, TypeError, ValueError) as error:
        raise D2VError(
            f"timm {timm.__version__} does not take the model: {error}",
            remedy="Nothing was written. Please report it, with the recipe and both versions.",
        ) from error
    examples = random_examples(outgoing)
    batch = outgoing.modality.collate(examples)
    ours = torch.stack(our_rows(outgoing, batch))
    mean = torch.tensor(settings.frontend.pixel_mean).view(-1, 1, 1)
    std = torch.tensor(settings.frontend.pixel_std).view(-1, 1, 1)
    pictures = (batch.inputs / 255 - mean) / std
    if outgoing.model is None:
        theirs: Tensor = model.forward_features(pictures)
        theirs = theirs[:, theirs.shape[1] - ours.shape[1] :]  # without a CLS that is hidden
    else:
        theirs = model(pictures).reshape(ours.shape)
    worst, largest = float((ours - theirs).abs().max()), float(ours.abs().max())
    if not worst <= _TOLERANCE * max(1.0, largest):
        raise D2VError(
            f"timm {timm.__version__} gives other outputs than d2v: the largest difference is "
            f"{worst:.3g}, of numbers up to {largest:.3g}",
            expected=f"at most {_TOLERANCE:g} of them",
            remedy=f"encoder.norm_eps is {outgoing.recipe.encoder.norm_eps:g} here and {_EPS:g} "
            "there, which may be why. Nothing was written; --to hf, onnx or torch may take it.",
        )
    return worst


def _remarks(outgoing: Outgoing) -> tuple[str, ...]:
    told = []
    modality, encoder = outgoing.recipe.modality, outgoing.recipe.encoder
    assert isinstance(modality, VisionSettings)
    relative = modality.frontend.positions.startswith("relative")
    if relative and not modality.frontend.cls_token:
        told.append(
            "The model has no CLS token and Beit always has one: it is zero, and a relative bias "
            "of -1e30 hides it from every patch, which changes no patch's output."
        )
    if encoder.norm_eps != _EPS:
        told.append(
            f"Layer norms add {_EPS:g} to the variance in timm and {encoder.norm_eps:g} in d2v: "
            "the difference is that of the comparison above."
        )
    told.append("The vector for masked places stays here: timm's models mask nothing.")
    return tuple(told)


def _how_to_load(outgoing: Outgoing) -> str:
    call = "model(pictures)" if outgoing.model else "model.forward_features(pictures)"
    return "\n".join([
        "import timm",
        "",
        'model = timm.create_model("local-dir:DEST", pretrained=True).eval()',
        "read = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
        f"outputs = {call}  # pictures: (B, C, S, S), each out of read(picture)",
    ])  # fmt: skip
