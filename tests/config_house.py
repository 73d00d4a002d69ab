"""A small recipe schema, and a folder of recipes to go with it, for the tests of `d2v.config`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, model_validator

from d2v.config import compose, load_recipe, origins
from d2v.config import shipped as shipped_module
from d2v.errors import UsageError
from d2v.settings import Settings


class Encoder(Settings):
    width: int = Field(gt=0)
    depth: int = 12
    drop_rate: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)


class Objective(Settings):
    top_k: int = 8
    target_norm: Literal["layer", "instance"] = "layer"


class Folder(Settings):
    kind: Literal["folder"] = "folder"
    source: Path = Path("raw")


class Builtin(Settings):
    kind: Literal["builtin"] = "builtin"
    size: int = 8


class Recipe(Settings):
    name: str = Field(pattern="^[^/]*(/[^/]+)*$", max_length=500)
    seed: int = 0
    shuffle: bool = True
    encoder: Encoder
    objective: Objective = Objective()
    data: Annotated[Folder | Builtin, Field(discriminator="kind")] = Folder()
    sets: dict[str, Folder] = {}
    num_workers: int | Literal["auto"] = "auto"
    probe: Objective | None = None

    @model_validator(mode="after")
    def _depth_holds_the_targets(self) -> "Recipe":
        if self.objective.top_k > self.encoder.depth:
            raise ValueError("objective.top_k exceeds encoder.depth.")
        return self


FILES = {
    "conf/encoder/vit-tiny.yaml": "width: 192\ndepth: 12\n",
    "conf/encoder/vit-small.yaml": "width: 384\ndepth: 12\n",
    "conf/objective/data2vec.yaml": "top_k: 8\n",
    "conf/objective/other.yaml": "top_k: 2\n",
    "recipes/vision/digits.yaml": (
        "# @package _global_\n# Digits on a laptop\ndefaults:\n  - /encoder: vit-tiny\n"
        "  - /objective: data2vec\n  - _self_\nname: vision/digits  # folder of the runs\n"
        "encoder:\n  depth: 9\n"
    ),
    "recipes/vision/digits-wide.yaml": (
        "# @package _global_\n# Wider digits\ndefaults:\n  - digits  # the base\n"
        "  - override /encoder: vit-small\n  - _self_\nname: vision/digits-wide\n"
    ),
    "recipes/vision/_part.yaml": "seed: 1\n",
}


@pytest.fixture(name="house")
def house_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with its own conf/ and recipes/, seen by d2v as the shipped ones."""
    root = tmp_path / "it's a house"  # spaces and quotes must survive Hydra's search path
    for name, text in FILES.items():
        write(root / name, text)
    for module in (shipped_module, compose, origins):
        monkeypatch.setattr(module, "packaged_folder", root.resolve().joinpath)
    monkeypatch.chdir(tmp_path)
    return root


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def load(recipe: str = "vision/digits", *overrides: str) -> Any:
    return load_recipe(recipe, overrides, Recipe)


def mistake(recipe: str = "vision/digits", *overrides: str) -> str:
    with pytest.raises(UsageError) as caught:
        load(recipe, *overrides)
    return str(caught.value)
