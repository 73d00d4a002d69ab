"""Settings of an ablation: what is varied, how often, and what it is judged by."""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from d2v.settings import Settings

SCORE = re.compile(
    r"(?P<stage>probe)\.(?P<classifier>linear|knn)\.(?P<budget>all|[1-9]\d*)"
    r"|(?P<tuned>finetune)\.(?P<figure>\w+)(\.(?P<init>pretrained|scratch)\.(?P<subset>[\w.-]+))?"
)
"""How `ablate.score` is written."""


def _dotted(axes: object) -> object:
    """Axes by dotted key, however nested they were written; null takes one away."""
    if not isinstance(axes, Mapping):
        return axes
    found: dict[str, Any] = {}
    for key, values in axes.items():
        if isinstance(values, Mapping):
            inner = _dotted(values)
            assert isinstance(inner, dict)
            if not inner:
                raise ValueError(f"the axis {key} has no values")
            found |= {f"{key}.{name}": listed for name, listed in inner.items()}
        else:
            found[str(key)] = values
    return found


def _given(axes: object) -> object:
    """Axes without those that were taken away, as all are by null."""
    if axes is None:
        return {}
    found = _dotted(axes)
    if not isinstance(found, dict):
        return found
    kept = {key: values for key, values in found.items() if values is not None}
    for key, values in kept.items():
        if not isinstance(values, list | tuple):
            raise ValueError(f"the axis {key} is {values!r}: expected a list of values")
        if not values:
            raise ValueError(f"the axis {key} is empty: expected at least one value")
    return kept


class SlurmSettings(Settings):
    """What each cell asks of Slurm."""

    partition: str | None = None
    """null: the cluster's default; so are the next two."""
    account: str | None = None
    qos: str | None = None
    hours: float = Field(24.0, gt=0)
    """Time limit of a cell; at its end it writes a checkpoint, and the same command continues."""
    gpus: int = Field(1, ge=0)
    """Of one node; with several, training is shared out over them."""
    cpus: int = Field(8, ge=1)
    memory_gb: float | None = Field(None, gt=0)
    extra: dict[str, Any] = {}
    """Further options of sbatch by name, without dashes in front."""


class PublishedSettings(Settings):
    """Figures that somebody else published for an axis, to be drawn beside one's own."""

    source: str
    """Who and where, as the chart shall say."""
    figure: str
    """What they measured, on what."""
    values: dict[str, float] = Field(min_length=1)
    """Value of the axis, as the charts name it -> figure."""


class AblateSettings(Settings):
    """The ablate section: which settings are varied around the recipe's own."""

    mode: Literal["one_at_a_time", "grid", "list"] = "one_at_a_time"
    """one_at_a_time: each axis around the base (the paper's way); grid: every combination of the
    axes' values; list: `variants`. The base itself is always measured."""
    axes: Annotated[dict[str, tuple[Any, ...]], BeforeValidator(_given)] = {}
    """Dotted setting -> values; `objective` and `encoder` -> options of conf/. `objective.tau`
    may be {half_life: 20000}, in samples: a constant tau at which a weight's share in the teacher
    halves after so many. null takes an axis away, or all of them."""
    variants: dict[str, dict[str, Any]] = {}
    """For mode list: name -> settings, dotted or nested; `objective` and `encoder` may name options
    of conf/, too."""
    base: dict[str, Any] = {}
    """Settings of every cell that differ from the recipe's (a shorter training)."""
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field((0, 1, 2), min_length=1)
    """Each cell is trained and scored once for each; the data keep the recipe's own seed."""
    score: str = "probe.linear.all"
    """`probe.linear.5`, `probe.knn.all`; `finetune.wer`, `finetune.accuracy.pretrained.all`."""
    published: dict[str, PublishedSettings] = {}
    """Axis -> what is known of it from elsewhere."""
    slurm: SlurmSettings = SlurmSettings()
    """For --slurm."""

    @model_validator(mode="after")
    def _check(self) -> "AblateSettings":
        wanted, other = ("variants", "axes") if self.mode == "list" else ("axes", "variants")
        if not getattr(self, wanted):
            raise ValueError(f"mode {self.mode} has no {wanted}: there is nothing to compare")
        if getattr(self, other):
            raise ValueError(f"mode {self.mode} goes with {wanted}, and {other} are given too")
        if empty := [name for name, changes in self.variants.items() if not changes]:
            raise ValueError(f"the variant {empty[0]} changes nothing: the base is measured anyway")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} names a seed twice")
        if not SCORE.fullmatch(self.score):
            raise ValueError(
                f"score {self.score!r} is no score: expected probe.linear.BUDGET, "
                "probe.knn.BUDGET (BUDGET one of probe.labels_per_class), or finetune.FIGURE"
            )
        if unknown := sorted(set(self.published) - set(self.axes)):
            raise ValueError(f"published names {unknown[0]}, which is no axis")
        return self


def nested(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes by dotted key as sections within sections.

    Raises:
        ValueError: one of them lies inside a value that another sets.
    """
    found: dict[str, Any] = {}
    for key, value in changes.items():
        *sections, last = str(key).split(".")
        place = found
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise ValueError(f"{key} lies inside {section}, which is set to a value as well")
        both = isinstance(value, Mapping) and isinstance(place.get(last), dict)
        place[last] = {**place[last], **nested(value)} if both else _inside(value)
    return found


def _inside(value: object) -> object:
    return nested(value) if isinstance(value, Mapping) else value


def half_life_tau(half_life: object, samples_per_step: float) -> float:
    """The constant tau whose power after so many samples is one half.

    Args:
        half_life: in samples: a number, or text such as `20000 samples`.
        samples_per_step: of one optimiser update, at which the teacher moves once.

    Raises:
        ValueError: it is no such number.
    """
    found = re.fullmatch(r"(\d+(?:\.\d*)?(?:e\d+)?)(?: samples?)?", str(half_life).strip().lower())
    if isinstance(half_life, bool) or found is None or float(found[1]) <= 0:
        raise ValueError(f"half_life {half_life!r}: expected a number of samples above 0")
    return math.exp(-math.log(2) * samples_per_step / float(found[1]))
