"""A tiny data2vec 2.0 over pictures of nine patches, and the objective written out in loops."""

import math
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from d2v.core.encoder import Encoder
from d2v.core.masking import random_mask
from d2v.core.schedules import Horizon
from d2v.data2vec2 import Data2Vec2, Data2Vec2Settings
from d2v.modalities.vision.frontend import FrontendSettings, VisionFrontend
from d2v.types import Batch, Mask
from tests.data2vec_case import DIM, SIDE, slow_encoder, slow_norm
from tests.maths_case import seeded, shaken, tiny_settings

PATCHES = SIDE * SIDE
VIEWS = 3
DECODER: dict[str, Any] = {"layers": 2, "groups": 4, "noise_std": 0.0}


def build(
    encoder: dict[str, Any] | None = None, positions: str = "learned", **changes: Any
) -> Data2Vec2:
    """Float64, without noise at masked places; the teacher's weights differ from the student's."""
    torch.manual_seed(0)  # timm draws from the global generator when it builds its parts
    shape = tiny_settings(**(encoder or {}))
    pixels = FrontendSettings.model_validate(
        {"image_size": 2 * SIDE, "patch_size": 2, "channels": 1, "pixel_mean": (0.4,),
         "pixel_std": (0.2,), "positions": positions}
    )  # fmt: skip
    given = {"name": "data2vec2", "top_k": 2, "masks_per_sample": VIEWS, "decoder": DECODER}
    settings = Data2Vec2Settings.model_validate({**given, **changes})
    horizon = Horizon(total_steps=10, steps_per_epoch=10)
    model = Data2Vec2(VisionFrontend(pixels, shape), Encoder(shape), settings, horizon)
    model.initialise(seeded(0))
    shaken(model)
    return model.double().train()


def masks(num: int, *, even: bool = True, seed: int = 2) -> Mask:
    """Of `num` views: six of nine patches masked, or between two and seven."""
    generator = seeded(seed)
    counts = [6 if even else 2 + 5 * number % 6 for number in range(num)]
    rows = [random_mask(PATCHES, num_masked=count, generator=generator) for count in counts]
    return Mask.of(torch.stack(rows)).with_visible(None)


def part(mask: Mask, views: slice) -> Mask:
    """The mask of some of the views alone."""
    return Mask.of(mask.predict[views]).with_visible(None)


# The whole objective, written out


def slow_features(frontend: Any, image: Tensor) -> Tensor:
    """(T, D): nine embedded patches of one picture."""
    conv, pixels = frontend.patch_embed.proj, (image.double() / 255 - 0.4) / 0.2
    rows = []
    for i in range(PATCHES):
        r, c = 2 * (i // SIDE), 2 * (i % SIDE)
        patch = pixels[:, r : r + 2, c : c + 2].flatten()
        rows.append(conv.weight.flatten(1) @ patch + conv.bias)
    return torch.stack(rows)


def slow_tokens(frontend: Any, features: Tensor, places: list[int]) -> tuple[Tensor, Tensor | None]:
    """CLS and the patches at some places, and the bias between them."""
    rows = [frontend.cls_token, *(features[place] for place in places)]
    of = [0, *(1 + place for place in places)]  # where these stand in tables
    if frontend.positions is not None:
        rows = [row + frontend.positions[place] for row, place in zip(rows, of, strict=True)]
    elif frontend.settings.positions == "sincos_2d":
        table = frontend.get_buffer("sincos")
        rows = [row + table[place] for row, place in zip(rows, of, strict=True)]
    bias = None
    if frontend.relative is not None:
        bias = frontend.relative.get_bias()
        bias = torch.stack([bias[:, :, i, j] for i in of for j in of], dim=-1)
        bias = bias.unflatten(-1, (len(of), len(of)))
    return torch.stack(rows), bias


def slow_decoder(decoder: Any, shown: dict[int, Tensor]) -> Tensor:
    """(T, D) of one view; nothing stands at masked places. Its parts have tests of their own."""
    nothing = torch.zeros(DIM, dtype=torch.float64)
    x = torch.stack([shown.get(place, nothing) for place in range(PATCHES)])
    for convolution in decoder.convolutions:
        y = convolution(x.T.view(1, -1, SIDE, SIDE)).view(-1, PATCHES).T
        y = F.gelu(
            (y - y.mean(1, keepdim=True)) / (y.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        )
        x = x + y if decoder.settings.residual and x.shape == y.shape else y
    for number, layer in enumerate(decoder.projections):
        x = layer(x if number == 0 else F.gelu(x))
    return x


def slow_targets(model: Data2Vec2, image: Tensor) -> Tensor:
    """(T, D) of one picture, as the teacher sees all of it."""
    s = model.settings
    own = s.teacher_averages != "encoder"
    positions: Any = model.teacher["frontend"] if own else model.frontend
    features = slow_features(positions if s.teacher_averages == "all" else model.frontend, image)
    tokens, bias = slow_tokens(positions, features, list(range(PATCHES)))
    encoder: Any = model.teacher["encoder"]
    _, found = slow_encoder(encoder, encoder.input_norm(tokens), bias)
    kept = found[len(found) - s.top_k :]
    top = [slow_norm(features[s.target_feature][1:], s.target_norm) for features in kept]
    return slow_norm(torch.stack(top).sum(0) / s.top_k, s.mean_norm)


def slow_element(model: Data2Vec2, prediction: Tensor, target: Tensor) -> Tensor:
    """Loss of one token: elementwise, summed over channels, scaled."""
    difference, beta = (prediction - target).abs(), model.settings.beta
    element = difference**2
    if beta > 0:
        squared = 0.5 * difference**2 / beta
        element = torch.where(difference < beta, squared, difference - 0.5 * beta)
    divisor = {"mean": DIM, "inv_sqrt_dim": math.sqrt(DIM), "sum": 1}
    return element.sum() / divisor[model.settings.channel_reduction]


def slow_parts(model: Data2Vec2, batch: Batch, mask: Mask) -> tuple[list[Tensor], list[Tensor]]:
    """For each view: the loss of its masked patches, and that of CLS without any weight."""
    views, regression, of_prefix = len(mask.predict) // len(batch), [], []
    for number, predict in enumerate(mask.predict.tolist()):
        image = batch.inputs[number // views]
        with torch.no_grad():
            targets = slow_targets(model, image)
        places = [place for place in range(PATCHES) if not predict[place]]
        frontend: Any = model.frontend
        tokens, bias = slow_tokens(frontend, slow_features(frontend, image), places)
        out, _ = slow_encoder(model.encoder, model.encoder.input_norm(tokens), bias)
        decoded = slow_decoder(model.head, dict(zip(places, out[1:], strict=True)))
        hidden = [place for place in range(PATCHES) if predict[place]]
        losses = [slow_element(model, decoded[place], targets[place]) for place in hidden]
        regression.append(torch.stack(losses).sum())
        of_prefix.append(slow_element(model, out[0], targets.mean(0)))
    return regression, of_prefix


def sample_generators(count: int) -> list[Generator]:
    return [seeded(100 + number) for number in range(count)]
