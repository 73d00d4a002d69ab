"""A tiny real data2vec on a few dozen generated pictures, for the tests of engine and loader."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image

from d2v.commands.batches import batch_cut, batch_plan
from d2v.core.encoder import Encoder, EncoderSettings
from d2v.core.schedules import Horizon
from d2v.core.seeding import generator_for
from d2v.data.loader import TrainLoader
from d2v.data.order import CountPlan, Share
from d2v.data.prepare import PrepareSettings, prepare
from d2v.data.reading import ManyMasks, Reader
from d2v.data.shards import Shards
from d2v.data2vec import Data2Vec, Data2VecSettings, Distillation
from d2v.data2vec2 import Data2Vec2, Data2Vec2Settings
from d2v.engine.distributed import World
from d2v.engine.job import Job, TrainSettings
from d2v.engine.loop import train
from d2v.engine.signals import StopRequest
from d2v.modalities import Modality, build_modality
from d2v.modalities.vision.modality import VisionSettings
from d2v.samples import SourceItem, StoredSample
from d2v.types import Batch, Mask

VISION = VisionSettings.model_validate({
    "name": "vision",
    "frontend": {"image_size": 8, "patch_size": 2, "channels": 1, "positions": "learned",
                 "pixel_mean": [0.5], "pixel_std": [0.25]},
    "mask": {"kind": "block", "ratio": 0.5, "min_block": 2, "max_block": 6},
    "augment": {"crop": "padded", "padding": 1, "color_jitter": [0, 0, 0]},
})  # fmt: skip
ENCODER: dict[str, Any] = {"dim": 8, "depth": 2, "num_heads": 2, "layer_scale": None,
                           "init_std": 0.3, "attention": "matmul", "attention_dropout": 0.0,
                           "drop_path": 0.0}  # fmt: skip
NOISY = {"dropout": 0.1, "attention_dropout": 0.1, "drop_path": 0.3}
TRAIN: dict[str, Any] = {"steps": 12, "batch_size": 8, "log_every": 3, "checkpoint_every": 4,
                         "optimizer": {"learning_rate": 2e-3}}  # fmt: skip
TIMING = ("seconds", "samples_per_second", "data_wait_share")


def picture(number: int, side: int = 8) -> bytes:
    pixels = torch.randint(256, (side, side), generator=generator_for("picture", number))
    out = io.BytesIO()
    Image.frombytes("L", (side, side), bytes(pixels.flatten().tolist())).save(out, "PNG")
    return out.getvalue()


def make_shards(
    folder: Path,
    count: int = 40,
    content: Callable[[int], bytes] = picture,
    bad: set[int] = frozenset(),  # type: ignore[assignment]  # empty
    length: Callable[[int], int] = lambda number: 1,
) -> Shards:
    """`count` pictures of two classes; those in `bad` hold bytes that are no picture.

    `length`: what the index says of each; pictures themselves have none.
    """

    def encode(item: SourceItem) -> list[StoredSample]:
        stored = length(int(item.name.removesuffix(".png")))
        return [StoredSample(members={"png": item.read()}, length=stored)]

    items = [
        SourceItem(
            name=f"{number}.png",
            content=b"not a picture" if number in bad else content(number),
            label="ab"[number % 2],
        )
        for number in range(count)
    ]
    prepare(lambda: items, encode, folder, PrepareSettings(val_fraction=0), seed=0)
    return Shards.open(folder / "train")


def modality() -> Modality:
    return build_modality(VISION)


def make_loader(shards: Shards, **given: Any) -> TrainLoader:
    """Batches of eight (`batch_size`), or of what `plan` says."""
    options: dict[str, Any] = {"seed": 0, "num_workers": 0, "max_bad_fraction": 0.0, **given}
    share, reader = options.pop("share", Share()), options.pop("reader", modality())
    counted = CountPlan(shards.lengths, options.pop("batch_size", 8), seed=options["seed"])
    return TrainLoader(shards, reader, options.pop("plan", counted), share, **options)


def make_job(
    shards: Shards,
    folder: Path,
    *,
    encoder: dict[str, Any] | None = None,
    objective: dict[str, Any] | None = None,
    num_workers: int = 0,
    world: World | None = None,
    evaluate: Callable[[], dict[str, float]] | None = None,
    reader: Modality | None = None,
    **settings: Any,
) -> Job:
    """A job as `d2v pretrain` would make it; `reader`: the modality, pictures by default."""
    folder.mkdir(exist_ok=True, parents=True)
    reader = reader or modality()
    asked = TrainSettings.model_validate(TRAIN | settings)
    world = world or World()
    unit = reader.length_unit
    plan = batch_plan(asked, shards.lengths, unit, seed=0)
    cut = batch_cut(asked, plan, unit, world_size=world.size)
    per_epoch = plan.steps_per_epoch
    total = Horizon(total_steps=0, steps_per_epoch=per_epoch).steps(asked.steps)
    horizon = Horizon(total_steps=total, steps_per_epoch=per_epoch)
    shape = EncoderSettings.model_validate(ENCODER | (encoder or {}))
    model, read_by = _objective(reader, shape, {"top_k": 2} | (objective or {}), horizon, world)
    model.initialise(generator_for("weights", 0))
    model.encoder.use_fused_attention(False)
    share = Share(accumulation=cut.accumulation, rank=world.rank, world_size=world.size)
    return Job(
        stage="pretrain",
        objective=model,
        data=make_loader(shards, plan=plan, share=share, num_workers=num_workers, reader=read_by),
        cut=cut,
        settings=asked,
        horizon=horizon,
        seed=0,
        folder=folder,
        world=world,
        identity={f"encoder.{key}": value for key, value in shape.model_dump().items()},
        evaluate=evaluate,
        verbosity=-1,
    )


def _objective(
    modality: Modality,
    shape: EncoderSettings,
    settings: dict[str, Any],
    horizon: Horizon,
    world: World,
) -> tuple[Distillation, Reader]:
    """The objective that the settings name, and what masks for it."""
    frontend, encoder = modality.build_frontend(shape), Encoder(shape)
    total = world.sum if world.size > 1 else None
    if settings.get("name") == "data2vec2":
        many = Data2Vec2Settings.model_validate(settings)
        model = Data2Vec2(frontend, encoder, many, horizon, total)
        return model, ManyMasks(modality, many.masks_per_sample)
    once = Data2VecSettings.model_validate(settings)
    return Data2Vec(frontend, encoder, once, horizon, total), modality


class StopAt:
    """Micro-batches that ask the run to stop while update `step` (1-based) is under way."""

    def __init__(self, job: Job, stop: Callable[[int, None], None], step: int, number: int) -> None:
        self.job, self.stop, self.step, self.number = job, stop, step, number

    def iterate(self, start_step: int) -> Iterator[tuple[Batch, Mask | None]]:
        pieces = self.job.cut.accumulation
        for count, pair in enumerate(self.job.data.iterate(start_step)):
            if count == (self.step - 1 - start_step) * pieces:
                self.stop(self.number, None)
            yield pair


def run(job: Job) -> dict[str, float]:
    return train(job, StopRequest())


def rows(folder: Path) -> list[dict[str, Any]]:
    """The logged steps without what depends on the clock."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if key not in TIMING}
        for line in lines
    ]


def final_bytes(folder: Path, step: int) -> dict[str, bytes]:
    """Every file of a checkpoint."""
    return {
        path.name: path.read_bytes()
        for path in sorted((folder / "checkpoints" / f"step-{step:09d}").iterdir())
    }


def write_recipe(folder: Path, shards: Shards, **pretrain: Any) -> Path:
    """The same tiny training as a recipe file; the run is called `tiny`."""
    recipe = {
        "name": "tiny",
        "device": "cpu",
        "modality": VISION.model_dump(mode="json"),
        "encoder": ENCODER,
        "objective": {"top_k": 2},
        "data": {"shards": str(shards.folder.parent), "workers": 0},
        "pretrain": TRAIN | {"guards": {"action": "off"}} | pretrain,
    }
    path = folder / "tiny.yaml"
    path.write_text("# @package _global_\n" + yaml.safe_dump(recipe))
    return path
