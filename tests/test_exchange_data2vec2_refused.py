"""Proves: what d2v cannot follow in a data2vec 2.0 file is refused, by name and with its reason."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from d2v.errors import UsageError
from d2v.exchange.foreign_files import read_file
from tests.foreign_case import Tensors, filled, read, written
from tests.second_case import DIM, HEADS, content, network, pair, second_tensors, settings


def refusal(tmp_path: Path, kind: str, tensors: Tensors, message: str, **told: Any) -> None:
    path = written(tmp_path / "two.pt", content(kind, tensors, **told))
    with pytest.raises(UsageError, match=message):
        read(path)


# Settings


@pytest.mark.parametrize(("name", "value"), [("layer_norm_first", True), ("norm_affine", False)])
def test_settings_of_the_model__that_d2v_cannot_follow(
    tmp_path: Path, name: str, value: Any
) -> None:
    held = content("AUDIO", second_tensors("AUDIO"))
    held["cfg"]["model"][name] = value
    with pytest.raises(UsageError, match=f"{name} {value}"):
        read(written(tmp_path / "two.pt", held))


@pytest.mark.parametrize(
    ("name", "value"),
    [("extractor_mode", "default"), ("conv_pos_pre_ln", True), ("mask_dropout", 0.1)],
)
def test_settings_of_its_modality__that_d2v_cannot_follow(
    tmp_path: Path, name: str, value: Any
) -> None:
    refusal(tmp_path, "AUDIO", second_tensors("AUDIO"), f"{name} {value!r}", **{name: value})


@pytest.mark.parametrize("name", ["add_positions_masked", "add_positions_all"])
def test_settings_of_its_decoder__that_d2v_cannot_follow(tmp_path: Path, name: str) -> None:
    held = content("IMAGE", second_tensors("IMAGE"))
    held["cfg"]["model"]["modalities"]["image"]["decoder"][name] = True
    with pytest.raises(UsageError, match=f"{name} True"):
        read(written(tmp_path / "two.pt", held))


def test_depth__that_the_file_does_not_hold(tmp_path: Path) -> None:
    kept = {n: one for n, one in second_tensors("TEXT").items() if not n.startswith("blocks.1.")}
    refusal(tmp_path, "TEXT", kept, "says depth 2, and holds 1 such blocks")


def test_heads__that_are_told_twice(tmp_path: Path) -> None:
    path = written(tmp_path / "two.pt", content("AUDIO", second_tensors("AUDIO")))
    assert read(path, num_heads=HEADS)[1].encoder.num_heads == HEADS
    with pytest.raises(UsageError, match="alibi_scale 3 and num_heads 3 and --num-heads 4"):
        read(path, num_heads=4)


def test_heads__that_nobody_tells(tmp_path: Path) -> None:
    path = written(tmp_path / "two.pt", content("TEXT", second_tensors("TEXT"), cfg=False))
    with pytest.raises(UsageError, match="does not tell its attention heads.*Pass --num-heads"):
        read(path)


# Tensors


AUDIO_SCALE = "modality_encoders.AUDIO.alibi_scale"
IMAGE_SCALE = "modality_encoders.IMAGE.alibi_scale"
CHANGES: list[tuple[str, Callable[[Tensors], Any], str]] = [
    ("IMAGE", lambda t: t.pop("blocks.1.norm2.bias"), r"1 missing: blocks\.1\.norm2\.bias"),
    ("IMAGE", lambda t: t.update({"recon_proj.bias": torch.ones(1)}), r"1 unknown: recon_proj"),
    ("TEXT", lambda t: t.update({"shared_decoder.proj.bias": torch.ones(1)}), "1 unknown: shared"),
    ("IMAGE", lambda t: t.update({"modality_encoders.IMAGE.extra_tokens": torch.ones(1, 2, DIM)}),
     r"1 of another shape: modality_encoders\.IMAGE\.extra_tokens"),
    ("AUDIO", lambda t: t.update({AUDIO_SCALE: torch.ones(3, 1, 3, 1, 1)}),
     "a scale a head for all blocks"),
    ("IMAGE", lambda t: t.update(
        {"modality_encoders.IMAGE.fixed_positional_encoder.positions": torch.ones(1, 8, DIM)}
     ), "those of a square grid"),
    ("IMAGE", lambda t: t.update({IMAGE_SCALE: torch.ones(1, 1, 3, 1, 1)}),
     r"1 unknown: modality_encoders\.IMAGE\.alibi_scale"),
    ("TEXT", lambda t: t.update(
        {"modality_encoders.TEXT.decoder.proj.4.weight": torch.ones(DIM, DIM)}
     ), "projection_layers"),
    ("TEXT", lambda t: t.update(pair_of("modality_encoders.AUDIO.context_encoder.norm")),
     "modality_encoders.AUDIO, modality_encoders.TEXT"),
    ("TEXT", lambda t: t.pop("modality_encoders.TEXT.local_encoder.embed_positions.weight"),
     "embed_positions"),
]  # fmt: skip


def pair_of(name: str) -> Tensors:
    return filled(pair(name, DIM))


@pytest.mark.parametrize(("kind", "change", "message"), CHANGES)
def test_tensors__too_few_too_many_or_of_another_shape(
    tmp_path: Path, kind: str, change: Callable[[Tensors], Any], message: str
) -> None:
    tensors = second_tensors(kind)
    change(tensors)
    refusal(tmp_path, kind, tensors, message)


@pytest.mark.parametrize(
    ("kind", "prefix"), [("TEXT", "model."), ("AUDIO", "d2v_model."), ("AUDIO", "model.")]
)
def test_fine_tuned__for_what_no_reference_names(tmp_path: Path, kind: str, prefix: str) -> None:
    held = {"cfg": settings(kind), "model": filled(network(kind, prefix))}
    with pytest.raises(UsageError, match=rf"data2vec 2\.0 model of {kind} with {prefix}\*"):
        read(written(tmp_path / "tuned.pt", held))


def test_a_modality_that_is_none(tmp_path: Path) -> None:
    name = "modality_encoders.VIDEO.extra_tokens"
    path = written(tmp_path / "two.pt", {"model": {name: torch.ones(1)}})
    with pytest.raises(UsageError, match=r"has modality_encoders\.VIDEO"):
        read(path)


def test_a_tokenizer__for_what_is_no_text(tmp_path: Path) -> None:
    path = written(tmp_path / "two.pt", content("IMAGE", second_tensors("IMAGE")))
    with pytest.raises(UsageError, match="it is no model of text"):
        read_file(path, num_heads=None, tokenizer=tmp_path / "tokenizer.json")
