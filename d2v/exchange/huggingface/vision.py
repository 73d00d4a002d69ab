"""Folders of Data2VecVisionModel and Data2VecVisionForImageClassification."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from d2v.core.encoder import EncoderSettings
from d2v.errors import UsageError
from d2v.exchange.foreign import Foreign
from d2v.exchange.huggingface.config import CONFIG, VisionConfig, checked, mlp_ratio
from d2v.exchange.huggingface.names import vision_links
from d2v.exchange.huggingface.source import FolderSource, pooled_task
from d2v.exchange.json_file import read_json
from d2v.exchange.links import Layout, Link, Same
from d2v.modalities.vision.frontend import FrontendSettings

PREPROCESSOR = "preprocessor_config.json"
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = 0.5
_LEFT_OUT = {
    r".*\.relative_position_index": "computed from the grid, not learned",
    r"pooler\.layernorm\..*": "the norm of a classifier's head, and there is no classifier",
}


def read_vision(source: FolderSource) -> Foreign:
    """A picture model as d2v has it. Raises UsageError where it has no counterpart."""
    config = checked(VisionConfig, source.values, source.folder / CONFIG)
    frontend, changes, notes = _pixels(config, source)
    encoder = _encoder(config)
    mask_token = config.use_mask_token or source.has("embeddings.mask_token")
    links = vision_links(
        FrontendSettings.model_validate(frontend),
        EncoderSettings.model_validate(encoder),
        mask_token=mask_token,
    )
    links = source.under_prefix(links)
    left_out = dict(_LEFT_OUT)
    task = about = None
    if source.has_head:
        links += _head_links(config, source.prefix)
        pool = "mean" if config.use_mean_pooling else "first"
        task, about = pooled_task(config, {"pool": pool, "norm": config.use_mean_pooling})
        left_out.pop(r"pooler\.layernorm\..*")
    anew = {"frontend.mask_token": "the model has none (use_mask_token is off)"}
    return Foreign(
        kind=source.kind,
        modality={"name": "vision", "frontend": frontend, **changes},
        encoder=encoder,
        objective={},
        layout=Layout(
            links=tuple(links),
            left_out=source.left_out(left_out),
            anew={} if mask_token else anew,
        ),
        tensors=source.tensors,
        task=task,
        about=about,
        notes=tuple(notes),
    )


def _encoder(config: VisionConfig) -> dict[str, Any]:
    scale = config.layer_scale_init_value
    return {
        "dim": config.hidden_size,
        "depth": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "mlp_ratio": mlp_ratio(config.hidden_size, config.intermediate_size),
        "norm_position": "pre",
        "final_norm": not config.use_mean_pooling,
        "norm_eps": config.layer_norm_eps,
        "layer_scale": scale if scale > 0 else None,
        "dropout": config.hidden_dropout_prob,
        "attention_dropout": config.attention_probs_dropout_prob,
        "drop_path": config.drop_path_rate,
        "init_std": config.initializer_range,
    }


def _head_links(config: VisionConfig, prefix: str) -> list[Link]:
    """The norm of the pooled vector stands in the pooler there."""
    theirs = {"last": "classifier"}
    if config.use_mean_pooling:
        theirs["norm"] = f"{prefix}pooler.layernorm"
    return [
        Same(f"head.{ours}.{kind}", (f"{name}.{kind}",))
        for ours, name in theirs.items()
        for kind in ("weight", "bias")
    ]


def _pixels(
    config: VisionConfig, source: FolderSource
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """The frontend's settings, those of what happens to a picture before it, and notes."""
    path = source.folder / PREPROCESSOR
    said = read_json(path)
    notes = []
    if said:
        mean, std = _statistics(said, config.num_channels, path)
    else:
        mean, std = _usual(config, source.has_head)
        notes.append(
            f"There is no {PREPROCESSOR}: pixels are taken to have mean {list(mean)} and deviation "
            f"{list(std)}. If that is wrong, scores will be low."
        )
    frontend = {
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "channels": config.num_channels,
        "positions": config.positions,
        "cls_token": True,
        "pixel_mean": mean,
        "pixel_std": std,
    }
    size, crop = _side(said.get("size")), _side(said.get("crop_size"))
    cropped = bool(said.get("do_center_crop")) and size is not None and crop is not None
    seen = crop if cropped else size
    if said.get("do_resize", True) and seen not in (None, config.image_size):
        notes.append(
            f"{PREPROCESSOR} makes pictures of {seen} pixels and the model is of "
            f"{config.image_size}: d2v shows it {config.image_size}."
        )
    if cropped and crop is not None and size is not None and 0 < crop < size:
        return frontend, {"augment": {"evaluation_scale": crop / size}}, notes
    return frontend, {}, notes


def _usual(config: VisionConfig, fine_tuned: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """ImageNet's in pre-training, one half in the published fine-tuning (reference P11)."""
    if fine_tuned or config.num_channels == 1:
        return (_HALF,) * config.num_channels, (_HALF,) * config.num_channels
    return _IMAGENET


def _statistics(
    said: dict[str, Any], channels: int, path: Path
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of pixels in 0..1, a value a channel."""
    if (
        not said.get("do_rescale", True)
        or abs(said.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-3
    ):
        raise UsageError(
            f"{path} gives the model pixels that are not in 0..1",
            expected="do_rescale with a rescale_factor of 1 / 255",
        )
    if not said.get("do_normalize", True):
        return (0.0,) * channels, (1.0,) * channels
    found = []
    for name in ("image_mean", "image_std"):
        value = said.get(name, [_HALF] * channels)  # what the stock processor has for none
        values = tuple(value) if isinstance(value, list) else (value,)
        if len(values) == 1:
            values *= channels
        if len(values) != channels or not all(isinstance(one, int | float) for one in values):
            raise UsageError(f"{path}: {name} is {value}", expected=f"{channels} numbers")
        found.append(tuple(float(one) for one in values))
    return found[0], found[1]


def _side(size: Any) -> int | None:
    """Of the square, or the shorter side, that a preprocessor makes; None where it says none."""
    if isinstance(size, dict):
        size = size.get("height", size.get("shortest_edge"))
    return size if isinstance(size, int) else None
