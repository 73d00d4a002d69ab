"""Proves: what goes out to transformers gives the same there, and comes back as it was."""

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from d2v.commands.outgoing import Chosen, outgoing_model
from d2v.errors import D2VError, UsageError
from d2v.exchange.huggingface.export import export_huggingface
from d2v.exchange.land import land
from d2v.exchange.links import to_theirs
from d2v.exchange.outgoing import Exported, Outgoing
from d2v.exchange.recognise import recognise
from tests.export_case import (
    POST,
    PRE,
    SPEECH,
    learned_tokenizer,
    leaving,
    speech,
    tensors_of,
    text,
    vision,
)

SCALED = {**PRE, "layer_scale": 0.2}
PLAIN = {**PRE, "layer_scale": None, "norm_eps": 1e-12}
FIRST = {"positions": {"num_layers": 3, "kernel": 4, "groups": 2, "zero_padding": "first"}}
RELATIVE = {"positions": "relative"}
PER_BLOCK = {"positions": "relative_per_block"}
NORMED = {"name": "classify", "head": {"norm": True}}
HIDDEN: dict[str, Any] = {"pool": "first", "hidden": True, "dropout": 0.1}
SCORE = {"name": "regress", "head": HIDDEN, "low": 1.0, "high": 5.0}
CTC = {"name": "ctc"}

EXPRESSIBLE: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]] = {
    **{
        f"vision {positions} {'cls' if cls else 'no cls'}": (
            vision(positions=positions, cls_token=cls), SCALED if cls else PLAIN, None
        )
        for positions in ("relative", "relative_per_block", "sincos_2d", "learned", "none")
        for cls in (True, False)
    },
    "vision without its last norm": (vision(), {**SCALED, "final_norm": False}, None),
    "vision classes": (vision(**PER_BLOCK), SCALED, NORMED),
    "vision classes no cls": (vision(cls_token=False), PLAIN, NORMED),
    "vision classes of cls": (vision(), PLAIN, {"name": "classify", "head": {"pool": "first"}}),
    "vision number": (vision(**RELATIVE), PLAIN, {**NORMED, "name": "regress", "high": 9.0}),
    "speech": (speech(), SPEECH, None),
    "speech first": (speech(bias=True, normalise=False, **FIRST), SPEECH, None),
    "speech symbols": (speech(), SPEECH, CTC),
    "text": (text(), POST, None),
    "text types": (text(token_types=2), POST, None),
    "text pad": (text({"pad_id": 4, "mask_id": 1}), POST, None),
    "text classes": (text(first_position=5), POST, {"name": "classify", "head": HIDDEN}),
    "text number": (text(), POST, SCORE),
}  # fmt: skip
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None, str]] = {
    "vision post": (vision(), POST, None, "encoder.norm_position is post"),
    "vision hidden": (vision(), PRE, {"name": "classify", "head": {"norm": True, "hidden": True}},
                      "task.head.hidden is true"),
    "vision mean": (vision(), PRE, {"name": "classify"}, "task.head pools mean with norm false"),
    "speech logmel": ({"name": "speech", "frontend": {"kind": "logmel"}}, SPEECH, None,
                      "modality.frontend.kind is logmel"),
    "speech pre": (speech(), PRE, None, "encoder.norm_position is pre"),
    "speech no norm": (speech(), POST, None, "encoder.input_norm is false"),
    "speech classes": (speech(), SPEECH, {"name": "classify"}, "the task is classify"),
    "text pre": (text(), PRE, None, "encoder.norm_position is pre"),
    "text scaled": (text(), {**POST, "layer_scale": 0.1}, None, "encoder.layer_scale is set"),
    "text mean": (text(), POST, {"name": "classify"}, "task.head pools mean"),
}  # fmt: skip


def exported(outgoing: Outgoing, folder: Path) -> Exported:
    folder.mkdir()
    return export_huggingface(outgoing, folder)


def parts_of(outgoing: Outgoing) -> dict[str, Tensor]:
    if outgoing.model is not None:
        return tensors_of(outgoing.model.kept_parts())
    return tensors_of({"frontend": outgoing.frontend, "encoder": outgoing.encoder})


def reread(folder: Path, dest: Path) -> Path:
    land(recognise(folder, num_heads=None, tokenizer=None), dest, folder)
    return dest


@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_export__the_stock_class_gives_the_same_and_it_comes_back(
    name: str, tmp_path: Path
) -> None:
    modality, encoder, task = EXPRESSIBLE[name]
    learned = learned_tokenizer(tmp_path / "learned") if name in LEARNED else None
    outgoing = leaving(modality, encoder, task, learned)
    found = exported(outgoing, tmp_path / "there")
    assert found.largest_difference < 1e-4
    back = outgoing_model(reread(tmp_path / "there", tmp_path / "back"), Chosen())
    again = exported(replace(back, name="tiny"), tmp_path / "again")
    assert again.what == found.what
    first, second = (load_file(tmp_path / one / "model.safetensors") for one in ("there", "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    configs = [
        json.loads((tmp_path / one / "config.json").read_text()) for one in ("there", "again")
    ]
    assert configs[0] == configs[1]


LEARNED = ("text", "text classes", "text number")
"""With a tokenizer; the others have settings that no trained one has."""


@pytest.mark.parametrize("name", REFUSED)
def test_export__what_no_stock_class_expresses_is_refused_with_the_reason(
    name: str, tmp_path: Path
) -> None:
    modality, encoder, task, reason = REFUSED[name]
    with pytest.raises(UsageError, match=reason):
        exported(leaving(modality, encoder, task), tmp_path / "there")


@pytest.mark.parametrize("task", [None, NORMED])
def test_export__our_weights_come_back_bit_for_bit_the_keys_bias_too(
    task: dict[str, Any] | None, tmp_path: Path
) -> None:
    outgoing = leaving(vision(cls_token=False), PLAIN, task)
    ours = parts_of(outgoing)
    exported(outgoing, tmp_path / "there")
    back = parts_of(outgoing_model(reread(tmp_path / "there", tmp_path / "back"), Chosen()))
    assert bool(ours["encoder.blocks.0.attn.qkv.bias"].chunk(3)[1].any())
    if task is not None:  # the head's norm stands in the place of the encoder's
        ours = {name: kept for name, kept in ours.items() if "encoder.norm" not in name}
    assert ours.keys() == back.keys()
    assert all(torch.equal(ours[name], back[name]) for name in ours)


def test_export__the_head_of_pretraining_comes_back(tmp_path: Path) -> None:
    head = {"0.weight": torch.randn(16, 16), "0.bias": torch.randn(16)}
    exported(leaving(vision(), PRE, regression_head=head), tmp_path / "there")
    back = outgoing_model(reread(tmp_path / "there", tmp_path / "back"), Chosen())
    assert all(torch.equal(back.regression_head[name], head[name]) for name in head)


def test_export__a_folder_that_was_changed_elsewhere_is_read_like_anybodys(tmp_path: Path) -> None:
    exported(leaving(vision(**RELATIVE, cls_token=False), PLAIN), tmp_path / "there")
    path = tmp_path / "there" / "model.safetensors"
    tensors = load_file(path)
    tensors["embeddings.cls_token"] += 1  # CLS was trained: it says something now
    save_file(tensors, path, {"format": "pt"})
    foreign = recognise(tmp_path / "there", num_heads=None, tokenizer=None)
    assert foreign.kind == "Hugging Face Data2VecVisionModel"
    assert foreign.modality["frontend"]["cls_token"] is True


def test_export__a_class_that_answers_otherwise_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(*given: Any) -> dict[str, Tensor]:
        return {name: tensor * 1.1 for name, tensor in to_theirs(*given).items()}

    monkeypatch.setattr("d2v.exchange.huggingface.export.to_theirs", spoilt)
    with pytest.raises(D2VError, match="gives other outputs than d2v"):
        exported(leaving(text(), POST), tmp_path / "there")


def test_export__tensors_that_do_not_add_up_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*given: Any) -> dict[str, Tensor]:
        return dict(list(to_theirs(*given).items())[1:])

    monkeypatch.setattr("d2v.exchange.huggingface.export.to_theirs", short)
    with pytest.raises(D2VError, match="missing keys .*token_type_embeddings"):
        exported(leaving(text(), POST), tmp_path / "there")


def test_export__without_the_library_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> ModuleType:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr("d2v.exchange.huggingface.export.importlib.import_module", absent)
    with pytest.raises(UsageError, match=r"pip install 'd2v\[hf\]'"):
        exported(leaving(text(), POST), tmp_path / "there")


def test_export__padded_recordings_are_said_to_differ(tmp_path: Path) -> None:
    every = exported(leaving(speech(), SPEECH), tmp_path / "every")
    first = exported(leaving(speech(**FIRST), SPEECH), tmp_path / "first")
    assert any("keeps padding at zero" in remark for remark in every.remarks)
    assert not any("keeps padding at zero" in remark for remark in first.remarks)
    assert "keeps padding at zero" in (tmp_path / "every" / "README.md").read_text()
