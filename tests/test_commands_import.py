"""Proves: what `d2v import` writes is an ordinary run, for every later command, or is not there."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from d2v.build import find_checkpoint, load_encoder
from d2v.config import load_recipe
from d2v.engine.checkpoint import load_latest
from d2v.errors import UsageError
from d2v.exchange import land as land_module
from d2v.exchange.foreign import Foreign
from d2v.exchange.huggingface.reader import read_huggingface
from d2v.exchange.land import land
from d2v.exchange.links import Layout, Same
from d2v.recipe import Recipe
from tests.hostile_case import d2v, left, photos, refused, worked
from tests.recording_case import recorded, tone
from tests.stock_case import AUDIO, STATISTICS, TEXT, VISION, byte_tokenizer, save, stock

IMAGES = {**VISION, "image_size": 8, "use_relative_position_bias": True}
RECIPE: dict[str, Any] = {
    "device": "cpu",
    "modality": {"name": "vision", "mask": {"min_block": 1}, "augment": {"crop": "none"}},
    "encoder": {"attention_dropout": 0.0, "drop_path": 0.0},
    "objective": {"top_k": 2},
    "data": {"source": "photos", "workers": 0},
    "prepare": {"val_fraction": 0.25},
    "pretrain": {"steps": 1, "batch_size": 8, "log_every": 1, "checkpoint_every": 1,
                 "score_every": None},
    "probe": {"labels_per_class": ["all"], "draws": 1, "baselines": False},
}  # fmt: skip
TUNING: dict[str, Any] = {
    "steps": 2, "batch_size": 4, "log_every": 1, "score_every": 1,
    "optimizer": {"schedule": {"warmup": 1}},
}  # fmt: skip


@pytest.fixture(name="desk", autouse=True)
def desk_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of the user's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    return tmp_path


def classifier(folder: str = "theirs", **settings: Any) -> Path:
    names = {0: "cat", 1: "dog"}
    model = stock("VisionForImageClassification", **{**IMAGES, **settings}, id2label=names)
    return save(model, Path(folder), preprocessor_config=STATISTICS)


def write(name: str, recipe: dict[str, Any]) -> None:
    Path(name).write_text(yaml.safe_dump(recipe))


def answers(*arguments: object) -> list[dict[str, Any]]:
    shown = worked(d2v("predict", *arguments, "--format", "jsonl")).stdout
    return [json.loads(line) for line in shown.splitlines()]


def test_report__tells_the_kind_the_counts_and_what_to_do_next() -> None:
    shown = worked(d2v("import", classifier(), "runs/cats")).stdout
    assert shown.startswith("Hugging Face Data2VecVisionForImageClassification, ")
    for line in ("parameters, imported into runs/cats", "made anew", "use_mask_token is off",
                 "d2v finetune RECIPE --from runs/cats", "d2v predict runs/cats INPUT...",
                 "d2v pretrain RECIPE --from runs/cats",
                 "d2v probe RECIPE --from runs/cats"):  # fmt: skip
        assert line in shown, line
    told = json.loads(Path("runs/cats/import.json").read_text())
    assert told["kind"] == "Hugging Face Data2VecVisionForImageClassification"
    assert told["mapped"]["classifier.weight"] == "head.last.weight"
    block = "data2vec_vision.encoder.layer.1.attention.attention"
    for part in ("query", "key", "value"):
        assert told["mapped"][f"{block}.{part}.weight"] == "encoder.blocks.1.attn.qkv.weight"
    assert told["left_out"] == {}
    assert told["made_anew"].keys() == {"frontend.mask_token"}
    quiet = worked(d2v("import", Path("theirs"), "runs/again", "-q")).stdout
    assert "next:" not in quiet


def test_pictures__are_probed_trained_further_tuned_and_labelled() -> None:
    worked(d2v("import", classifier(), "runs/cats"))
    photos(Path("photos"), "cat", "dog")
    write("my.yaml", RECIPE)
    worked(d2v("prepare", "my.yaml"))
    worked(d2v("probe", "my.yaml", "--from", "runs/cats"),
           "runs/cats/pretrain/checkpoints/step-000000000")  # fmt: skip
    worked(d2v("pretrain", "my.yaml", "--from", "runs/cats",
               "pretrain.optimizer.learning_rate=1e-9"))  # fmt: skip
    begun, went_on = (load_latest(Path(folder) / "pretrain" / "checkpoints")[0]
                      for folder in ("runs/cats", "runs/my"))  # fmt: skip
    assert begun is not None
    assert went_on is not None
    for name, tensor in begun.tensors["model"].items():
        assert torch.allclose(went_on.tensors["model"][name], tensor, atol=1e-6), name
    write("tune.yaml", {**RECIPE, "pretrain": None, "probe": None,
                        "finetune": {**TUNING, "task": {"name": "classify"}}})  # fmt: skip
    worked(d2v("prepare", "tune.yaml", "--from", "runs/cats"))
    worked(d2v("finetune", "tune.yaml", "--from", "runs/cats"), "runs/cats/pretrain/checkpoints")
    found = answers("runs/cats", "photos")
    assert len(found) == 24
    assert all(sorted(row["probabilities"]) == ["cat", "dog"] for row in found)


def test_recordings__are_written_down() -> None:
    names = ["<pad>", "<s>", "</s>", "<unk>", "|", "E", "T", "A"]
    model = stock("AudioForCTC", **AUDIO)
    folder = save(model, Path("theirs"), vocab={name: n for n, name in enumerate(names)})
    worked(d2v("import", folder, "runs/asr"), "There is no preprocessor_config.json")
    Path("a.wav").write_bytes(recorded(tone(0.3)))
    (row,) = answers("runs/asr", "a.wav")
    assert set(row["transcript"]) <= set("ETA ")
    checkpoint = find_checkpoint(Path("runs/asr"))
    assert checkpoint.state["about"] == {"sample_rate_hz": 16000}
    assert not [name for name in checkpoint.tensors["model"] if name.startswith("head.")]


def texts() -> None:
    with Path("list.csv").open("w", newline="") as file:
        rows = [("text", "label", "split")]
        for number in range(20):
            split = ("train", "train", "train", "val", "test")[number % 5]
            rows.append((f"number {number} of {number * 7}", f"kind {number // 5 % 2}", split))
        csv.writer(file).writerows(rows)


def text_classifier() -> Path:
    labels = {0: "dull", 1: "fine"}
    folder = save(stock("TextForSequenceClassification", **TEXT, id2label=labels), Path("theirs"))
    byte_tokenizer(("<s>", "<pad>", "</s>", "<unk>")).save(str(folder / "tokenizer.json"))
    return folder


def test_texts__are_labelled_and_tuned_with_the_imported_tokenizer() -> None:
    worked(d2v("import", text_classifier(), "runs/film"))
    Path("lines.txt").write_text("A fine film.\nA dull one.\n")
    assert [row["label"] in ("dull", "fine") for row in answers("runs/film", "lines.txt")] == [
        True, True
    ]  # fmt: skip
    texts()
    write("my.yaml", {
        "device": "cpu", "modality": {"name": "text", "store": {"block_tokens": 32}},
        "data": {"source": "list.csv", "whole_texts": True, "workers": 0},
        "prepare": {}, "finetune": {**TUNING, "task": {"name": "classify"}},
    })  # fmt: skip
    shown = worked(d2v("prepare", "my.yaml", "--from", "runs/film", "--print-config")).stdout
    assert "path: runs/film/tokenizer.json  # --from runs/film" in shown
    worked(d2v("prepare", "my.yaml", "--from", "runs/film"))
    learned = Path("runs/my/prepare/learned/tokenizer.json").read_bytes()
    assert learned == Path("theirs/tokenizer.json").read_bytes()
    worked(d2v("finetune", "my.yaml", "--from", "runs/film"), "runs/film/pretrain/checkpoints")


def test_texts__of_a_model_without_tokenizer_need_one_to_be_asked() -> None:
    folder = text_classifier()
    kept = (folder / "tokenizer.json").rename("mine.json")
    refused(d2v("import", folder, "runs/film"), "has no tokenizer", "--tokenizer FILE")
    assert not Path("runs").exists()
    worked(d2v("import", folder, "runs/film", "--tokenizer", kept))
    assert Path("runs/film/tokenizer.json").read_bytes() == kept.read_bytes()


def test_bare_text_model__needs_no_tokenizer() -> None:
    save(stock("TextModel", **TEXT), Path("theirs"))
    worked(d2v("import", "theirs", "runs/bare"), "There is no tokenizer", "data2vec has no pooler")
    assert left(Path("runs/bare/finetune")) == []
    recipe = load_recipe("runs/bare/pretrain/config.yaml", [], Recipe).settings
    load_encoder(recipe, Path("runs/bare"))


# Student and teacher


def with_teacher() -> Foreign:
    """An audio model whose source holds an average of the encoder, too, and the head."""
    folder = save(stock("AudioModel", **AUDIO), Path("theirs"))
    foreign = read_huggingface(folder, num_heads=None, tokenizer=None)
    student = {link.ours: link for link in foreign.layout.links}
    averaged = {name: link for name, link in student.items() if name.startswith("encoder.")}
    names = sorted({name for link in averaged.values() for name in link.theirs})
    extra = {f"_ema.{name}": foreign.tensors[name] + 1 for name in names}
    extra |= {"final.weight": torch.ones(24, 24), "final.bias": torch.ones(24)}
    layout = Layout(
        links=(*foreign.layout.links, Same("head.0.weight", ("final.weight",)),
               Same("head.0.bias", ("final.bias",))),
        left_out=foreign.layout.left_out,
    )  # fmt: skip
    teacher = Layout(
        links=tuple(
            type(link)(f"teacher.{name}", tuple(f"_ema.{one}" for one in link.theirs))  # type: ignore[call-arg]  # every link here takes the two
            for name, link in averaged.items()
        )
    )
    tensors = {**foreign.tensors, **extra}
    return Foreign(kind="with teacher", modality=foreign.modality, encoder=foreign.encoder,
                   objective={"head_layers": 1}, layout=layout, tensors=tensors,
                   teacher=teacher)  # fmt: skip


def test_teacher__comes_along_and_pretraining_may_start_from_it() -> None:
    landed = land(with_teacher(), Path("runs/both"), Path("theirs"))
    kept = find_checkpoint(Path("runs/both")).tensors["model"]
    assert torch.equal(kept["head.0.weight"], torch.ones(24, 24))
    name = "encoder.blocks.2.attn.qkv.weight"
    assert torch.equal(kept[f"teacher.{name}"], kept[name] + 1)
    assert not [name for name in kept if name.startswith("teacher.frontend.")]
    assert landed.accounted.left_out == {}
    recipe = load_recipe("runs/both/pretrain/config.yaml", [], Recipe).settings
    frozen = load_encoder(recipe, Path("runs/both"), "teacher")
    assert torch.equal(frozen.encoder.get_parameter("blocks.2.attn.qkv.weight"), kept[name] + 1)


def test_teacher__that_lacks_a_tensor_is_refused_by_name() -> None:
    foreign = with_teacher()
    name = "_ema.encoder.layer_norm.weight"
    foreign = replace(foreign, tensors={n: t for n, t in foreign.tensors.items() if n != name})
    with pytest.raises(UsageError, match=r"1 missing: _ema\.encoder\.layer_norm\.weight"):
        land(foreign, Path("runs/both"), Path("theirs"))
    assert not Path("runs").exists()


# What is in the way


def test_dest__is_never_written_over_by_accident() -> None:
    classifier()
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years of work")
    for options in ((), ("--fresh",)):
        refused(d2v("import", "theirs", "mine", *options), "mine exists", "Name another one")
    assert left(Path("mine")) == ["thesis.txt"]
    Path("empty").mkdir()
    worked(d2v("import", "theirs", "empty"))
    before = find_checkpoint(Path("empty")).digest
    refused(d2v("import", "theirs", "empty"), "holds an imported model", "--fresh")
    classifier(layer_norm_eps=1e-6)
    worked(d2v("import", "theirs", "empty", "--fresh"))
    assert find_checkpoint(Path("empty")).digest != before


def test_dest__is_whole_or_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(land_module, "save_model", full)
    refused(d2v("import", "theirs", "runs/cats"), "could not be written: No space left", code=1)
    assert left(Path("runs")) == []


def test_dest__is_no_training_to_be_continued() -> None:
    worked(d2v("import", classifier(), "runs/my"))
    photos(Path("photos"), "cat", "dog")
    found = yaml.safe_load(Path("runs/my/pretrain/config.yaml").read_text())
    modality = {**RECIPE["modality"], "frontend": found["modality"]["frontend"]}
    write("my.yaml", {**RECIPE, "modality": modality, "encoder": found["encoder"]})
    worked(d2v("prepare", "my.yaml"))
    worked(d2v("probe", "my.yaml"))  # the run's own pre-training, as far as the probe can see
    refused(d2v("pretrain", "my.yaml"), "was started with", "imported")


def test_options__that_exclude_each_other_are_refused() -> None:
    refused(d2v("import", "theirs", "runs/x", "-q", "-v"), "exclude each other")
    refused(d2v("import", "theirs", "runs/x"), "theirs does not exist", "fairseq")
