"""The model card: what a model is, what it was trained on, how good it is, how to load it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from d2v import __version__
from d2v.exchange.outgoing import Outgoing, Table
from d2v.modalities.vision.modality import VisionSettings
from d2v.tasks import CtcSettings, RegressSettings

_PIPELINES = {
    "vision": ("image-feature-extraction", "image-classification"),
    "speech": ("feature-extraction", "automatic-speech-recognition"),
    "text": ("feature-extraction", "text-classification"),
}
"""Modality -> what Hugging Face's hub calls the encoder's use, and the task model's."""
_NOUNS = {"vision": "pictures", "speech": "recordings of speech", "text": "texts"}
_PAPER = "[data2vec](https://arxiv.org/abs/2202.03555)"


def model_card(
    outgoing: Outgoing, library: str, what: str, how_to_load: str, remarks: Sequence[str]
) -> str:
    """`README.md` with the front matter that Hugging Face's hub reads.

    Args:
        outgoing: the model.
        library: `library_name` of the front matter: transformers or timm.
        what: the class that loads it.
        how_to_load: lines of Python; the folder is written `DEST`.
        remarks: what a user should know.
    """
    recipe = outgoing.recipe
    noun = _NOUNS[recipe.modality.name]
    trained = "an encoder of" if outgoing.model is None else f"a {_task(outgoing)} model of"
    lines = [
        *_front_matter(outgoing, library),
        f"# {outgoing.name}",
        "",
        f"{trained[0].upper()}{trained[1:]} {noun}, trained with {_PAPER} by d2v {__version__}. "
        f"It loads as {what}; the weights are those of the {outgoing.network}.",
        "",
        "## How to load it",
        "",
        "```python",
        how_to_load,
        "```",
        "",
        "`DEST` is this folder.",
        "",
        "## Training",
        "",
        *_bullets([*outgoing.data, *_training(outgoing)]),
        "",
        "## Figures",
        "",
        *_figures(outgoing.figures.items()),
        "## What to know",
        "",
        *_bullets([*_reading(outgoing), *remarks, _licence(outgoing)]),
    ]
    return "\n".join(lines) + "\n"


def _front_matter(outgoing: Outgoing, library: str) -> list[str]:
    pipeline = _PIPELINES[outgoing.recipe.modality.name][outgoing.model is not None]
    return [
        "---",
        f"library_name: {library}",
        f"license: {outgoing.licence or 'unknown'}",
        f"pipeline_tag: {pipeline}",
        "tags:",
        "- data2vec",
        "- d2v",
        "---",
        "",
    ]


def _task(outgoing: Outgoing) -> str:
    assert outgoing.model is not None
    settings = outgoing.model.settings
    if isinstance(settings, CtcSettings):
        return "speech recognition (CTC)"
    return "regression" if isinstance(settings, RegressSettings) else "classification"


def _training(outgoing: Outgoing) -> list[str]:
    recipe, objective = outgoing.recipe, outgoing.recipe.objective
    encoder = recipe.encoder
    count = sum(
        p.numel() for part in (outgoing.frontend, outgoing.encoder) for p in part.parameters()
    )
    told = [
        f"Encoder: {encoder.depth} blocks of width {encoder.dim} with {encoder.num_heads} heads, "
        f"{encoder.norm_position}-norm; {count:,} parameters with its frontend.",
        f"Objective: the mean of the teacher's top {objective.top_k} blocks "
        f"({objective.target_feature.replace('_', ' ')}, target_norm {objective.target_norm}), "
        f"beta {objective.beta:g}.",
    ]
    stage = recipe.pretrain
    if outgoing.steps is not None:
        of = "" if stage is None else _batches(stage.batch_size, stage.optimizer.learning_rate)
        told.append(f"Pre-training: {outgoing.steps:,} updates{of}.")
    tuned = recipe.finetune
    if outgoing.model is not None and tuned is not None:
        of = _batches(tuned.batch_size, tuned.optimizer.learning_rate)
        told.append(f"Fine-tuning: {tuned.steps}{of}.")
    return told


def _batches(size: int | None, rate: float) -> str:
    """A batch may be measured by length instead of samples."""
    samples = "" if size is None else f" with batches of {size}"
    return f"{samples}, learning rate {rate:g}"


def _reading(outgoing: Outgoing) -> list[str]:
    """How raw data must come."""
    settings = outgoing.recipe.modality
    if isinstance(settings, VisionSettings):
        colour = "greyscale" if settings.frontend.channels == 1 else "RGB"
        side = settings.frontend.image_size
        return [f"It reads {colour} pictures of {side} x {side} pixels: the middle square of each."]
    if settings.name == "speech":
        return ["It reads one channel at 16 kHz."]
    return [
        f"It reads at most {settings.frontend.max_tokens} tokens. White space was brought "
        "to single spaces in training, and what looks like a special token was ordinary text."
    ]


def _figures(tables: Iterable[tuple[str, Table]]) -> list[str]:
    lines: list[str] = []
    for heading, table in tables:
        rows = [list(table.columns), ["---"] * len(table.columns), *map(list, table.rows)]
        lines += [f"**{heading}**", ""]
        lines += [
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows
        ]
        lines += ["", *(f"{remark}\n" for remark in table.remarks)]
    return lines or ["None were measured in this run.", ""]


def _licence(outgoing: Outgoing) -> str:
    if outgoing.licence is None:
        return "Licence: none was named. Ask whoever trained it, and mind that of the data."
    return f"Licence: {outgoing.licence}."


def _bullets(lines: Iterable[str]) -> list[str]:
    return [f"- {line}" for line in lines]
