"""Proves: what cannot be embedded is refused with what to do, and leaves nothing behind."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from d2v.engine.checkpoint import load_checkpoint, save_checkpoint
from d2v.errors import D2VError, UsageError
from tests.asking_case import Saved, saved_fixture
from tests.embed_case import Run, Runs, contents, embedded, made_run, npy, runs_fixture
from tests.hostile_case import d2v, refused, worked
from tests.model_case import BY_NAME

__all__ = ["runs_fixture", "saved_fixture"]


@pytest.fixture(name="run")
def run_fixture(runs: Runs) -> Run:
    return runs("vision")


# What is asked of the encoder


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"block": 3}, r"--block 3: the encoder has 2 blocks.*1 to 2"),
        ({"block": 0}, r"--block 0"),
        ({"out": Path("f.txt")}, r"f.txt ends in .txt.*\.npy, \.parquet, \.tar"),
        ({"split": "train"}, r"--split train is of prepared shards"),
    ],
)
def test_choice__that_makes_no_sense_is_refused(
    run: Run, tmp_path: Path, asked: dict[str, Any], message: str
) -> None:
    before = contents(tmp_path)
    with pytest.raises(UsageError, match=message):
        embedded(run, *run.files, **{"out": tmp_path / "f.npy"} | asked)
    assert contents(tmp_path) == before


def test_cls__of_an_encoder_without_one_is_refused(runs: Runs, tmp_path: Path) -> None:
    run = runs("speech-logmel")
    with pytest.raises(UsageError, match=r"--pool mean_cls needs a CLS token.*--pool mean"):
        embedded(run, *run.files, out=tmp_path / "f.npy", pool="mean_cls")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"per_token": True}, r"first has 21 tokens, .*1.wav has 29.*\.parquet"),
        ({"pool": "tokens"}, r"first has 336 numbers, .*1.wav has 464.*--pool mean"),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 4])
def test_ragged_features__that_do_not_fit_are_refused(
    runs: Runs, tmp_path: Path, asked: dict[str, Any], message: str, batch_size: int
) -> None:
    run = runs("speech-convolution")
    with pytest.raises(UsageError, match=message):
        embedded(run, *run.files, out=tmp_path / "f.npy", batch_size=batch_size, **asked)
    assert not (tmp_path / ".f.npy.partial").exists()
    assert not (tmp_path / "f.npy").exists()


def test_teacher__that_is_not_there_is_refused(run: Run, saved: Saved, tmp_path: Path) -> None:
    _, folder = saved("vision", "classify")
    with pytest.raises(UsageError, match=r"fine-tuned model: it has no teacher"):
        embedded(folder, *run.files, out=tmp_path / "f.npy", network="teacher")
    checkpoints = run.folder / "pretrain" / "checkpoints"
    kept = load_checkpoint(checkpoints / "step-000000007")
    student = {n: t for n, t in kept.tensors["model"].items() if not n.startswith("teacher.")}
    save_checkpoint(checkpoints, 8, {"model": student}, kept.state)
    with pytest.raises(UsageError, match=r"step-000000008 has no teacher.*--network student"):
        embedded(run, *run.files, out=tmp_path / "f.npy", network="teacher")


# Which encoder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", r"There is no run and no recipe nowhere.*a run directory"),
        ("vision/digits", r"The recipe vision/digits has no run: .*digits does not exist"),
        ("raw", r"There is no encoder in raw"),
        ("raw/0.png", r"raw/0.png is not a recipe"),
    ],
)
def test_run__that_is_not_there_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        embedded(name, *run.files, out=tmp_path / "f.npy")


def test_run__without_a_checkpoint_or_with_other_settings_is_refused(
    run: Run, tmp_path: Path
) -> None:
    config = run.folder / "pretrain" / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("num_heads: 2", "num_heads: 4"))
    with pytest.raises(UsageError, match="of another architecture: encoder.num_heads"):
        embedded(run, *run.files, out=tmp_path / "f.npy")
    config.write_text("modality: [")
    with pytest.raises(UsageError, match=r"config.yaml makes no sense"):
        embedded(run, *run.files, out=tmp_path / "f.npy")
    config.write_text(text)
    (run.folder / "pretrain" / "checkpoints").rename(tmp_path / "away")
    with pytest.raises(UsageError, match="There is no checkpoint"):
        embedded(run, *run.files, out=tmp_path / "f.npy")


def test_tokenizer__other_than_the_encoders_is_refused(runs: Runs, tmp_path: Path) -> None:
    run = runs("text")
    other = run_of_other_words(tmp_path / "other")
    with pytest.raises(UsageError, match=r"prepared otherwise.*tokenizer_sha256"):
        embedded(run, other.shards, out=tmp_path / "f.npy")
    learned = "prepare/learned/tokenizer.json"
    (run.folder / learned).write_bytes((other.folder / learned).read_bytes())
    with pytest.raises(UsageError, match=r"was trained with tokenizer_sha256"):
        embedded(run, *run.files, out=tmp_path / "f.npy")
    (run.folder / learned).unlink()
    with pytest.raises(UsageError, match=r"The encoder is that of .* has learned is not there"):
        embedded(run, *run.files, out=tmp_path / "f.npy")


def run_of_other_words(folder: Path) -> Run:
    items = BY_NAME["text"].items()
    changed = [type(item)(name=item.name, content=item.read()[::-1]) for item in items]
    folder.mkdir()
    return made_run(folder, "text", items=changed)


# Inputs and places


def test_inputs__that_do_not_go_together_are_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="named together"):
        embedded(run, run.shards, run.files[0], out=tmp_path / "f.npy")
    with pytest.raises(UsageError, match="Two of the inputs have a split train"):
        embedded(run, run.shards, run.shards / "train", out=tmp_path / "f.npy")
    with pytest.raises(UsageError, match=r"no split test in .*one of train"):
        embedded(run, run.shards, out=tmp_path / "f.npy", split="test")


def _empty_folder(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def _of_another_kind(folder: Path) -> Path:
    (folder / "kind").mkdir()
    (folder / "kind" / "a.txt").touch()
    return folder / "kind"


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda folder: folder / "nowhere", "nowhere does not exist"),
        (_empty_folder, "empty is empty"),
        (_of_another_kind, r"1 files and no picture"),
    ],
)
def test_input__without_anything_to_embed_is_refused(
    run: Run, tmp_path: Path, made: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        embedded(run, made(tmp_path), out=tmp_path / "f.npy")
    assert not list(tmp_path.glob("*f.npy*"))


def test_no_usable_input__gives_no_file(run: Run, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    with pytest.raises(
        D2VError, match=r"None of the 2 inputs .*bad.png: .*not a picture"
    ) as caught:
        embedded(run, bad, bad, out=tmp_path / "f.npy")
    assert caught.value.exit_code == 1
    assert not list(tmp_path.glob("*f.npy*"))


@pytest.mark.parametrize("fresh", [True, False])
def test_place__that_holds_something_else_is_refused(run: Run, tmp_path: Path, fresh: bool) -> None:
    (tmp_path / "mine.npy").write_bytes(b"mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.png").touch()
    before = contents(tmp_path)
    for name in ("mine.npy", "mine"):
        with pytest.raises(UsageError, match=f"{name} is there already, and d2v embed did not"):
            embedded(run, *run.files, out=tmp_path / name, fresh=fresh)
    assert contents(tmp_path) == before


def test_place__that_cannot_be_written_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(D2VError, match=r"f.npy cannot be written: Not a directory"):
        embedded(run, *run.files, out=tmp_path / "file" / "f.npy")
    with pytest.raises(UsageError, match=r"lies in the input .*another --out"):
        embedded(run, tmp_path / "raw", out=tmp_path / "raw" / "f.npy")
    (tmp_path / "new").mkdir()
    npy(run, *run.files, out=tmp_path / "new")
    assert len(npy(run, *run.files, out=tmp_path / "made" / "on the way")) == 4


# On the command line


def test_command__writes_says_what_and_ends_with_0(run: Run, tmp_path: Path) -> None:
    line = ("embed", run.folder, tmp_path / "raw", "--out", tmp_path / "f.npy")
    said = worked(d2v(*line)).stdout
    assert f"Wrote {tmp_path / 'f.npy'}: 4 rows of 16;" in said
    assert "pool mean of the encoder's output, student of" in said
    assert len(worked(d2v(*line, "--fresh", "-q")).stdout.splitlines()) == 1


def test_command__with_a_bad_input_ends_with_1_whenever_it_is_asked(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "raw" / "bad.png").write_bytes(b"no picture")
    for said in ("Wrote", "already finished"):
        result = d2v("embed", run.folder, tmp_path / "raw", "--out", tmp_path / "f.npy")
        refused(result, "1 of 5 inputs could not be used", "f.npy.errors.jsonl", code=1)
        assert said in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["raw"], "Missing option '--out'"),
        (["--out", "f.npy"], "Missing argument"),
        (["-", "--out", "f.npy"], "Standard input is empty"),
        (["raw", "--out", "f.npy", "--per-token", "--pool", "mean"], "exclude each other"),
        (["raw", "--out", "f.npy", "-q", "-v"], "exclude each other"),
    ],
)
def test_command__that_lacks_something_ends_with_2(arguments: list[str], message: str) -> None:
    result = d2v("embed", "somewhere", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_help__loads_no_torch() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from d2v.cli import app; "
        "assert CliRunner().invoke(app, ['embed', '--help']).exit_code == 0; "
        "print([m for m in ('torch', 'numpy', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr
