"""Proves: models of fairseq's files give the outputs of transformers' classes with those weights.

The weights get their other names by hand, from reference sections 5.3 and 5.4.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from d2v.types import Batch
from tests.foreign_case import (
    CONVOLUTIONS,
    DEPTH,
    DIM,
    GROUPS,
    HEADS,
    HIDDEN,
    KERNEL,
    POSITIONS,
    ROWS,
    SPEECH,
    TOKENS,
    Tensors,
    filled,
    of_layers,
    of_speech,
    of_text_embeddings,
    read,
    speech_content,
    written,
)

transformers = pytest.importorskip("transformers")
STEM = "encoder.sentence_encoder."
SIZES: dict[str, Any] = {"hidden_size": DIM, "num_hidden_layers": DEPTH, "layer_norm_eps": 1e-5,
                         "num_attention_heads": HEADS, "intermediate_size": HIDDEN}  # fmt: skip
SPEECH_NAMES = {
    "mask_emb": "masked_spec_embed",
    "post_extract_proj": "feature_projection.projection",
    "layer_norm": "feature_projection.layer_norm",
    "self_attn_layer_norm": "layer_norm",
    "self_attn": "attention",
    "fc1": "feed_forward.intermediate_dense",
    "fc2": "feed_forward.output_dense",
}
TEXT_NAMES = {
    "embed_tokens": "embeddings.word_embeddings",
    "embed_positions": "embeddings.position_embeddings",
    "layernorm_embedding": "embeddings.LayerNorm",
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "self_attn_layer_norm": "attention.output.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "final_layer_norm": "output.LayerNorm",
}


def speech_name(name: str) -> str:
    """Reference 5.3, from left to right."""
    if name.startswith("feature_extractor."):
        stem, number, part = re.fullmatch(r"(.*conv_layers)\.(\d+)\.(.*)", name).groups()  # type: ignore[union-attr]  # it matches
        inner = part.replace("0.", "conv.", 1) if part.startswith("0.") else f"layer_norm{part[3:]}"
        return f"{stem}.{number}.{inner}"
    if name.startswith("encoder.pos_conv."):
        return re.sub(r"pos_conv\.(\d+)\.0", r"pos_conv_embed.layers.\1.conv", name)
    if name.startswith("encoder.layers."):
        head, _, rest = name.partition("layers.")
        number, _, part = rest.partition(".")
        first, _, last = part.partition(".")
        return f"{head}layers.{number}.{SPEECH_NAMES.get(first, first)}.{last}"
    if name.startswith("encoder."):
        return name
    first, dot, last = name.partition(".")
    return f"{SPEECH_NAMES[first]}{dot}{last}"


def text_name(name: str) -> str:
    """Reference 5.4."""
    inner = name.removeprefix(STEM)
    if inner.startswith("layers."):
        _, number, part = inner.split(".", 2)
        stem, _, kind = part.rpartition(".")
        return f"encoder.layer.{number}.{TEXT_NAMES[stem]}.{kind}"
    stem, _, kind = inner.rpartition(".")
    return f"{TEXT_NAMES[stem]}.{kind}"


def assert_close(ours: list[Tensor], theirs: list[Tensor], padding: Tensor) -> None:
    """Within 1e-5 at all places that hold data."""
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other)[~padding].abs().max() < 1e-5


@torch.no_grad()
def hidden_states(parts: dict[str, Any], batch: Batch) -> list[Tensor]:
    """The output of every block."""
    frontend, encoder = parts["frontend"].eval(), parts["encoder"].eval()
    tokens = frontend(frontend.features(batch), None, batch.padding)
    found: list[Tensor] = encoder(tokens, "end_of_block", DEPTH).features
    return found


def recordings(parts: dict[str, Any]) -> tuple[Batch, Tensor]:
    """Two of different length, and which samples of them are real."""
    lengths = [900, 640]
    waves = torch.zeros(2, max(lengths))
    generator = torch.Generator().manual_seed(1)
    for row, length in enumerate(lengths):
        waves[row, :length] = torch.randn(length, generator=generator)
    geometry = parts["frontend"].extractor.settings.geometry
    return Batch(inputs=waves, padding=geometry.padding(lengths)), waves.ne(0).long()


def stock_speech(kind: str, tensors: Tensors, **settings: Any) -> Any:
    channels, kernels, strides = zip(*CONVOLUTIONS, strict=True)
    config = transformers.Data2VecAudioConfig(
        **SIZES, conv_dim=channels, conv_kernel=kernels, conv_stride=strides,
        conv_pos_kernel_size=KERNEL,
        num_conv_pos_embeddings=POSITIONS, num_conv_pos_embedding_groups=GROUPS, **settings,
    )  # fmt: skip
    model = getattr(transformers, kind)(config)
    model.load_state_dict(tensors)
    return model.eval()


def test_speech__every_hidden_state_is_that_of_the_stock_class(tmp_path: Path) -> None:
    tensors = filled(of_speech())
    _, _, made = read(written(tmp_path / "base.pt", speech_content(tensors)))
    model = stock_speech(
        "Data2VecAudioModel", {speech_name(name): one for name, one in tensors.items()}
    )
    batch, real = recordings(made.parts)
    with torch.no_grad():
        theirs = model(batch.inputs, attention_mask=real, output_hidden_states=True).hidden_states
    assert batch.padding is not None
    assert_close(hidden_states(made.parts, batch), list(theirs[1:]), batch.padding)


def test_recogniser__log_probabilities_are_those_of_the_stock_class(tmp_path: Path) -> None:
    prefix = "w2v_encoder.w2v_model."
    head = {"w2v_encoder.proj.weight": (32, DIM), "w2v_encoder.proj.bias": (32,)}
    tensors = filled(of_speech(prefix) | head)
    content = {"cfg": {"model": {"w2v_args": SPEECH}}, "model": tensors}
    _, _, made = read(written(tmp_path / "ctc.pt", content))
    renamed = {
        f"data2vec_audio.{speech_name(name[len(prefix) :])}": one
        for name, one in tensors.items()
        if name.startswith(prefix)
    }
    renamed |= {
        f"lm_head.{kind}": tensors[f"w2v_encoder.proj.{kind}"] for kind in ("weight", "bias")
    }
    model = stock_speech("Data2VecAudioForCTC", renamed, vocab_size=32)
    batch, real = recordings(made.parts)
    with torch.no_grad():
        theirs = model(batch.inputs, attention_mask=real).logits.log_softmax(2)
    assert made.model is not None
    assert batch.padding is not None
    assert_close([made.model.eval().predict(batch).values], [theirs], batch.padding)


def text_batch() -> Batch:
    """Two samples of different length in fairseq's ids."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(4, TOKENS - 1, (2, 12), generator=generator)
    ids[:, 0], ids[0, -1], ids[1, 7], ids[1, 8:] = 0, 2, 2, 1
    return Batch(inputs=ids, padding=ids == 1)


def stock_text(kind: str, tensors: Tensors, **settings: Any) -> Any:
    config = transformers.Data2VecTextConfig(
        **SIZES, vocab_size=TOKENS, max_position_embeddings=ROWS, type_vocab_size=1, **settings
    )
    model = getattr(transformers, kind)(config)
    types = torch.zeros(1, DIM)
    prefix = "" if kind == "Data2VecTextModel" else "data2vec_text."
    model.load_state_dict(
        tensors | {f"{prefix}embeddings.token_type_embeddings.weight": types},
        strict=kind != "Data2VecTextModel",  # its pooler has no counterpart
    )
    return model.eval()


def test_text__every_hidden_state_is_that_of_the_stock_class(tmp_path: Path) -> None:
    tensors = filled(of_text_embeddings(STEM) | of_layers(STEM))
    path = written(tmp_path / "base.pt", {"model": tensors})
    _, _, made = read(path, num_heads=HEADS)
    model = stock_text("Data2VecTextModel", {text_name(name): one for name, one in tensors.items()})
    batch = text_batch()
    assert batch.padding is not None
    with torch.no_grad():
        theirs = model(
            batch.inputs, attention_mask=(~batch.padding).long(), output_hidden_states=True
        ).hidden_states
    assert_close(hidden_states(made.parts, batch), list(theirs[1:]), batch.padding)


def test_text__a_classifiers_logits_are_those_of_the_stock_class(tmp_path: Path) -> None:
    head = {
        "dense.weight": (DIM, DIM), "dense.bias": (DIM,),
        "out_proj.weight": (3, DIM), "out_proj.bias": (3,),
    }  # fmt: skip
    encoder = filled(of_text_embeddings(STEM) | of_layers(STEM))
    top = filled(head)
    tensors = encoder | {f"classification_heads.mnli.{name}": one for name, one in top.items()}
    _, _, made = read(written(tmp_path / "mnli.pt", {"model": tensors}), num_heads=HEADS)
    renamed = {f"data2vec_text.{text_name(name)}": one for name, one in encoder.items()}
    renamed |= {f"classifier.{name}": one for name, one in top.items()}
    model = stock_text("Data2VecTextForSequenceClassification", renamed, num_labels=3)
    batch = text_batch()
    assert batch.padding is not None
    with torch.no_grad():
        theirs = model(batch.inputs, attention_mask=(~batch.padding).long()).logits
    assert made.model is not None
    ours = made.model.eval().predict(batch).values
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-5)
