"""Tiny trainings on recordings and texts: samples of unequal length, with every random part."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from d2v.data.loader import read_split
from d2v.data.prepare import PrepareSettings, prepare
from d2v.data.shards import Shards
from d2v.data2vec import Distillation
from d2v.engine.job import Job
from d2v.modalities import Modality, ModalitySettings, build_modality
from d2v.samples import SourceItem
from tests.modality_cases import CONVOLUTION, EXACT, LOGMEL, TEXT, hum, sentence
from tests.recording_case import recorded
from tests.training_case import NOISY, make_job, picture

ENCODER: dict[str, Any] = {
    "dim": 8, "depth": 2, "num_heads": 2, "norm_position": "post", "norm_eps": 1e-5,
    "init": "normal", "init_std": 0.3, "layer_scale": None, "attention": "matmul", "dropout": 0.1,
    "activation_dropout": 0.1, "attention_dropout": 0.1, "drop_path": 0.0,
}  # fmt: skip
SPEECH: dict[str, Any] = {
    "encoder": ENCODER | {"input_norm": True, "layerdrop": 0.3},
    "objective": {"top_k": 2, "target_feature": "ffn", "target_norm": "instance",
                  "mean_norm": "none", "beta": 0.0, "channel_reduction": "inv_sqrt_dim",
                  "teacher_averages": "encoder"},
}  # fmt: skip
SECONDS = {"batch_length": 1.5, "max_length_per_device": 0.9, "max_length": 0.25}
"""Five updates an epoch of two micro-batches each; half the recordings are cropped."""
PRETRAIN = {"steps": 8, "log_every": 1, "checkpoint_every": 3, "keep_checkpoints": 2,
            "optimizer": {"learning_rate": 2e-3, "schedule": {"warmup": 2}}}  # fmt: skip


def recordings() -> list[SourceItem]:
    """0.1 to 0.4 seconds."""
    return [
        SourceItem(name=f"{n}.wav", content=recorded(hum(n, 0.1 + 0.0201 * (n % 16))))
        for n in range(40)
    ]


def document(number: int, num_sentences: int = 9) -> str:
    """Sentences of one to eight words, one a line."""
    return "\n".join(
        sentence(100 * number + n, 1 + (number + 3 * n) % 8) for n in range(num_sentences)
    )


def pictures() -> list[SourceItem]:
    return [SourceItem(name=f"{n}.png", content=picture(n)) for n in range(26)]


def documents() -> list[SourceItem]:
    return [SourceItem(name=f"{n}.txt", content=document(n).encode()) for n in range(14)]


@dataclass(frozen=True, kw_only=True)
class Training:
    """One way to train.

    Args:
        modality: the section of a recipe.
        items: of the training split.
        encoder: the section.
        objective: the section.
        pretrain: of the section, what is not in `PRETRAIN`.
    """

    modality: dict[str, Any]
    items: Callable[[], list[SourceItem]]
    encoder: dict[str, Any]
    objective: dict[str, Any]
    pretrain: dict[str, Any]

    def reader(self, learned: Path | None = None) -> Modality:
        adapter: TypeAdapter[ModalitySettings] = TypeAdapter(ModalitySettings)
        return build_modality(adapter.validate_python(self.modality), learned)

    def shards(self, folder: Path) -> Shards:
        """The training split; what the modality learns lies in `folder`, too."""
        learned = folder / "learned"
        learned.mkdir(parents=True)
        self.reader().learn(self.items, learned)
        reader = self.reader(learned)
        settings = PrepareSettings(val_fraction=0)
        prepare(self.items, reader.encode, folder / "shards", settings, seed=0,
                about=reader.about())  # fmt: skip
        return Shards.open(folder / "shards" / "train")

    def job(self, shards: Shards, folder: Path, **changes: Any) -> Job:
        """As `d2v pretrain` would make it, with the frontend's figures taken from the data."""
        reader = self.reader()
        given = {**PRETRAIN, "batch_size": None, **self.pretrain, **changes}
        job = make_job(shards, folder, reader=reader, encoder=self.encoder,
                       objective=self.objective, **given)  # fmt: skip
        return replace(job, begin=partial(_calibrate, job, shards, reader))

    def write_recipe(self, folder: Path, shards: Shards, **pretrain: Any) -> Path:
        """The same training as a recipe called `tiny`."""
        return write_tiny(
            folder,
            modality=self.modality,
            encoder=self.encoder,
            objective=self.objective,
            data={"shards": str(shards.folder.parent), "workers": 0},
            pretrain={**PRETRAIN, **self.pretrain, "score_every": None,
                      "guards": {"action": "off"}, **pretrain},
        )  # fmt: skip


def write_tiny(folder: Path, **sections: Any) -> Path:
    """A recipe file `tiny.yaml`."""
    path = folder / "tiny.yaml"
    recipe = {"name": "tiny", "device": "cpu", **sections}
    path.write_text("# @package _global_\n" + yaml.safe_dump(recipe))
    return path


def _calibrate(job: Job, shards: Shards, reader: Modality) -> None:
    assert isinstance(job.objective, Distillation)
    job.objective.frontend.calibrate(read_split(shards, reader, batch_size=16))
    job.objective.copy_student_to_teacher()


def _speech(modality: dict[str, Any], length_mode: str) -> Training:
    pretrain = {**SECONDS, "length_mode": length_mode}
    return Training(modality=modality, items=recordings, pretrain=pretrain, **SPEECH)


def _many_masks(training: Training, modality: dict[str, Any], **objective: Any) -> Training:
    """The same with data2vec 2.0."""
    kept = {key: value for key, value in training.objective.items() if key != "head_layers"}
    decoder = {"layers": 2, "groups": 4, "input_dropout": 0.1}
    many = {**kept, "name": "data2vec2", "masks_per_sample": 3, "decoder": decoder, **objective}
    return replace(training, modality=modality, objective=many)


_PICTURES = Training(
    modality={},
    items=pictures,
    encoder={**NOISY, "layerdrop": 0.2},
    objective={"top_k": 2},
    pretrain={"batch_size": 8, "max_batch_per_device": 4},
)
TRAININGS = {
    "speech-convolution-pad": _speech(CONVOLUTION, "pad"),
    "speech-convolution-crop": _speech(CONVOLUTION, "crop"),
    "speech-logmel-pad": _speech(LOGMEL, "pad"),
    "speech-logmel-crop": _speech(LOGMEL, "crop"),
    "text": Training(
        modality=TEXT,
        items=documents,
        encoder=ENCODER,
        objective={"top_k": 2, "target_feature": "ffn", "target_norm": "layer",
                   "mean_norm": "none", "beta": 4.0, "channel_reduction": "sum",
                   "head_layers": 2, "teacher_averages": "encoder"},
        pretrain={"batch_length": 520, "max_length_per_device": 300, "max_length": 60},
    ),
}  # fmt: skip
_EXACT = {case.name: case.settings for case in EXACT}
TRAININGS |= {
    "vision-2.0": _many_masks(_PICTURES, _EXACT["vision-exact"], prefix_weight=0.3),
    "speech-2.0-pad": _many_masks(
        TRAININGS["speech-convolution-pad"], _EXACT["speech-exact"],
        teacher_averages="after_features",
    ),
    "text-2.0": _many_masks(TRAININGS["text"], _EXACT["text-exact"]),
}  # fmt: skip
