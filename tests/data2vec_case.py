"""A tiny data2vec over pictures of nine patches, and the same objective written out in loops."""

import math
from typing import Any

import torch
from torch import Tensor

from d2v.core.encoder import Encoder
from d2v.core.schedules import Horizon
from d2v.data2vec import Data2Vec, Data2VecSettings
from d2v.modalities.vision.frontend import FrontendSettings, VisionFrontend
from d2v.types import Batch, Mask
from tests.maths_case import seeded, shaken, tiny_settings

BATCH, SIDE, DIM = 4, 3, 12


def build(encoder: dict[str, Any] | None = None, **changes: Any) -> Data2Vec:
    """Float64; the teacher's weights differ from the student's."""
    torch.manual_seed(0)  # timm draws from the global generator when it builds its parts
    shape = tiny_settings(**(encoder or {}))
    pixels = FrontendSettings(
        image_size=2 * SIDE, patch_size=2, channels=1, pixel_mean=(0.4,), pixel_std=(0.2,)
    )
    settings = Data2VecSettings(**{"top_k": 2, **changes})
    horizon = Horizon(total_steps=10, steps_per_epoch=10)
    model = Data2Vec(VisionFrontend(pixels, shape), Encoder(shape), settings, horizon)
    model.initialise(seeded(0))
    shaken(model)
    return model.double().train()


def pictures(num: int = BATCH) -> Batch:
    shape = (num, 1, 2 * SIDE, 2 * SIDE)
    return Batch(inputs=torch.randint(256, shape, generator=seeded(1), dtype=torch.uint8))


def ragged_mask(seed: int = 2) -> Mask:
    """Between 2 and 5 masked patches of 9, another number in each sample."""
    order = torch.rand(BATCH, SIDE * SIDE, generator=seeded(seed)).argsort(1)
    return Mask.of(order < torch.tensor([[2], [5], [3], [4]]))


# The whole objective, written out


def slow_tokens(frontend: Any, image: Tensor, hidden: list[bool]) -> tuple[Tensor, Tensor]:
    """CLS and nine patches of one picture, and the bias; masked patches are replaced."""
    conv = frontend.patch_embed.proj
    pixels = (image.double() / 255 - 0.4) / 0.2
    rows = [frontend.cls_token]
    for i in range(SIDE * SIDE):
        r, c = 2 * (i // SIDE), 2 * (i % SIDE)
        patch = pixels[:, r : r + 2, c : c + 2].flatten()
        embedded = conv.weight.flatten(1) @ patch + conv.bias
        rows.append(frontend.mask_token if hidden[i] else embedded)
    return torch.stack(rows), frontend.relative.get_bias()


def slow_encoder(
    encoder: Any, x: Tensor, bias: Tensor | None
) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Output and features of every block for one sample (T, D), block by block."""
    x, found = x.unsqueeze(0), []
    for block in encoder.blocks:
        if block.norm_position == "pre":
            attended = block.ls1(block.attn(block.norm1(x), attn_mask=bias))
            x = x + attended
            ffn = block.ls2(block.mlp(block.norm2(x)))
            x = before = x + ffn
        else:
            attended = block.ls1(block.attn(x, attn_mask=bias))
            x = block.norm1(x + attended)
            ffn = block.ls2(block.mlp(x))
            before = x + ffn
            x = block.norm2(before)
        names = ("self_attention", "ffn", "ffn_residual", "end_of_block")
        outputs = (attended, ffn, before, x)
        found.append({n: part[0] for n, part in zip(names, outputs, strict=True)})
    return encoder.norm(x)[0], found


def slow_norm(x: Tensor, norm: str) -> Tensor:
    """One sample (T, D)."""
    axis = {"layer": 1, "instance": 0}.get(norm)
    if axis is None:
        return x
    deviation = (x.var(axis, correction=0, keepdim=True) + 1e-5).sqrt()
    return (x - x.mean(axis, keepdim=True)) / deviation


def slow_loss(model: Data2Vec, batch: Batch, mask: Mask) -> Tensor:
    """Sum over masked tokens; sample by sample, token by token."""
    s = model.settings
    shared = s.teacher_averages == "encoder"
    teacher_frontend = model.frontend if shared else model.teacher["frontend"]
    total = torch.zeros((), dtype=torch.float64)
    for image, predict in zip(batch.inputs, mask.predict.tolist(), strict=True):
        with torch.no_grad():
            whole = slow_tokens(teacher_frontend, image, [False] * SIDE * SIDE)
            _, features = slow_encoder(model.teacher["encoder"], *whole)
            top = [slow_norm(f[s.target_feature][1:], s.target_norm) for f in features]
            kept = top[len(top) - s.top_k :]
            targets = slow_norm(torch.stack(kept).sum(0) / s.top_k, s.mean_norm)
        out, _ = slow_encoder(model.encoder, *slow_tokens(model.frontend, image, predict))
        for i in (i for i, hidden in enumerate(predict) if hidden):
            difference = (model.head(out[1 + i]) - targets[i]).abs()
            if s.beta == 0:
                element = difference**2
            else:
                squared = 0.5 * difference**2 / s.beta
                element = torch.where(difference < s.beta, squared, difference - 0.5 * s.beta)
            divisor = {"mean": DIM, "inv_sqrt_dim": math.sqrt(DIM), "sum": 1}
            total = total + element.sum() / divisor[s.channel_reduction]
    return total
