"""Proves: what d2v cannot express, or is not whole, is refused by name; nothing is guessed.

And how weights may lie in a folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from d2v.errors import UsageError
from d2v.exchange.foreign import Foreign
from d2v.exchange.recognise import recognise
from tests.stock_case import AUDIO, STATISTICS, TEXT, VISION, ours, save, stock

MODELS = {
    "vision": ("VisionModel", {**VISION, "use_shared_relative_position_bias": True}),
    "audio": ("AudioModel", AUDIO),
    "text": ("TextModel", TEXT),
}


@pytest.fixture(name="folders", scope="module")
def folders_fixture(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each kind."""
    place = tmp_path_factory.mktemp("folders")
    files = {"vision": {"preprocessor_config": STATISTICS}}
    return {
        kind: save(stock(name, **settings), place / kind, **files.get(kind, {}))
        for kind, (name, settings) in MODELS.items()
    }


@pytest.fixture(name="spoilt")
def spoilt_fixture(folders: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy with other settings in its config.json, or other tensors."""

    def copy(kind: str, change: Callable[[dict[str, Any]], object] = lambda _: None, /,
             **settings: Any) -> Path:  # fmt: skip
        folder = tmp_path / kind
        folder.mkdir(exist_ok=True)
        for path in folders[kind].iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        config = json.loads((folder / "config.json").read_bytes())
        (folder / "config.json").write_text(json.dumps(config | settings))
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")
        return folder

    return copy


def read(folder: Path, num_heads: int | None = None, tokenizer: Path | None = None) -> Foreign:
    return recognise(folder, num_heads=num_heads, tokenizer=tokenizer)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("vision", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
    ("vision", {"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new'"),
    ("vision", {"image_size": [20, 24]}, "image_size"),
    ("vision", {"image_size": 22}, "22 is not divisible by patch_size 4"),
    ("vision", {"use_relative_position_bias": True}, "are both set"),
    ("vision", {"use_absolute_position_embeddings": True}, "are both set"),
    ("vision", {"num_channels": 4}, "num_channels is 4"),
    ("vision", {"num_attention_heads": 5}, "24 is not divisible by num_attention_heads 5"),
    ("vision", {"quantization_config": {"bits": 8}}, "quantization_config"),
    ("vision", {"auto_map": {"AutoModel": "code.Model"}}, "auto_map"),
    ("vision", {"pruned_heads": {"0": [1]}}, "pruned_heads"),
    ("vision", {"layer_norm_eps": "small"}, "layer_norm_eps is 'small'"),
    ("audio", {"add_adapter": True}, "add_adapter is True"),
    ("audio", {"feat_extract_activation": "relu"}, "feat_extract_activation is 'relu'"),
    ("audio", {"conv_stride": [6]}, "not equally many"),
    ("audio", {"conv_stride": [6, 7]}, "no shorter than the stride"),
    ("text", {"is_decoder": True}, "is_decoder is True"),
    ("text", {"add_cross_attention": True}, "add_cross_attention is True"),
    ("text", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
    ("text", {"problem_type": "multi_label_classification"}, "problem_type"),
    ("text", {"max_position_embeddings": 4}, "leaves 2 positions"),
]


@pytest.mark.parametrize(("kind", "settings", "told"), REFUSED, ids=[r[2] for r in REFUSED])
def test_settings__without_a_counterpart_are_refused_by_name(
    spoilt: Callable[..., Path], kind: str, settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError) as error:
        read(spoilt(kind, **settings))
    assert told in str(error.value)
    assert "config.json" in str(error.value)


def test_settings__that_nobody_reads_are_told(spoilt: Callable[..., Path]) -> None:
    notes = read(spoilt("audio", do_stable_layer_norm=True, torch_dtype="float32")).notes
    assert [note for note in notes if "do_stable_layer_norm" in note]
    assert not [note for note in notes if "torch_dtype" in note]


def test_activation__has_two_names(spoilt: Callable[..., Path]) -> None:
    assert read(spoilt("vision", hidden_act="gelu_python")).kind.endswith("Data2VecVisionModel")


# Tensors


def test_tensors__that_are_missing_are_named(spoilt: Callable[..., Path]) -> None:
    folder = spoilt("audio", lambda t: t.pop("encoder.layers.1.attention.k_proj.weight"))
    with pytest.raises(UsageError, match=r"1 missing: encoder\.layers\.1\.attention\.k_proj"):
        ours(folder)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"num_hidden_layers": 10**8}, "100,000,000 blocks"),
        ({"hidden_size": 3_000_000, "intermediate_size": 6_000_000}, "width 3,000,000"),
    ],
)
def test_sizes__that_the_tensors_cannot_fill_are_refused_before_anything_is_made(
    spoilt: Callable[..., Path], settings: dict[str, int], told: str
) -> None:
    with pytest.raises(UsageError) as caught:
        ours(spoilt("vision", **settings))
    assert told in str(caught.value)


def test_tensors__that_nobody_knows_are_named(spoilt: Callable[..., Path]) -> None:
    folder = spoilt("text", lambda t: t.update({"encoder.layer.3.extra": torch.zeros(2)}))
    with pytest.raises(UsageError, match=r"1 unknown: encoder\.layer\.3\.extra"):
        ours(folder)


def test_tensors__of_another_shape_are_named(spoilt: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="of another shape.*intermediate.dense"):
        ours(spoilt("text", intermediate_size=53))


def test_tensors__of_the_wrong_pooling_are_named(spoilt: Callable[..., Path]) -> None:
    # Hugging Face would leave random weights there and say nothing (reference section 5.5).
    with pytest.raises(UsageError, match=r"2 missing: layernorm\.weight"):
        ours(spoilt("vision", use_mean_pooling=False))


def test_tensors__that_d2v_has_no_use_for_are_listed_with_a_reason(
    folders: dict[str, Path],
) -> None:
    accounted = ours(folders["text"]).accounted
    assert accounted.left_out.keys() == {"pooler.dense.weight", "pooler.dense.bias"}
    assert all("no pooler" in why for why in accounted.left_out.values())
    names = load_file(folders["text"] / "model.safetensors").keys()
    assert accounted.mapped.keys() | accounted.left_out.keys() == names


def test_mask_token__that_is_not_there_is_drawn_and_said(folders: dict[str, Path]) -> None:
    first, again = ours(folders["vision"]), ours(folders["vision"])
    assert first.accounted.anew.keys() == {"frontend.mask_token"}
    drawn = first.parts["frontend"].get_parameter("mask_token")
    assert 0 < drawn.std() < 1
    assert torch.equal(drawn, again.parts["frontend"].get_parameter("mask_token"))


def test_other_heads__are_left_out_and_the_encoder_is_taken(tmp_path: Path) -> None:
    folder = save(stock("TextForMaskedLM", **TEXT), tmp_path / "m")
    foreign = read(folder)
    assert foreign.kind == "Hugging Face Data2VecTextForMaskedLM"
    assert any("no head like that" in note for note in foreign.notes)
    accounted = ours(folder).accounted
    assert {name.partition(".")[0] for name in accounted.left_out} == {"lm_head"}
    assert len(accounted.mapped) > 40


# Files


def test_weights__may_be_half_precision_and_that_is_told(spoilt: Callable[..., Path]) -> None:
    def halve(tensors: dict[str, Any]) -> None:
        tensors.update({name: tensor.half() for name, tensor in tensors.items()})

    folder = spoilt("vision", halve)
    assert any("float16" in note for note in read(folder).notes)
    kept = ours(folder).parts["frontend"].get_parameter("cls_token")
    assert kept.dtype == torch.float32


def test_weights__may_lie_in_several_files_or_be_pickled(tmp_path: Path) -> None:
    model = stock("VisionModel", **VISION)
    whole = read(save(model, tmp_path / "whole")).tensors
    model.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    old = save(model, tmp_path / "old")
    (old / "model.safetensors").unlink()
    torch.save(model.state_dict(), old / "pytorch_model.bin")
    for folder in (tmp_path / "parts", old):
        found = read(folder).tensors
        assert found.keys() == whole.keys()
        assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_weights__that_are_damaged_are_told(spoilt: Callable[..., Path]) -> None:
    path = spoilt("vision") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UsageError, match=r"model\.safetensors cannot be read"):
        read(path.parent)
    path.unlink()
    with pytest.raises(UsageError, match="no weights"):
        read(path.parent)


def test_index__that_points_elsewhere_is_refused(spoilt: Callable[..., Path]) -> None:
    folder = spoilt("vision")
    (folder / "model.safetensors").rename(folder.parent / "other.safetensors")
    index = {"weight_map": {"embeddings.cls_token": "../other.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match="names a file elsewhere"):
        read(folder)


def test_sources__that_are_none_are_told_what_is_known(
    spoilt: Callable[..., Path], tmp_path: Path
) -> None:
    folder = spoilt("vision", model_type="wav2vec2")
    with pytest.raises(UsageError, match="type wav2vec2.*data2vec-audio"):
        read(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"config\.json cannot be read"):
        read(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UsageError, match=r"no config\.json.*fairseq"):
        read(folder)
    with pytest.raises(UsageError, match="does not exist"):
        read(tmp_path / "nowhere")


def test_sources__that_are_a_part_of_a_folder_name_the_folder(folders: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="Name the folder"):
        read(folders["vision"] / "model.safetensors")


def test_options__that_are_not_needed_are_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="--num-heads 3 is not needed"):
        read(folders["text"], num_heads=3)
    with pytest.raises(UsageError, match="pictures need none"):
        read(folders["vision"], tokenizer=Path("tokenizer.json"))
    with pytest.raises(UsageError, match="names symbols"):
        read(folders["audio"], tokenizer=Path("vocab.json"))


# Preprocessors


def test_pixels__have_the_statistics_of_the_preprocessor(tmp_path: Path) -> None:
    model = stock("VisionModel", **VISION)
    said = {**STATISTICS, "size": {"shortest_edge": 25}, "crop_size": {"height": 20, "width": 20},
            "do_center_crop": True}  # fmt: skip
    modality = read(save(model, tmp_path / "a", preprocessor_config=said)).modality
    frontend = modality["frontend"]
    assert frontend["pixel_mean"] == tuple(STATISTICS["image_mean"])
    assert frontend["pixel_std"] == tuple(STATISTICS["image_std"])
    assert modality["augment"] == {"evaluation_scale": 0.8}
    plain = read(save(model, tmp_path / "b", preprocessor_config={"do_normalize": False}))
    assert plain.modality["frontend"]["pixel_mean"] == (0.0, 0.0, 0.0)
    nothing = read(save(model, tmp_path / "c"))
    assert nothing.modality["frontend"]["pixel_mean"] == (0.485, 0.456, 0.406)
    assert any("pixels are taken to have" in note for note in nothing.notes)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"do_rescale": False}, "not in 0..1"),
        ({"rescale_factor": 1 / 127.5}, "not in 0..1"),
        ({"image_mean": [0.5, 0.5]}, "image_mean is"),
    ],
    ids=["as they are", "twice as far", "two of three"],
)
def test_pixels__that_d2v_does_not_make_are_refused(
    said: dict[str, Any], told: str, spoilt: Callable[..., Path]
) -> None:
    folder = spoilt("vision")
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    with pytest.raises(UsageError, match=told):
        read(folder)


def test_recordings__are_standardised_as_the_preprocessor_says(
    spoilt: Callable[..., Path],
) -> None:
    folder = spoilt("audio")
    assert read(folder).modality["frontend"]["normalise"] is True
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({"do_normalize": False, "sampling_rate": 16000}))
    assert read(folder).modality["frontend"]["normalise"] is False
    path.write_text(json.dumps({"sampling_rate": 8000}))
    with pytest.raises(UsageError, match="recordings at 8000 Hz"):
        read(folder)
