"""The loss of data2vec 2.0 straight from the tensors of a fairseq file, by their names there.

Written from reference sections 4.1 to 4.8 for one sample and one view at a time, in float64,
without dropout and with the noise at masked places set to zero.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.foreign_case import Tensors
from tests.second_case import (
    CONVOLUTIONS,
    DEPTH,
    DIM,
    GROUPS,
    HEADS,
    LAYERS,
    PATCH,
    POSITIONS,
    SIDE,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EPS = {"IMAGE": 1e-6, "AUDIO": 1e-5, "TEXT": 1e-5}


@dataclass(frozen=True)
class Net:
    """Student or teacher: where its parts are."""

    tensors: Tensors
    kind: str
    local: str
    """What stands before the names of local features."""
    tower: str
    blocks: str

    def get(self, name: str) -> Tensor:
        return self.tensors[name].double()

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.get(f"{name}.weight").T + self.get(f"{name}.bias")

    def norm(self, x: Tensor, name: str, eps: float) -> Tensor:
        scaled = plain_norm(x, dim=-1, eps=eps)
        return scaled * self.get(f"{name}.weight") + self.get(f"{name}.bias")


def student_of(tensors: Tensors, kind: str, prefix: str = "") -> Net:
    tower = f"{prefix}modality_encoders.{kind}."
    return Net(tensors, kind, tower, tower, f"{prefix}blocks.")


def teacher_of(tensors: Tensors, kind: str) -> Net:
    """Section 4.7: pictures all; audio without local features; text the shared blocks alone."""
    own = f"modality_encoders.{kind}."
    averaged = f"_ema.{own}"
    if kind == "TEXT":
        return Net(tensors, kind, own, own, "_ema.")
    return Net(tensors, kind, averaged if kind == "IMAGE" else own, averaged, "_ema.blocks.")


def plain_norm(x: Tensor, dim: int, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(dim, keepdim=True)
    return centred / (centred.square().mean(dim, keepdim=True) + eps).sqrt()


def features(net: Net, sample: Tensor) -> Tensor:
    """(T, D) of one sample."""
    name = f"{net.local}local_encoder"
    if net.kind == "TEXT":
        table, places = (
            net.get(f"{name}.embed_tokens.weight"),
            net.get(f"{name}.embed_positions.weight"),
        )
        rows = [table[int(token)] + places[2 + place] for place, token in enumerate(sample)]
        return net.norm(torch.stack(rows), f"{name}.layernorm_embedding", 1e-5)
    if net.kind == "IMAGE":
        mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (MEAN, STD))
        pixels, rows = (sample.double() / 255 - mean) / std, []
        for place in range(SIDE * SIDE):
            top, left = PATCH * (place // SIDE), PATCH * (place % SIDE)
            patch = pixels[:, top : top + PATCH, left : left + PATCH].flatten()
            rows.append(net.get(f"{name}.proj.weight").flatten(1) @ patch)
        return torch.stack(rows) + net.get(f"{name}.proj.bias")
    x = sample.double().view(1, 1, -1)
    for number, (_, _, stride) in enumerate(CONVOLUTIONS):
        layer = f"{name}.conv_layers.{number}"
        x = F.conv1d(x, net.get(f"{layer}.0.weight"), stride=stride)
        x = F.gelu(net.norm(x.transpose(1, 2), f"{layer}.2.1", 1e-5)).transpose(1, 2)
    x = net.norm(x[0].T, f"{net.local}project_features.1", 1e-5)
    return net.linear(x, f"{net.local}project_features.2")


def placed(net: Net, x: Tensor, visible: list[int]) -> Tensor:
    """(V, D): positions are added before anything is dropped; masked frames are silent."""
    if net.kind == "IMAGE":
        return (x + net.get(f"{net.tower}fixed_positional_encoder.positions")[0])[visible]
    if net.kind == "TEXT":
        return x[visible]
    seen = torch.zeros_like(x)
    seen[visible] = x[visible]
    y = seen
    for number in range(1, POSITIONS + 1):
        layer = f"{net.tower}relative_positional_encoder.{number}.0"
        weight, bias = net.get(f"{layer}.weight"), net.get(f"{layer}.bias")
        y = F.conv1d(y.T.unsqueeze(0), weight, bias, padding=weight.shape[2] // 2, groups=GROUPS)[
            0
        ].T
        y = F.gelu(plain_norm(y, dim=-1))
    return (seen + y)[visible]


def slope(head: int) -> float:
    """Of three heads: two of a power of two, then the first of twice as many."""
    return [2.0**-4, 2.0**-8, 2.0**-2][head]


def attention(net: Net, x: Tensor, name: str, places: list[int]) -> Tensor:
    """Head by head; `places` tell distances for audio."""
    parts = net.linear(x, f"{name}.qkv").chunk(3, dim=-1)
    width, heads = DIM // HEADS, []
    for head in range(HEADS):
        q, k, v = (part[:, head * width : (head + 1) * width] for part in parts)
        logits = q @ k.T / math.sqrt(width)
        if net.kind == "AUDIO":
            scale = max(0.0, float(net.get(f"{net.tower}alibi_scale")[0, 0, head, 0, 0]))
            gaps = [[abs(i - j) for j in places] for i in places]
            logits = logits - slope(head) * scale * torch.tensor(gaps, dtype=torch.float64)
        heads.append(logits.softmax(-1) @ v)
    return net.linear(torch.cat(heads, dim=1), f"{name}.proj")


def encoded(net: Net, x: Tensor, places: list[int]) -> tuple[Tensor, list[Tensor]]:
    """Output with the extra token first, and what the shared blocks' feed-forward parts give."""
    eps = EPS[net.kind]
    if net.kind == "IMAGE":
        x = torch.cat([net.get(f"{net.tower}extra_tokens")[0], x])
    if net.kind != "TEXT":
        x = net.norm(x, f"{net.tower}context_encoder.norm", eps)
    prenet = 0 if net.kind == "TEXT" else 1
    names = [f"{net.tower}context_encoder.blocks.{number}" for number in range(prenet)]
    names += [f"{net.blocks}{number}" for number in range(DEPTH)]
    targets = []
    for name in names:
        x = net.norm(x + attention(net, x, f"{name}.attn", places), f"{name}.norm1", eps)
        ffn = net.linear(F.gelu(net.linear(x, f"{name}.mlp.fc1")), f"{name}.mlp.fc2")
        x = net.norm(x + ffn, f"{name}.norm2", eps)
        targets.append(ffn)
    return x, targets[prenet:]


def decoded(net: Net, visible: dict[int, Tensor], num_tokens: int) -> Tensor:
    """(T, D) of one view."""
    x = torch.stack([visible.get(n, torch.zeros(DIM).double()) for n in range(num_tokens)])
    for number in range(LAYERS):
        layer = f"{net.tower}decoder.blocks.{number}.0"
        weight, bias = net.get(f"{layer}.weight"), net.get(f"{layer}.bias")
        how: dict[str, Any] = {"padding": weight.shape[2] // 2, "groups": GROUPS}
        if net.kind == "IMAGE":
            y = F.conv2d(x.T.view(1, -1, SIDE, SIDE), weight, bias, **how)[0].flatten(1).T
        else:
            y = F.conv1d(x.T.unsqueeze(0), weight, bias, **how)[0].T
        y = F.gelu(plain_norm(y, dim=-1))
        x = x + y if net.kind != "TEXT" and y.shape == x.shape else y
    name = f"{net.tower}decoder.proj"
    if net.kind == "TEXT":
        return net.linear(F.gelu(net.linear(x, f"{name}.0")), f"{name}.2")
    return net.linear(x, name)


def targets_of(net: Net, x: Tensor) -> Tensor:
    """(T, D): mean of the top blocks, K = 2, with the norms of the file's settings (4.8)."""
    everything = list(range(len(x)))
    _, top = encoded(net, placed(net, x, everything), everything)
    first = 1 if net.kind == "IMAGE" else 0
    dim = -1 if net.kind == "TEXT" else 0  # layer norm: channels; instance norm: tokens
    mean = torch.stack([plain_norm(ffn[first:], dim) for ffn in top[-2:]]).mean(0)
    return plain_norm(mean, -1) if net.kind == "IMAGE" else mean


def element(kind: str, prediction: Tensor, target: Tensor) -> Tensor:
    """Sum over channels, scaled; text has a smooth L1 with beta 0.5 here."""
    if kind != "TEXT":
        return (prediction - target).square().sum() / math.sqrt(DIM)
    gap = (prediction - target).abs()
    return torch.where(gap < 0.5, gap.square(), gap - 0.25).sum()


def slow_loss(tensors: Tensors, kind: str, samples: list[Tensor], predict: Tensor) -> Tensor:
    """Summed over masked tokens of all views, with the CLS loss as 4.8 adds it."""
    student, teacher = student_of(tensors, kind), teacher_of(tensors, kind)
    views, regression, of_prefix = len(predict) // len(samples), [], []
    for number, row in enumerate(predict.tolist()):
        sample = samples[number // views]
        local = features(student, sample)
        targets = targets_of(teacher, features(teacher, sample))
        visible = [place for place, hidden in enumerate(row) if not hidden]
        out, _ = encoded(student, placed(student, local, visible), visible)
        first = 1 if kind == "IMAGE" else 0
        shown = dict(zip(visible, out[first:], strict=True))
        predicted = decoded(student, shown, len(row))
        regression += [
            element(kind, predicted[place], targets[place])
            for place, hidden in enumerate(row)
            if hidden
        ]
        of_prefix.append(element(kind, out[0], targets.mean(0)))
    total = torch.stack(regression).sum()
    if kind == "IMAGE":  # cls_loss 0.05, times the number of masked tokens, summed over views
        total = total + 0.05 * len(regression) * torch.stack(of_prefix).sum()
    return total
