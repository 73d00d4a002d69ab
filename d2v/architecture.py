"""What an encoder that was trained elsewhere looks like, for a recipe that goes on with it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from d2v.config import Adopted
from d2v.errors import UsageError
from d2v.modalities import ModalitySettings

_OWN = ("dropout", "activation_dropout", "attention_dropout", "drop_path", "layerdrop", "attention")
"""Settings of the encoder that regularise or compute, and leave its tensors alone."""
_PREPARING = ("path",)
"""Settings of the modality's model sections that only say where something lies."""
_TOKENIZERS = ("tokenizer.json", "prepare/learned/tokenizer.json")
"""Where a run keeps its own: an imported one, one that prepared data."""


StartSetting = Literal["pretrain.init_from", "pretrain.checkpoint", "finetune.checkpoint"]
"""What a stage calls the run that it goes on with."""


def architecture_of(start: Path, setting: StartSetting = "finetune.checkpoint") -> Adopted:
    """The modality's model sections and the encoder's shape out of a run's `config.yaml`.

    Args:
        start: a run directory, its folder of pre-training, that of its checkpoints, or one of them.
        setting: is set to `start`.

    Raises:
        UsageError: nothing there tells.
    """
    path = _config_of(start.expanduser())
    values = _read(path)
    modality = values["modality"]
    adopted = {
        name: _without(modality[name], _PREPARING)
        for name in _model_sections(modality["name"])
        if isinstance(modality.get(name), Mapping)
    }
    if "tokenizer" in adopted and (tokenizer := _tokenizer_of(path.parent.parent)) is not None:
        adopted["tokenizer"]["path"] = str(tokenizer)
    section, name = setting.split(".")
    return Adopted(
        values={
            section: {name: str(start)},
            "modality": {"name": modality["name"], **adopted},
            "encoder": _without(values["encoder"], _OWN),
        },
        same=("modality.name",),
        where_there=("finetune",),  # `d2v prepare` of a recipe that only probes, say
        origin=f"--from {start}",
        start=start,
    )


def find_config(start: Path) -> Path | None:
    """The `config.yaml` of the pre-training that a run, a part of one or a checkpoint names."""
    folders = (start, start / "pretrain", start.parent, start.parent.parent)
    paths = (folder / "config.yaml" for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def _config_of(start: Path) -> Path:
    path = find_config(start)
    if path is not None:
        return path
    raise UsageError(
        f"--from {start}: there is no run",
        expected="a run directory of d2v pretrain, or one of its checkpoints",
        remedy="Name a folder with pretrain/config.yaml, such as runs/vision/digits.",
    )


def _tokenizer_of(run: Path) -> Path | None:
    """The one that a run's encoder knows: it comes along in place of a new one."""
    return next((run / name for name in _TOKENIZERS if (run / name).is_file()), None)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_bytes())
        assert isinstance(values["modality"]["name"], str)
        assert isinstance(values["encoder"], dict)
    except (OSError, yaml.YAMLError, KeyError, TypeError, AssertionError) as error:
        raise UsageError(
            f"{path} cannot be read: {type(error).__name__}",
            expected="the resolved settings of a run, as d2v pretrain writes them",
        ) from error
    return dict(values)


def _model_sections(name: str) -> tuple[str, ...]:
    for kind in get_args(get_args(ModalitySettings)[0]):
        if name in get_args(kind.model_fields["name"].annotation):
            return tuple(kind.model_sections)
    raise UsageError(f"modality.name {name} is unknown", remedy="Use a newer d2v.")


def _without(section: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key not in names}
