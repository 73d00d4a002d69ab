"""Proves: timm's BEiT and ViT import with the same outputs, or are refused with the reason."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import SwiGLUPacked
from timm.models._hub import save_for_hf
from timm.models.beit import Beit
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from d2v.errors import UsageError
from d2v.exchange.foreign_files import read_file
from tests.foreign_case import read, written
from tests.foreign_picture_case import encoded, pictures

SIZES: dict[str, Any] = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2,
                         "num_heads": 4, "mlp_ratio": 1.5}  # fmt: skip
VIT, BEIT = "vit_tiny_patch16_224", "beit_base_patch16_224"


def drawn(model: nn.Module) -> nn.Module:
    """Weights that show everything: what starts at zero or one, too."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def folder_of(model: nn.Module, folder: Path, **model_args: Any) -> Path:
    """As timm saves it for the hub."""
    save_for_hf(model, str(folder), model_args=model_args, safe_serialization=True)
    return folder


def stock(name: str, **changed: Any) -> tuple[nn.Module, dict[str, Any]]:
    arguments = {**SIZES, **changed}
    return drawn(timm.create_model(name, pretrained=False, **arguments)), arguments


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit with CLS": (VIT, {"num_classes": 5}),
    "vit without CLS": (VIT, {"num_classes": 5, "class_token": False, "global_pool": "avg"}),
    "vit with layer scale": (VIT, {"num_classes": 5, "init_values": 0.1, "global_pool": "avg"}),
    "vit with its norm before the mean": (
        VIT, {"num_classes": 5, "global_pool": "avg", "fc_norm": False},
    ),
    "vit with a norm of CLS": (VIT, {"num_classes": 5, "fc_norm": True}),
    "vit without a bias, in grey": (VIT, {"num_classes": 5, "qkv_bias": False, "in_chans": 1}),
    "vit without positions": (VIT, {"num_classes": 5, "pos_embed": "none"}),
    "vit without a head": (VIT, {"num_classes": 0}),
    "beit, a table a block": (BEIT, {"num_classes": 5}),
    "beit, one table": (
        BEIT, {"num_classes": 5, "use_rel_pos_bias": False, "use_shared_rel_pos_bias": True,
               "init_values": None, "global_pool": "token"},
    ),
    "beit with positions": (
        BEIT, {"num_classes": 5, "use_rel_pos_bias": False, "use_abs_pos_emb": True},
    ),
    "beit without a bias": (BEIT, {"num_classes": 0, "qkv_bias": False}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_folder__outputs_are_those_of_timm(tmp_path: Path, case: str) -> None:
    name, changed = CASES[case]
    model, arguments = stock(name, **changed)
    folder = folder_of(model, tmp_path / "timm", **arguments)
    foreign, recipe, made = read(folder)
    assert foreign.kind == f"timm {name}"
    batch, normalised = pictures(recipe)
    with torch.no_grad():
        tokens: Tensor = model.forward_features(normalised)  # type: ignore[operator]  # timm's
        outputs = model(normalised)
    assert torch.allclose(encoded(made, batch), tokens, rtol=0, atol=1e-5)
    assert (made.model is None) == (changed["num_classes"] == 0)
    if made.model is not None:
        ours = made.model.eval().predict(batch).values
        assert torch.allclose(ours, outputs, rtol=0, atol=1e-5)


def test_folder__tells_pixels_and_names_of_classes(tmp_path: Path) -> None:
    model, arguments = stock(VIT, num_classes=2)
    folder = folder_of(model, tmp_path / "timm", **arguments)
    config = json.loads((folder / "config.json").read_bytes())
    config["pretrained_cfg"] |= {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    config["label_names"] = ["cat", "dog"]
    (folder / "config.json").write_text(json.dumps(config))
    foreign, recipe, _ = read(folder)
    frontend = recipe.modality.model_dump()["frontend"]
    assert (frontend["pixel_mean"], frontend["pixel_std"]) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert foreign.about == {"classes": ["cat", "dog"]}
    assert foreign.notes == ()


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "bin"])
def test_a_file_alone__takes_the_heads_from_the_user(tmp_path: Path, suffix: str) -> None:
    model, _ = stock(VIT, num_classes=5, global_pool="avg", init_values=0.1)
    path = tmp_path / f"vit.{suffix}"
    if suffix == "safetensors":
        save_file(model.state_dict(), path)
    else:
        written(path, {"state_dict": model.state_dict()} if suffix == "pth" else model.state_dict())
    with pytest.raises(UsageError, match="tells its attention heads.*Pass --num-heads"):
        read(path)
    foreign, recipe, made = read(path, num_heads=4)
    assert foreign.kind == "timm ViT"
    assert len(foreign.notes) == 2
    batch, normalised = pictures(recipe)
    assert made.model is not None
    with torch.no_grad():
        outputs = model(normalised)
    assert torch.allclose(made.model.eval().predict(batch).values, outputs, rtol=0, atol=1e-5)


def test_a_beit_alone__has_its_heads_in_its_tables(tmp_path: Path) -> None:
    model, _ = stock(BEIT, num_classes=5)
    save_file(model.state_dict(), tmp_path / "beit.safetensors")
    foreign, recipe, made = read(tmp_path / "beit.safetensors")
    assert (foreign.kind, recipe.encoder.num_heads) == ("timm BEiT", 4)
    assert recipe.modality.model_dump()["frontend"]["positions"] == "relative_per_block"
    assert set(made.accounted.anew) == {"frontend.mask_token"}


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        (VIT, {"reg_tokens": 2}, "register tokens"),
        (VIT, {"pre_norm": True}, "a norm before the blocks"),
        (VIT, {"qk_norm": True}, "norms of query and key"),
        (VIT, {"no_embed_class": True}, "no_embed_class"),
        (VIT, {"global_pool": "map"}, "pools by map"),
        (VIT, {"act_layer": "quick_gelu"}, "its activation is"),
        (VIT, {"img_size": (16, 20)}, "not square"),
        (VIT, {"global_pool": "avg", "pool_include_prefix": True}, "averages over CLS"),
        (BEIT, {"swiglu_mlp": True}, "its activation is|SwiGLU"),
        (BEIT, {"use_abs_pos_emb": True}, "positions of several kinds"),
    ],
)
def test_folder__what_d2v_cannot_express_is_refused_with_the_reason(
    tmp_path: Path, name: str, changed: dict[str, Any], message: str
) -> None:
    model, arguments = stock(name, num_classes=5, **changed)
    folder = folder_of(model, tmp_path / "timm", **arguments)
    with pytest.raises(UsageError, match=message):
        read_file(folder, num_heads=None, tokenizer=None)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: VisionTransformer(reg_tokens=1, **SIZES), "register tokens"),
        (
            lambda: VisionTransformer(no_embed_class=True, **SIZES),
            "without a pos",
        ),
        (lambda: Beit(swiglu_mlp=True, **SIZES), "SwiGLU"),
        (
            lambda: VisionTransformer(mlp_layer=SwiGLUPacked, **SIZES),  # type: ignore[arg-type]  # timm calls it
            "SwiGLU",
        ),
    ],
)
def test_a_file_alone__what_d2v_cannot_express_is_refused_too(
    tmp_path: Path, build: Any, message: str
) -> None:
    save_file(build().state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(UsageError, match=message):
        read(tmp_path / "vit.safetensors", num_heads=4)


def test_folder__of_another_architecture_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "timm"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
    save_file({"blocks.0.attn.qkv.weight": torch.ones(2), "patch_embed.proj.weight": torch.ones(2)},
              folder / "model.safetensors")  # fmt: skip
    with pytest.raises(UsageError, match="is timm's resnet18"):
        read_file(folder, num_heads=None, tokenizer=None)
    (folder / "config.json").write_text(json.dumps({"architecture": "vit_of_nobody"}))
    with pytest.raises(UsageError, match="timm cannot build the vit_of_nobody"):
        read_file(folder, num_heads=None, tokenizer=None)


def test_options_that_a_folder_does_not_need__are_refused(tmp_path: Path) -> None:
    model, arguments = stock(VIT, num_classes=0)
    folder = folder_of(model, tmp_path / "timm", **arguments)
    with pytest.raises(UsageError, match="--num-heads 4 is not needed"):
        read(folder, num_heads=4)
    with pytest.raises(UsageError, match="it is no model of text"):
        read(folder, tokenizer=tmp_path / "tokenizer.json")
