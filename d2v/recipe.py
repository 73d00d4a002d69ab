"""A recipe: one experiment, all its sections."""

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BeforeValidator, Field, field_validator, model_validator

from d2v.ablation import AblateSettings
from d2v.config.changes import changed
from d2v.core.encoder import EncoderSettings
from d2v.core.probing import ProbeSettings
from d2v.data.prepare import PrepareSettings
from d2v.data2vec import Data2VecSettings
from d2v.data2vec2 import Data2Vec2Settings
from d2v.data_sets import DataSet, DataSettings
from d2v.engine.job import TrainSettings
from d2v.modalities import ModalitySettings
from d2v.settings import Settings
from d2v.suite import SuiteSettings
from d2v.tasks import TaskSettings

Stage = Literal["pretrain", "probe", "finetune"]
"""Stages that read data."""

TESTS = "tests-"
"""What the names of further test sets begin with among the prepared ones."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*(/[A-Za-z0-9_][A-Za-z0-9_.\-]*)*")


class PretrainSettings(TrainSettings):
    """The pretrain section."""

    checkpoint: Path | None = None
    """For later stages: use this checkpoint or run directory instead of the run's own."""
    init_from: Path | None = None
    """Start from this checkpoint's student, and from its head where that has the same layers."""
    init_teacher: Literal["student", "teacher"] = "student"
    """What of that checkpoint the teacher starts as. student: a copy of the student (reference
    section 2.1, phase 2); teacher: the checkpoint's own."""
    probe_samples: int = Field(5000, ge=100)
    """Train samples that the kNN score during training compares with."""


def _as_list(value: object) -> object:
    return value if isinstance(value, list | tuple) else [value]


T = TypeVar("T")
Several = Annotated[tuple[T, ...], BeforeValidator(_as_list), Field(min_length=1)]
"""One value, or a list of different ones that are tried one after the other."""


class FinetuneSettings(TrainSettings):
    """The finetune section: a task on labelled data, once or in several trials.

    A trial is one value of each of `init`, `subset`, `learning_rates` and `seeds`. For each `init`
    and `subset` the learning rate with the best mean score on val is chosen; test is looked at once
    at the end, with that one alone.
    """

    section: ClassVar[str] = "finetune"
    task: TaskSettings
    """What is learned; `name` tells which task."""
    checkpoint: Path | None = None
    """Start from the student of this checkpoint or run directory instead of the run's own."""
    init: Several[Literal["pretrained", "scratch"]] = ("pretrained",)
    """pretrained: the encoder starts from pre-training; scratch: from fresh weights."""
    subset: Several[str] = ("all",)
    """Which training labels: `all`, or a name out of prepare.subsets."""
    learning_rates: Several[Annotated[float, Field(gt=0)]] | None = None
    """Peak learning rates to try; null: that of `optimizer`."""
    seeds: Several[Annotated[int, Field(ge=0, lt=2**63)]] | None = None
    """Seeds of head, order, masks and dropout; null: that of the recipe."""
    baselines: bool = False
    """Score features without training (raw pixels, TF-IDF) with the same labels, too: logistic
    regression, its penalty chosen on val. Of classes only."""
    modality: dict[str, Any] = {}
    """Settings of `modality` that are others while fine-tuning (augmentation, masking)."""
    encoder: dict[str, Any] = {}
    """Likewise of `encoder` (dropout, drop-path, layerdrop)."""

    @model_validator(mode="after")
    def _check_trials(self) -> "FinetuneSettings":
        cropping = self.max_length is not None or self.length_mode == "crop"
        if self.task.whole_samples and cropping:
            raise ValueError(
                f"max_length and length_mode crop crop samples, and {self.task.name} learns from "
                "whole ones: leave them out"
            )
        for name in ("init", "subset", "learning_rates", "seeds"):
            values = getattr(self, name) or ()
            if len(set(values)) < len(values):
                raise ValueError(f"{name} {list(values)} names a value twice")
        if self.baselines and self.task.name != "classify":
            raise ValueError(f"baselines are of classes, and the task is {self.task.name}")
        if self.score_every is None:
            raise ValueError("score_every must not be null: scores on val choose the checkpoint")
        return self

    @model_validator(mode="after")
    def _check_frozen(self) -> "FinetuneSettings":
        freeze, steps = self.task.freeze, self.task.freeze_steps
        vain = ["optimizer.frontend_scale"] * (self.optimizer.frontend_scale != 1)
        if freeze == "encoder":
            vain += ["optimizer.layer_decay"] * (self.optimizer.layer_decay != 1)
            vain += ["task.freeze_steps"] * (steps > 0)
        if vain and freeze != "nothing":
            raise ValueError(
                f"task.freeze is {freeze}, so that {' and '.join(vain)} would change nothing: "
                "what is frozen for good has no learning rate. Leave it out, or freeze less"
            )
        if self.steps.endswith("steps") and steps >= int(float(self.steps.split()[0])):
            raise ValueError(never_thaws(steps, self.steps))
        return self


def never_thaws(freeze_steps: int, steps: str) -> str:
    """What is wrong with a training that ends before anything but the head has learned."""
    return (
        f"task.freeze_steps {freeze_steps} leaves nothing of {steps} to the encoder; to train the "
        "head alone, set task.freeze=encoder"
    )


ObjectiveSettings = Annotated[Data2VecSettings | Data2Vec2Settings, Field(discriminator="name")]
"""What pre-training learns by; `name` tells which."""


class Recipe(Settings):
    """One experiment, from raw data to scores."""

    name: str
    """Names the run directory; slashes make folders."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Fixes every random draw of the run."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""
    modality: ModalitySettings
    encoder: EncoderSettings = EncoderSettings()
    objective: ObjectiveSettings = Data2VecSettings()
    data: DataSettings = DataSettings()
    prepare: PrepareSettings | None = None
    pretrain: PretrainSettings | None = None
    probe: ProbeSettings | None = None
    finetune: FinetuneSettings | None = None
    ablate: AblateSettings | None = None
    suite: SuiteSettings | None = None

    @field_validator("objective", mode="before")
    @classmethod
    def _is_the_first(cls, objective: object) -> object:
        """Settings without a name are data2vec's."""
        if isinstance(objective, dict) and "name" not in objective:
            return {"name": "data2vec", **objective}
        return objective

    @field_validator("name")
    @classmethod
    def _is_folder_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(
                "a name is letters, digits, _ - and . (not in front), in parts separated by /; it "
                "names the run directory"
            )
        return name

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        only_finetunes = self.pretrain is None and self.finetune is not None
        prenet = getattr(self.objective, "prenet_depth", 0)
        if self.objective.top_k > self.encoder.depth - prenet and not only_finetunes:
            without = f" without the {prenet} of objective.prenet_depth" if prenet else ""
            raise ValueError(
                f"objective.top_k {self.objective.top_k} is more than encoder.depth "
                f"{self.encoder.depth}{without}: there are not so many blocks to average"
            )
        if isinstance(self.objective, Data2Vec2Settings) and self.pretrain is not None:
            self._check_visible_only(self.objective)
        self.modality.check_encoder(self.encoder)
        if self.probe is not None:
            self._check_probe(self.probe)
        if self.finetune is not None:
            self.while_finetuning()
        return self

    def _check_visible_only(self, objective: Data2Vec2Settings) -> None:
        objective.decoder.check(self.encoder.dim)
        vain = [
            f"modality.mask.{name}"
            for name in ("random_rate", "keep_rate", "channel_ratio")
            if getattr(self.modality.mask, name, 0) > 0
        ]
        if objective.prefix_weight > 0 and not self.modality.has_cls:
            vain.append("objective.prefix_weight")
        if vain:
            raise ValueError(
                f"{' and '.join(vain)} would do nothing: the student of data2vec2 reads nothing at "
                "masked places, and a prefix token only where the modality has one; leave it out"
            )

    def _check_probe(self, probe: ProbeSettings) -> None:
        if probe.block is not None and probe.block > self.encoder.depth:
            raise ValueError(
                f"probe.block {probe.block} is more than encoder.depth {self.encoder.depth}"
            )
        if probe.pool in ("cls", "mean_cls") and not self.modality.has_cls:
            raise ValueError(f"probe.pool {probe.pool} needs a CLS token, and there is none")

    def while_finetuning(self) -> "Recipe":
        """The recipe with the settings of `modality` and `encoder` that fine-tuning changes.

        Raises:
            ValueError: they are no such settings, or do not fit.
        """
        assert self.finetune is not None
        update: dict[str, Any] = {
            section: changed(
                getattr(self, section), getattr(self.finetune, section), f"finetune.{section}"
            )
            for section in ("modality", "encoder")
        }
        update["modality"].check_encoder(update["encoder"])
        return self.model_copy(update=update)

    def data_set(self, stage: Stage) -> tuple[str, DataSet]:
        """The set that a stage reads, and its name among the prepared ones."""
        own = getattr(self.data, stage)
        return (stage, own) if own is not None else ("common", self.data)

    def data_sets(self) -> dict[str, DataSet]:
        """Every set that the recipe's stages read, by name."""
        stages: tuple[Stage, ...] = ("pretrain", "probe", "finetune")
        sets = dict(self.data_set(stage) for stage in stages if getattr(self, stage) is not None)
        if self.finetune is not None:
            sets |= {f"{TESTS}{name}": data for name, data in self.data.tests.items()}
        return sets
