"""The published data2vec 2.0 models: what a file that says nothing of itself was trained with.

Source: reference sections 4.3, 4.6, 4.8 and 4.9.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["IMAGE", "AUDIO", "TEXT"]
"""As fairseq names them within `modality_encoders`."""
HEADS = {768: 12, 1024: 16, 1280: 16}
"""Width -> attention heads."""
_LARGE, _HUGE = 1024, 1280


@dataclass(frozen=True, kw_only=True)
class Published:
    """One of them.

    Args:
        name: for people.
        objective: what stands in the `objective` section.
        mask: what stands in `modality.mask`.
        dropout: of the encoder: attention output, attention weights, behind the feed-forward part.
        layerdrop: of the encoder.
        cls_loss: weight of a view's CLS loss.
        views_per_device: by which that weight grows (P5).
    """

    name: str
    objective: dict[str, Any]
    mask: dict[str, Any]
    dropout: float = 0.1
    layerdrop: float = 0.0
    cls_loss: float = 0.0
    views_per_device: int = 1
    decoder: dict[str, Any] = field(default_factory=lambda: {"input_dropout": 0.1})


def published(kind: Kind, dim: int, patch: int = 16) -> Published:
    """The model of that modality whose width comes next.

    Args:
        kind: of modality.
        dim: width.
        patch: side of a patch in pixels, of pictures.
    """
    if kind == "TEXT":
        return _text(large=dim >= _LARGE)
    if kind == "AUDIO":
        return _audio(large=dim >= _LARGE)
    return _image(dim, patch)


def _image(dim: int, patch: int) -> Published:
    name, top_k, views = "image base", 10, 256
    mask: dict[str, Any] = {"kind": "inverse_block", "ratio": 0.8, "size": 3, "adjust": 0.07}
    tau = _tau(0.9998, 0.99999, 100_000)
    if dim >= _LARGE:
        mask = {**mask, "ratio": 0.75, "adjust": 0.1}
        name, top_k, views, tau = "image large", 18, 128, _tau(0.9998, 0.99999, 150_000)
    if dim >= _HUGE:
        name, top_k, tau = "image huge-16", 24, _tau(0.9998, 0.99995, 150_000)
        if patch == 14:
            name, tau = "image huge-14", _tau(0.9998, 1.0, 300_000)
    return Published(
        name=name,
        objective=_objective(top_k, 16, tau, norms=("instance", "layer")),
        mask=mask,
        dropout=0.0,
        cls_loss=0.01,
        views_per_device=views,
        decoder={"input_dropout": 0.0},
    )


def _audio(*, large: bool) -> Published:
    if large:
        return Published(
            name="audio large",
            objective=_objective(16, 12, _tau(0.9997, 1.0, 300_000), norms=("instance", "none")),
            mask={"kind": "blocks", "ratio": 0.55, "adjust": 0.1, "length": 5},
        )
    return Published(
        name="audio base",
        objective=_objective(8, 8, _tau(0.999, 0.99999, 75_000), norms=("instance", "none")),
        mask={"kind": "blocks", "ratio": 0.5, "adjust": 0.05, "length": 5},
        layerdrop=0.05,
    )


def _text(*, large: bool) -> Published:
    norms = ("layer", "instance") if large else ("instance", "none")
    tau = _tau(0.9999, 0.99999, 100_000)
    objective = _objective(24 if large else 12, 8, tau, norms=norms)
    return Published(
        name=f"text {'large' if large else 'base'}",
        objective={**objective, "channel_reduction": "sum"},
        mask={"kind": "random", "ratio": 0.5 if large else 0.48},
        decoder={"input_dropout": 0.1, "residual": False},
    )


def _objective(
    top_k: int, masks: int, tau: dict[str, Any], *, norms: tuple[str, str]
) -> dict[str, Any]:
    return {
        "name": "data2vec2",
        "top_k": top_k,
        "target_feature": "ffn",
        "target_norm": norms[0],
        "mean_norm": norms[1],
        "beta": 0.0,
        "channel_reduction": "inv_sqrt_dim",
        "tau": tau,
        "masks_per_sample": masks,
    }


def _tau(start: float, end: float, steps: int) -> dict[str, Any]:
    return {"schedule": "linear", "tau_0": start, "tau_e": end, "tau_n": f"{steps} steps"}
