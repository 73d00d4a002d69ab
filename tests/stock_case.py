"""Hugging Face's data2vec classes with weights from a seed, and their hidden states beside ours."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

os.environ["HF_HUB_OFFLINE"] = "1"

import transformers  # noqa: E402  # after the variable that keeps it off the network

from d2v.core.encoder import Encoder  # noqa: E402
from d2v.exchange.assembled import Assembled, assembled  # noqa: E402
from d2v.exchange.huggingface.reader import read_huggingface  # noqa: E402
from d2v.exchange.own_recipe import recipe_of  # noqa: E402
from d2v.types import Batch, Frontend, Tokens  # noqa: E402

VISION: dict[str, Any] = {
    "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 52,
    "image_size": 20, "patch_size": 4, "layer_scale_init_value": 0.3, "layer_norm_eps": 1e-7,
}  # fmt: skip
AUDIO: dict[str, Any] = {
    "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 52,
    "conv_dim": [10, 12], "conv_kernel": [12, 5], "conv_stride": [6, 4],
    "conv_pos_kernel_size": 5, "num_conv_pos_embeddings": 2, "num_conv_pos_embedding_groups": 4,
    "vocab_size": 8,
}  # fmt: skip
TEXT: dict[str, Any] = {
    "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 52,
    "vocab_size": 261, "max_position_embeddings": 41, "type_vocab_size": 1,
}  # fmt: skip
"""Tiny ones: widths that 64 does not divide, an inner width that is no multiple."""
STATISTICS = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}


def stock(name: str, seed: int = 0, noise: float = 0.1, **settings: Any) -> Any:
    """A model of a stock class in eval mode, no weight at its usual start.

    Args:
        name: of the class, behind `Data2Vec`.
        seed: decides all weights.
        noise: deviation of what is added to every weight (a fifth of it to convolutions').
        settings: of its configuration.
    """
    model_class = getattr(transformers, f"Data2Vec{name}")
    kind = next(kind for kind in ("Vision", "Audio", "Text") if name.startswith(kind))
    torch.manual_seed(seed)
    model = model_class(getattr(transformers, f"Data2Vec{kind}Config")(**settings))
    with torch.no_grad():
        for one in model.parameters() if noise else ():
            # Nothing may be zero or one by chance: a tensor in a wrong place must show.
            one.add_(torch.randn_like(one), alpha=noise if one.ndim < 3 else noise / 5)
    return model.eval()


def save(model: Any, folder: Path, **files: Any) -> Path:
    """As `save_pretrained` writes it, with JSON files beside the weights."""
    model.save_pretrained(folder)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def ours(folder: Path, tokenizer: Path | None = None) -> Assembled:
    """The same in d2v, in eval mode."""
    foreign = read_huggingface(folder, num_heads=None, tokenizer=tokenizer)
    made = assembled(foreign, recipe_of(foreign, folder / "imported"), str(folder))
    for part in made.parts.values():
        part.eval()
    return made


@torch.no_grad()
def states(made: Assembled, batch: Batch) -> list[Tensor]:
    """What goes into the first block, comes out of each, and comes out last. (B, T, D) each."""
    frontend, encoder = cast(Frontend, made.parts["frontend"]), made.parts["encoder"]
    assert isinstance(encoder, Encoder)
    tokens: Tokens = frontend(frontend.features(batch), None, batch.padding)
    encoded = encoder(tokens, top_k=encoder.settings.depth)
    return [encoder.input_norm(tokens.values), *encoded.features, encoded.last]


def largest_difference(
    made: Assembled, batch: Batch, theirs: Any, real: Tensor | None = None
) -> float:
    """Over every hidden state and the last one, each in units of its largest value if that is > 1.

    Args:
        made: of d2v.
        batch: what it reads.
        theirs: the stock model's output with its hidden states.
        real: (B, T) bool, where tokens hold data; None for everywhere.
    """
    own = states(made, batch)
    others = [*theirs.hidden_states, theirs.last_hidden_state]
    assert len(own) == len(others)
    gaps = []
    for one, other in zip(own, others, strict=True):
        assert one.shape == other.shape
        gap, value = (one - other).abs(), other.abs()
        if real is not None:
            gap, value = gap[real], value[real]
        gaps.append(float(gap.max()) / max(1.0, float(value.max())))
    return max(gaps)


def pictures(count: int, side: int, channels: int = 3, seed: int = 0) -> Tensor:
    """(count, channels, side, side) uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, channels, side, side), dtype=torch.uint8, generator=generator)


def pixels(images: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """What Hugging Face's processor makes of them."""
    shape = (1, -1, 1, 1)
    return (images / 255 - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)


def recordings(lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """(B, S) float32 with zeros behind the ends, and (B, S) int64, 1 where there is data."""
    generator = torch.Generator().manual_seed(seed)
    there = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    values = torch.randn(len(lengths), max(lengths), generator=generator)
    return values * there, there.long()


def byte_tokenizer(
    order: tuple[str, ...], merges: list[tuple[str, str]] | None = None
) -> Tokenizer:
    """256 bytes, some merged pairs, and five special tokens of which `order` comes first."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pairs = merges or []
    names = [*order, *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(p) for p in pairs)]
    names += [name for name in special if name not in order]
    tokenizer = Tokenizer(
        models.BPE(vocab={name: number for number, name in enumerate(names)}, merges=pairs)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return tokenizer


def head_of(made: Assembled, batch: Batch) -> Tensor:
    """What the task's model answers."""
    assert made.model is not None
    return made.model.eval().predict(batch).values
