"""Proves: what goes out to timm gives the same there, or is refused with the reason."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data import resolve_model_data_config

from d2v.errors import D2VError, UsageError
from d2v.exchange.links import to_theirs
from d2v.exchange.pictures.timm_export import export_timm
from tests.export_case import POST, PRE, SPEECH, leaving, speech, text, vision

SCALED = {**PRE, "layer_scale": 0.2}
PLAIN = {**PRE, "layer_scale": None}
NORMED = {"name": "classify", "head": {"norm": True}}
FIRST = {"name": "classify", "head": {"pool": "first"}}
EXPRESSIBLE: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]] = {
    **{
        f"{positions} {'cls' if cls else 'no cls'}": (
            vision(positions=positions, cls_token=cls), SCALED if cls else PLAIN, None
        )
        for positions in ("relative", "relative_per_block", "sincos_2d", "learned", "none")
        for cls in (True, False)
    },
    "no last norm": (vision(), {**SCALED, "final_norm": False}, None),
    "classes, norm after pooling": (vision(cls_token=False), PLAIN, NORMED),
    "classes, norm before pooling": (vision(), PLAIN, {"name": "classify"}),
    "classes of cls": (vision(), PLAIN, FIRST),
    "classes, tables, norm after pooling": (vision(positions="relative_per_block"), SCALED, NORMED),
    "classes, tables, norm before pooling": (
        vision(positions="relative", cls_token=False), SCALED, {"name": "classify"}
    ),
    "classes of cls, tables": (
        vision(positions="relative"), PLAIN,
        {"name": "classify", "head": {"pool": "first", "norm": True}},
    ),
    "number": (vision(), PLAIN, {**NORMED, "name": "regress", "low": 1.0, "high": 5.0}),
    "another epsilon": (vision(), {**SCALED, "norm_eps": 1e-12}, None),
}  # fmt: skip
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None, str]] = {
    "speech": (speech(), SPEECH, None, "it reads speech"),
    "text": (text(), POST, None, "it reads text"),
    "post": (vision(), POST, None, "encoder.norm_position is post"),
    "hidden": (vision(), PRE, {"name": "classify", "head": {"hidden": True}}, "hidden is true"),
    "first without cls": (vision(cls_token=False), PRE, FIRST, "there is no CLS token"),
    "tables without a norm": (
        vision(positions="relative"), {**PRE, "final_norm": False}, None, "always ends in a norm"
    ),
    "no norm": (vision(), {**PRE, "final_norm": False}, {"name": "classify"}, "has a norm"),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_export__the_stock_model_gives_the_same(name: str, tmp_path: Path) -> None:
    found = export_timm(leaving(*EXPRESSIBLE[name]), tmp_path)
    assert found.largest_difference < 1e-4
    assert set(found.files) == {"README.md", "config.json", "model.safetensors"}


@pytest.mark.parametrize("name", REFUSED)
def test_export__what_timm_cannot_express_is_refused_with_the_reason(
    name: str, tmp_path: Path
) -> None:
    modality, encoder, task, reason = REFUSED[name]
    with pytest.raises(UsageError, match=reason):
        export_timm(leaving(modality, encoder, task), tmp_path)


def test_export__class_names_and_pixel_statistics_go_along(tmp_path: Path) -> None:
    export_timm(leaving(vision(), PRE, NORMED), tmp_path)
    model: Any = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    data = resolve_model_data_config(model)  # type: ignore[no-untyped-call]  # timm's
    assert (data["input_size"], data["mean"], data["std"]) == ((1, 8, 8), [0.4], [0.3])
    assert model.pretrained_cfg["label_names"] == ["cat", "dog", "owl"]
    assert model(torch.zeros(1, 1, 8, 8)).shape == (1, 3)
    assert json.loads((tmp_path / "config.json").read_text())["num_classes"] == 3


def test_export__a_model_that_answers_otherwise_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(*given: Any) -> dict[str, torch.Tensor]:
        return {name: tensor * 1.1 for name, tensor in to_theirs(*given).items()}

    monkeypatch.setattr("d2v.exchange.pictures.timm_export.to_theirs", spoilt)
    with pytest.raises(D2VError, match="gives other outputs than d2v"):
        export_timm(leaving(vision(), PRE), tmp_path)


def test_export__tensors_that_do_not_add_up_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*given: Any) -> dict[str, torch.Tensor]:
        return dict(list(to_theirs(*given).items())[1:])

    monkeypatch.setattr("d2v.exchange.pictures.timm_export.to_theirs", short)
    with pytest.raises(D2VError, match="does not take the model"):
        export_timm(leaving(vision(), PRE), tmp_path)
