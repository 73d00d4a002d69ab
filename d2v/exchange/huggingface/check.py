"""Whether a folder gives in transformers what the model gives here.

Letters: B batch, T tokens, D width, S samples of a recording, C classes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from d2v.core.seeding import generator_for
from d2v.errors import D2VError
from d2v.exchange.outgoing import Outgoing
from d2v.modalities.speech.frontend import SpeechFrontend
from d2v.modalities.speech.modality import SpeechSettings
from d2v.modalities.text.modality import TextSettings
from d2v.modalities.vision.modality import VisionSettings
from d2v.tasks import CtcSettings, RegressSettings
from d2v.types import Batch, Frontend

TOLERANCE = 1e-3
"""Largest difference over the largest number there is."""
_WITHOUT = ("pooler.dense.weight", "pooler.dense.bias")
"""What the class for texts draws where nobody asks it not to; data2vec has none."""
_SAMPLES = 3


def largest_difference(
    outgoing: Outgoing, transformers: ModuleType, name: str, folder: Path
) -> float:
    """Load a folder with its stock class and ask both for the same random inputs.

    Args:
        outgoing: ours.
        transformers: the library.
        name: of the class.
        folder: with all files.

    Returns:
        The largest absolute difference of any output that holds data.

    Raises:
        D2VError: a tensor is missing or too many, or the outputs differ.
    """
    theirs = _loaded(transformers, name, folder)
    examples = random_examples(outgoing)
    asked = [([example], outgoing) for example in examples]
    asked.append((examples, _padded_as_there(outgoing)))
    worst, largest = 0.0, 0.0
    for some, ours in asked:
        batch = outgoing.modality.collate(some)
        expected = our_rows(ours, batch)
        found = _their_rows(outgoing, theirs, batch, [len(example) for example in some])
        for one, other in zip(expected, found, strict=True):
            held = other[: len(one)] if one.ndim == 2 else other  # tokens: without padding
            worst = max(worst, float((one - held).abs().max()))
            largest = max(largest, float(one.abs().max()))
    if not worst <= TOLERANCE * largest:  # NaN is no agreement either
        raise D2VError(
            f"{name} of transformers {transformers.__version__} gives other outputs than d2v: the "
            f"largest difference is {worst:.3g}, of numbers up to {largest:.3g}",
            expected=f"at most {TOLERANCE:g} of them",
            remedy="Nothing was written. Please report it, with the recipe and both versions.",
        )
    return worst


def _loaded(transformers: ModuleType, name: str, folder: Path) -> Any:
    """The stock model, in eval mode. Raises D2VError where tensors do not add up."""
    given = {"add_pooling_layer": False} if name == "Data2VecTextModel" else {}
    with _quiet(transformers):
        model, info = getattr(transformers, name).from_pretrained(
            folder, local_files_only=True, output_loading_info=True, dtype=torch.float32, **given
        )
    wrong = {
        kind: sorted(map(str, info[kind]))
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if set(info[kind]) - set(_WITHOUT)
    }
    if wrong:
        raise D2VError(
            f"{name} of transformers {transformers.__version__} does not take the tensors: "
            + "; ".join(f"{kind.replace('_', ' ')} {names[:6]}" for kind, names in wrong.items()),
            remedy="Nothing was written. Please report it, with the recipe and both versions.",
        )
    return model.eval()


@contextmanager
def _quiet(transformers: ModuleType) -> Iterator[None]:
    """Without its progress bar, which would be about our own folder."""
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def random_examples(outgoing: Outgoing) -> list[Tensor]:
    """A few examples as `Modality.decode` gives them, of several lengths where that is possible."""
    generator = generator_for("compare with another library", 0)
    settings = outgoing.recipe.modality
    if isinstance(settings, VisionSettings):
        side = settings.frontend.image_size
        shape = (_SAMPLES, settings.frontend.channels, side, side)
        return list(torch.randint(256, shape, generator=generator).to(torch.uint8))
    if isinstance(settings, SpeechSettings):
        geometry = settings.frontend.geometry
        tokens = (9, 40, 23)
        lengths = [geometry.receptive_field + count * geometry.stride + 1 for count in tokens]
        return [torch.randn(length, generator=generator) for length in lengths]
    assert isinstance(settings, TextSettings)
    ids = torch.tensor(
        [n for n in range(settings.tokenizer.size) if n not in settings.tokenizer.special_ids]
    )
    longest = min(64, settings.frontend.max_tokens)
    drawn = [
        ids[torch.randint(len(ids), (length,), generator=generator)]
        for length in (longest // 2, longest, 3)
    ]
    for row in drawn:
        row[0] = settings.tokenizer.bos_id
    return drawn


@torch.no_grad()
def our_rows(outgoing: Outgoing, batch: Batch) -> list[Tensor]:
    """Each sample's outputs without padding: of the task, else tokens with CLS where it is ours."""
    if outgoing.model is not None:
        return outgoing.model.predict(batch).rows()
    frontend = outgoing.frontend
    tokens = frontend(frontend.features(batch), None, batch.padding)
    last = outgoing.encoder(tokens).last
    if tokens.padding is None:
        return list(last)
    return [row[~gone] for row, gone in zip(last, tokens.padding, strict=True)]


@torch.no_grad()
def _their_rows(
    outgoing: Outgoing, model: Any, batch: Batch, lengths: Sequence[int]
) -> list[Tensor]:
    settings = outgoing.recipe.modality
    answer = model(**_their_inputs(settings, batch, lengths))
    if outgoing.model is None:
        last: Tensor = answer.last_hidden_state
        hidden = isinstance(settings, VisionSettings) and not settings.frontend.cls_token
        return list(last[:, 1:] if hidden else last)
    task = outgoing.model.settings
    if isinstance(task, CtcSettings):
        return list(answer.logits.log_softmax(2))
    return list(answer.logits[:, 0] if isinstance(task, RegressSettings) else answer.logits)


def _their_inputs(
    settings: VisionSettings | SpeechSettings | TextSettings, batch: Batch, lengths: Sequence[int]
) -> Mapping[str, Tensor]:
    """What the preprocessor or tokenizer that we wrote would give."""
    if isinstance(settings, VisionSettings):
        mean = torch.tensor(settings.frontend.pixel_mean).view(-1, 1, 1)
        std = torch.tensor(settings.frontend.pixel_std).view(-1, 1, 1)
        return {"pixel_values": (batch.inputs / 255 - mean) / std}
    name = "input_values" if isinstance(settings, SpeechSettings) else "input_ids"
    held = torch.arange(batch.inputs.shape[1]) < torch.tensor(lengths).unsqueeze(1)
    return {name: batch.inputs, "attention_mask": held.long()}


def _padded_as_there(outgoing: Outgoing) -> Outgoing:
    """The same model, with padding zeroed before the first layer of positions alone."""
    settings = outgoing.recipe.modality
    if not isinstance(settings, SpeechSettings):
        return outgoing
    twin = copy.deepcopy(outgoing)
    frontend: Frontend = twin.frontend if twin.model is None else twin.model.frontend
    assert isinstance(frontend, SpeechFrontend)
    positions = settings.frontend.positions
    frontend.positions.settings = positions.model_copy(update={"zero_padding": "first"})
    return twin
