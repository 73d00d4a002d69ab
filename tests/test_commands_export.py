"""Proves: `d2v export` takes a trained run to other libraries and back, whole or not at all."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

import timm  # noqa: E402  # after the variable that keeps it off the network
import transformers  # noqa: E402

from d2v.errors import D2VError  # noqa: E402
from d2v.exchange.huggingface import export as huggingface_export  # noqa: E402
from tests.finetune_case import RECIPE, listed, write_list  # noqa: E402
from tests.hostile_case import d2v, left, photos, refused, worked  # noqa: E402

RUN = Path("runs/my")
PROBE = "probe: {pool: mean, labels_per_class: [all], draws: 1, batch_size: 8}\n"


@pytest.fixture(name="trained_run", scope="module")
def trained_run_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A desk with a run that was prepared, pre-trained, probed and fine-tuned."""
    desk = tmp_path_factory.mktemp("trained run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(desk)
        patch.delenv("RANK", raising=False)
        longer = RECIPE.replace("steps: 2, batch_size: 8", "steps: 60, batch_size: 8")
        longer = longer.replace("checkpoint_every: 1, score", "checkpoint_every: 60, score")
        Path("my.yaml").write_text(longer + PROBE)
        photos(desk / "photos", "cat", "cow", "dog")
        write_list(listed())
        worked(d2v("run", "my.yaml"))
    return desk


@pytest.fixture(name="run")
def run_fixture(trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it; this process is in it."""
    desk = tmp_path / "desk"
    shutil.copytree(trained_run, desk)
    monkeypatch.chdir(desk)
    monkeypatch.delenv("RANK", raising=False)
    return desk


def losses(name: str) -> list[float]:
    lines = Path(f"runs/{name}/pretrain/metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def probed(name: str) -> Any:
    scores = json.loads(Path(f"runs/{name}/probe/result.json").read_text())["scores"]
    return scores["pre-trained encoder"]


@pytest.mark.usefixtures("run")
def test_export__the_fine_tuned_model_loads_in_transformers_and_in_timm() -> None:
    found = worked(d2v("export", RUN, "hf", "--to", "hf", "--licence", "mit"),
                   "fine-tuned model of my", "Data2VecVisionForImageClassification",
                   "the largest difference is", "from transformers import")  # fmt: skip
    model = transformers.AutoModelForImageClassification.from_pretrained("hf")
    assert model.config.id2label == {0: "cat", 1: "cow", 2: "dog"}
    card = Path("hf/README.md").read_text()
    assert "license: mit" in card
    assert "list.csv" in card
    assert "| test | accuracy |" in card
    assert str(Path.cwd()) not in card + Path("hf/config.json").read_text()
    assert "README.md" in found.output
    worked(d2v("export", RUN, "timm", "--to", "timm"), "vit_base_patch16_224")
    assert timm.create_model("local-dir:timm", pretrained=True).num_classes == 3


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(("to", "program"), [("onnx", "model.onnx"), ("torch", "model.pt2")])
def test_export__a_program_is_written_with_how_to_call_it(to: str, program: str) -> None:
    worked(d2v("export", RUN, "out", "--to", to), "largest difference", program)
    assert {program, "README.md", "inputs.json"} <= set(left(Path("out")))


@pytest.mark.usefixtures("run")
def test_export__the_encoder_is_the_students_or_the_teachers() -> None:
    worked(d2v("export", RUN, "student", "--to", "hf", "--encoder"), "student of my")
    worked(d2v("export", RUN / "pretrain", "teacher", "--to", "hf", "--teacher"), "teacher of my")
    weights = [(Path(name) / "model.safetensors").read_bytes() for name in ("student", "teacher")]
    assert weights[0] != weights[1]
    card = Path("student/README.md").read_text()
    assert "Probe of the frozen encoder" in card
    assert "36 train" not in card  # 24 of them are training samples
    assert "24 train" in card


@pytest.mark.usefixtures("run")
def test_export__and_import_again_give_the_same_probe_score_and_a_head_start() -> None:
    worked(d2v("export", RUN, "hf", "--to", "hf", "--encoder"))
    worked(d2v("import", "hf", "runs/back"))
    recipe = Path("my.yaml").read_text()
    shards = "shards: runs/my/prepare/shards/common"
    own = recipe.replace("data: {", f"data: {{{shards}, ").replace("name: my", "name: again")
    Path("again.yaml").write_text(own)
    worked(d2v("probe", "again.yaml", "pretrain.checkpoint=runs/back"))
    assert probed("again") == probed("my")
    worked(d2v("pretrain", "again.yaml", "pretrain.init_from=runs/back", "pretrain.steps=6"))
    continued, fresh = losses("again"), losses("my")[:6]
    assert sum(continued) < sum(fresh)


@pytest.mark.usefixtures("run")
def test_export__a_folder_that_is_taken_is_left_alone() -> None:
    Path("taken").mkdir()
    Path("taken/mine.txt").write_text("mine")
    refused(d2v("export", RUN, ".", "--to", "hf"), "the folder that you are in")
    for flags in ((), ("--fresh",)):
        refused(d2v("export", RUN, "taken", "--to", "hf", *flags), "did not write it")
    assert left(Path("taken")) == ["mine.txt"]
    worked(d2v("export", RUN, "out", "--to", "timm"))
    refused(d2v("export", RUN, "out", "--to", "hf"), "holds an earlier export", "--fresh")
    worked(d2v("export", RUN, "out", "--to", "hf", "--fresh"))
    assert "preprocessor_config.json" in left(Path("out"))


@pytest.mark.usefixtures("run")
def test_export__a_folder_with_the_run_in_it_is_left_alone() -> None:
    worked(d2v("export", RUN, "out", "--to", "hf", "--encoder"))
    shutil.copytree(RUN, Path("out/run"))
    found = d2v("export", "out/run", "out", "--to", "hf", "--encoder", "--fresh")
    refused(found, "out/run lies in out")
    assert Path("out/run/pretrain/config.yaml").is_file()


@pytest.mark.usefixtures("run")
def test_export__nothing_is_left_where_the_other_library_answers_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def differs(*given: object) -> float:
        raise D2VError("gives other outputs")

    monkeypatch.setattr(huggingface_export, "largest_difference", differs)
    refused(d2v("export", RUN, "out/hf", "--to", "hf"), "gives other outputs", code=1)
    assert left(Path("out")) == []


@pytest.mark.usefixtures("run")
def test_export__what_is_no_run_is_refused() -> None:
    refused(d2v("export", "nowhere", "out", "--to", "hf"), "nowhere does not exist")
    refused(d2v("export", "photos", "out", "--to", "hf"), "photos holds no run of d2v")
    refused(d2v("export", RUN, "out", "--to", "hf", "-q", "-v"), "exclude each other")
    refused(d2v("export", RUN, "out", "--to", "hf", "--licence", "a: b"), "no identifier")
    worked(d2v("export", RUN, "hf", "--to", "hf", "--encoder"))
    worked(d2v("import", "hf", "runs/back"))
    refused(d2v("export", "runs/back", "out", "--to", "hf", "--teacher"), "has no teacher")
    assert not Path("out").exists()
