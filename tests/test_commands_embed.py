"""Proves: `d2v embed` writes the features that the probe reads, of shards and of files alike."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from d2v.build import load_encoder
from d2v.commands import embed_source
from d2v.data.prepare import PrepareSettings, prepare
from d2v.samples import SourceItem
from tests.asking_case import Saved, saved_fixture
from tests.embed_case import Floats, Run, Runs, embedded, index, npy, runs_fixture
from tests.modality_cases import CASES, hum
from tests.model_case import BY_NAME
from tests.recording_case import recorded

__all__ = ["runs_fixture", "saved_fixture"]

NAMES = [case.name for case in CASES]
LONG = {"store": {"max_seconds": 0.4}}


def close(one: Any, two: Any, within: float = 1e-6) -> bool:
    return np.shape(one) == np.shape(two) and np.allclose(one, two, rtol=0, atol=within)


# The probe's


@pytest.mark.parametrize("name", NAMES)
def test_features__are_those_that_the_probe_reads(runs: Runs, tmp_path: Path, name: str) -> None:
    run = runs(name)
    found = npy(run, run.shards, out=tmp_path)
    assert found.dtype == np.float32
    assert close(found, run.probed())
    expected = [
        {"input": path.name, "split": "train", "label": ("cat", "dog")[number % 2]}
        for number, path in enumerate(run.files)
    ]
    assert index(tmp_path) == expected


@pytest.mark.parametrize("name", NAMES)
def test_features__of_files_are_those_of_their_shards(
    runs: Runs, tmp_path: Path, name: str
) -> None:
    run = runs(name)
    found = npy(run, *run.files, out=tmp_path)
    assert close(found, run.probed())
    end = ":1" if name == "text" else ""
    assert index(tmp_path) == [{"input": f"{path}{end}"} for path in run.files]


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_features__do_not_depend_on_the_batch_size_nor_on_bad_neighbours(
    runs: Runs, tmp_path: Path, batch_size: int
) -> None:
    run = runs("speech-convolution")
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF no recording")
    files = [run.files[0], bad, *run.files[1:]]
    found = npy(run, *files, out=tmp_path, batch_size=batch_size)
    assert close(found, run.probed())
    assert [Path(row["input"]).name for row in index(tmp_path)] == [p.name for p in run.files]


def test_choices__are_the_probes_where_nothing_is_asked(runs: Runs, tmp_path: Path) -> None:
    probe = {"pool": "mean_cls", "block": 1, "network": "teacher"}
    run = runs("vision", probe=probe)
    found = npy(run, run.shards, out=tmp_path)
    assert close(found, run.probed(pool="mean_cls", block=1, network="teacher"))
    assert not close(found, run.probed(pool="mean_cls", block=1))
    asked = {"pool": "mean", "block": 2, "network": "student", "fresh": True}
    assert close(npy(run, run.shards, out=tmp_path, **asked), run.probed())


# Pool and block, by hand


def by_hand(run: Run, pool: str, block: int | None) -> list[Floats]:
    """Sample by sample, block by block, token by token."""
    frozen = load_encoder(run.recipe, run.folder)
    features = []
    for path in run.files:
        item = SourceItem(name=path.name, content=path.read_bytes(), label="x")
        (sample,) = run.modality.encode(item)
        batch = run.modality.collate([run.modality.decode(sample.members, None)])
        tokens = frozen.frontend(frozen.frontend.features(batch), None, None)
        x: Tensor = tokens.values
        for number, part in enumerate(frozen.encoder.blocks, start=1):
            x = part(x, tokens.attention_bias).end_of_block
            if number == block:
                break
        depth = len(frozen.encoder.blocks)
        x = frozen.encoder.norm(x) if block in (None, depth) else F.layer_norm(x, x.shape[-1:])
        rows = list(x[0])
        data = rows[tokens.num_prefix :]
        mean = torch.stack(data).sum(0) / len(data)
        made = {
            "mean": mean, "cls": rows[0], "mean_cls": torch.cat([mean, rows[0]]),
            "tokens": torch.cat(data), "every": torch.stack(data),
        }  # fmt: skip
        features.append(np.asarray(made[pool]))
    return features


@pytest.mark.parametrize("block", [None, 1, 2, 3])
@pytest.mark.parametrize("pool", ["mean", "cls", "mean_cls", "tokens"])
def test_pool_and_block__against_a_slow_loop(
    runs: Runs, tmp_path: Path, pool: str, block: int | None
) -> None:
    run = runs("vision", depth=3)
    found = npy(run, *run.files, out=tmp_path, pool=pool, block=block)
    assert close(found, np.stack(by_hand(run, pool, block)))


@pytest.mark.parametrize("block", [None, 1])
def test_block__of_samples_that_differ_in_length(
    runs: Runs, tmp_path: Path, block: int | None
) -> None:
    run = runs("speech-convolution")
    found = npy(run, *run.files, out=tmp_path, block=block)
    assert close(found, np.stack(by_hand(run, "mean", block)))


@pytest.mark.parametrize("block", [None, 1])
def test_per_token__of_samples_of_one_length_is_one_array(
    runs: Runs, tmp_path: Path, block: int | None
) -> None:
    run = runs("vision")
    found = npy(run, *run.files, out=tmp_path, per_token=True, block=block)
    assert found.shape == (4, 16, 16)
    assert close(found, np.stack(by_hand(run, "every", block)))


@pytest.mark.parametrize("name", ["speech-convolution", "speech-logmel", "text"])
def test_per_token__leaves_padding_out(runs: Runs, tmp_path: Path, name: str) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    run = runs(name)
    embedded(run, *run.files, out=tmp_path / "f.parquet", per_token=True)
    found = parquet.read_table(tmp_path / "f.parquet")["features"].to_pylist()
    expected = by_hand(run, "every", None)
    assert len({len(one) for one in expected}) > 1
    # Single tokens round by more than means of them, depending on what they are padded with.
    assert all(close(one, two, 1e-5) for one, two in zip(found, expected, strict=True))


# Which encoder


def test_checkpoint_and_recipe__stand_for_their_run(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs("vision")
    expected = run.probed()
    for number, place in enumerate(
        [run.folder / "pretrain", run.folder / "pretrain" / "checkpoints" / "step-000000007"]
    ):
        (tmp_path / str(number)).mkdir()
        assert close(npy(place, run.shards, out=tmp_path / str(number)), expected)
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text((run.folder / "pretrain" / "config.yaml").read_text())
    assert close(npy("tiny.yaml", run.shards, out=tmp_path), expected)
    (tmp_path / "away").mkdir()
    Path("runs").rename("elsewhere")
    shards = tmp_path / "elsewhere" / "tiny" / "prepare" / "shards" / "common"
    there = {"runs": Path("elsewhere"), "out": tmp_path / "away"}
    assert close(npy("tiny.yaml", shards, **there), expected)


def test_imported_model__brings_its_tokenizer(runs: Runs, tmp_path: Path) -> None:
    run = runs("text")
    expected = run.probed()
    (run.folder / "prepare" / "learned" / "tokenizer.json").rename(run.folder / "tokenizer.json")
    (run.folder / "prepare").rename(tmp_path / "away")
    assert close(npy(run, *run.files, out=tmp_path), expected)


@pytest.mark.parametrize("name", NAMES)
def test_model_folder__gives_its_encoder(saved: Saved, tmp_path: Path, name: str) -> None:
    made, folder = saved(name, "classify")
    item = BY_NAME[name].items()[0]
    found = npy(folder, item.read(), out=tmp_path)
    item = SourceItem(name="-", content=item.read(), label="x")
    (sample,) = made.modality.encode(item)
    batch = made.modality.collate([made.modality.decode(sample.members, None)])
    tokens = made.model.frontend(made.model.frontend.features(batch), None, None)
    last = made.model.encoder(tokens).last[0, tokens.num_prefix :]
    assert close(found, last.mean(0, keepdim=True).detach().numpy())


def test_run_that_was_fine_tuned_too__gives_the_pre_trained_encoder(
    runs: Runs, saved: Saved, tmp_path: Path
) -> None:
    run = runs("vision")
    _, folder = saved("vision", "classify", seed=3)
    folder.parent.rename(run.folder / "finetune")
    assert close(npy(run, run.shards, out=tmp_path), run.probed())
    tuned = npy(run.folder / "finetune", run.shards, out=tmp_path, fresh=True)
    assert not close(tuned, run.probed())


# Inputs


@pytest.mark.parametrize("raw", [True, False])
def test_long_recording__has_a_row_a_segment(runs: Runs, tmp_path: Path, raw: bool) -> None:
    contents = [recorded(hum(3, 1.0)), recorded(hum(1, 0.2))]
    items = [SourceItem(name=f"{n}.wav", content=one) for n, one in enumerate(contents)]
    run = runs("speech-logmel", modality=LONG, items=items[1:])
    if not raw:  # without labels: only such recordings are cut
        prepare(lambda: items, run.modality.encode, run.shards / "new",
                PrepareSettings(val_fraction=0), seed=0, about=run.modality.about())  # fmt: skip
    inputs = contents if raw else [run.shards / "new" / "train"]
    found = npy(run, *inputs, out=tmp_path, batch_size=2)
    rows = index(tmp_path)
    spans = [(0.0, 0.333), (0.333, 0.667), (0.667, 1.0), (None, None)]
    assert [(row.get("start"), row.get("end")) for row in rows] == spans
    alone = npy(run, contents[1], out=tmp_path, fresh=True)
    assert close(found[3:], alone)
    assert len(np.unique(found[:, 0])) == 4


def test_splits__are_all_embedded_or_the_one_asked_for(runs: Runs, tmp_path: Path) -> None:
    run = runs("vision")
    (run.shards / "train").rename(run.shards / "val")
    items = [SourceItem(name=f"t{n}.png", content=i.read(), label="cat", split="train")
             for n, i in enumerate(BY_NAME["vision"].items()[:2])]  # fmt: skip
    prepare(lambda: items, run.modality.encode, tmp_path / "more", PrepareSettings(val_fraction=0),
            seed=0, about=run.modality.about())  # fmt: skip
    (tmp_path / "more" / "train").rename(run.shards / "train")
    found = npy(run, run.shards, out=tmp_path, batch_size=3)
    assert [row["split"] for row in index(tmp_path)] == ["train"] * 2 + ["val"] * 4
    assert close(found, np.concatenate([run.probed(), run.probed(split="val")]))
    only = npy(run, run.shards, out=tmp_path, split="val", fresh=True)
    assert close(only, run.probed(split="val"))


@pytest.mark.parametrize("raw", [True, False])
def test_workers__change_nothing(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raw: bool
) -> None:
    run = runs("speech-logmel", data={"workers": 2})
    inputs = run.files if raw else (run.shards,)
    expected = npy(run, *inputs, out=tmp_path)
    monkeypatch.setattr(embed_source, "_WORKERS_FROM", 0)
    assert np.array_equal(npy(run, *inputs, out=tmp_path, fresh=True), expected)


def test_labels__that_are_missing_are_left_out(runs: Runs, tmp_path: Path) -> None:
    run = runs("vision")
    items = [SourceItem(name="a.png", content=BY_NAME["vision"].items()[0].read())]
    prepare(lambda: items, run.modality.encode, tmp_path / "more", PrepareSettings(val_fraction=0),
            seed=0, about=run.modality.about())  # fmt: skip
    assert len(npy(run, tmp_path / "more", out=tmp_path)) == 1
    assert index(tmp_path) == [{"input": "a.png", "split": "train"}]
