"""Proves: with texts, whatever is wrong is counted with its reason, or refused in one message.

From the command line to the exit code; what is wrong with single texts is in test_text_*.
"""

import gzip
import os
from pathlib import Path

import pytest

from tests.hostile_case import SHARDS, d2v, left, refused, worked
from tests.modality_cases import sentence
from tests.prepare_case import lines
from tests.ragged_desk_case import SPEECH, TEXT, at_desk, notes
from tests.recording_case import write

TOKENIZER = Path("runs/my/prepare/learned/tokenizer.json")


@pytest.fixture(name="desk")
def desk_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own folder: a recipe and 14 documents."""
    desk = at_desk(tmp_path, monkeypatch, TEXT)
    notes(desk / "notes")
    return desk


@pytest.fixture(scope="module", name="prepared")
def prepared_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A desk on which prepare is done."""
    with pytest.MonkeyPatch.context() as patch:
        desk = at_desk(tmp_path_factory.mktemp("prepared"), patch, TEXT)
        notes(desk / "notes")
        worked(d2v("prepare", "my.yaml"), "14 inputs = 14 stored")
    return desk


# Texts


def test_bad_texts__are_listed_with_their_reasons_and_the_rest_is_used(desk: Path) -> None:
    good = sentence(1, 9)
    objects = ['{"text": "Whole words. Seen here."}', "{broken", '{"words": 1}', '{"text": " "}',
               '{"text": "\\ud800"}']  # fmt: skip
    bad = {
        "blank.txt": b" \n\n",
        "empty.txt": b"",
        "latin.txt": f"{good}\nna\xefve.".encode("latin-1"),
        "lines.jsonl": "\n".join(objects).encode(),
        "one.txt": b"x",
        "readme.md": b"x",
        "torn.txt.gz": gzip.compress(good.encode() * 50)[:-9],
    }
    for name, content in bad.items():
        write(desk / "notes" / name, content)
    (desk / "notes/gone.txt").symlink_to("nowhere")
    os.mkfifo(desk / "notes/pipe.txt")
    result = d2v("prepare", "my.yaml")
    worked(result, "27 inputs = 15 stored + 12 rejected", "for other reasons")
    reasons = {entry["source"]: entry["reason"] for entry in lines(SHARDS / "rejected.jsonl")}
    assert reasons.pop("lines.jsonl:2").startswith("not JSON: ")
    assert reasons == {
        "blank.txt": "empty: no text",
        "empty.txt": "empty: no text",
        "gone.txt": "not a regular file",
        "latin.txt": f"not UTF-8: 0xef at byte {len(good) + 3} of the file",
        "lines.jsonl:3": "the field 'text' is missing or no text",
        "lines.jsonl:4": "empty: no text",
        "lines.jsonl:5": "half a surrogate pair, which is no character",
        "one.txt": "one token: there is nothing to predict it from",
        "pipe.txt": "not a regular file",
        "readme.md": "not a supported kind of text",
        "torn.txt.gz (rest)": "damaged gzip: the rest of the file is lost",
    }
    worked(d2v("pretrain", "my.yaml"), "Pre-trained runs/my/pretrain")


def test_line__of_fifty_megabytes_without_a_space_is_turned_away(desk: Path) -> None:
    folder = desk / "long"
    write(folder / "endless.txt", b"x" * 50_000_000)
    write(folder / "short.txt", Path("notes/00.txt").read_bytes())
    arguments = ["prepare", "my.yaml", "data.source=long", "modality.tokenizer.size=262"]
    worked(d2v(*arguments), "2 inputs = 1 stored + 1 rejected", "rejected 1: ")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("bad.tsv", b"text\tlabel\nwell\t1\nna\xefve\t0\n", ["not UTF-8: 0xef at byte 20"]),
        ("bad.tsv", b"words\tlabel\nwell\t1\n", ["no column 'text'", "data.text_column"]),
        ("bad.tsv", b"text\tlabel\nwell\t1\t2\n", ["line 2: 3 fields", "2 columns"]),
        ("bad.jsonl", b'{"words": "well"}\n', ["no field 'text'", "data.text_column"]),
        ("bad.txt", b"", ["None of the 1 inputs", "empty: no text"]),
        ("bad.zip", b"PK\3\4\xff", ["None of the 1 inputs", "not UTF-8: 0xff at byte 4"]),
    ],
)
def test_source__that_cannot_be_used_is_refused_and_leaves_nothing(
    prepared: Path, desk: Path, name: str, content: bytes, words: list[str]
) -> None:
    write(desk / name, content)
    path = f"modality.tokenizer.path={prepared / TOKENIZER}"
    refused(d2v("prepare", "my.yaml", f"data.source={name}", path), *words)
    assert left(Path("runs")) == []


# Tokenizers


def test_tokenizer__without_a_mask_token_is_refused_and_leaves_nothing(
    prepared: Path, desk: Path
) -> None:
    whole = (prepared / TOKENIZER).read_text()
    Path("without.json").write_text(whole.replace("<mask>", "hidden"))
    result = d2v("prepare", "my.yaml", "modality.tokenizer.path=without.json")
    refused(result, "without.json has no token <mask>", "modality.tokenizer.path=null")
    assert left(Path("runs")) == []
    worked(d2v("prepare", "my.yaml", f"modality.tokenizer.path={prepared / TOKENIZER}"))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("modality.tokenizer.path=gone.json", ["gone.json cannot be read", "null to train one"]),
        ("modality.tokenizer.path=my.yaml", ["my.yaml is not a tokenizer", "tokenizer.json"]),
        ("modality.tokenizer.size=5000", ["supports a vocabulary of", "not of 5,000", "size="]),
        ("modality.tokenizer.size=100", ["modality.tokenizer.size = 100", "261"]),
        ("modality.tokenizer.bos_id=4", ["special tokens at (0, 1, 2, 3, 299)", "(4, 1, 2, 3"]),
        ("modality.tokenizer.mask_id=1", ["five different ids below 300"]),
    ],
)
def test_tokenizer__that_does_not_fit_is_refused_and_leaves_nothing(
    desk: Path, override: str, words: list[str]
) -> None:
    refused(d2v("prepare", "my.yaml", override), *words)
    assert left(Path("runs")) == []


def test_vocabulary__too_large_for_the_data_does_not_bind_the_next_try(desk: Path) -> None:
    result = d2v("prepare", "my.yaml", "modality.tokenizer.size=5000")
    size = result.stderr.partition("modality.tokenizer.size=")[2].split()[0]
    worked(d2v("prepare", "my.yaml", f"modality.tokenizer.size={size}"), "14 stored")


# Recipes


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("modality.mask.spam=2", ["modality.mask.span?"]),
        ("modality.mask.random_rate=0.95", ["random_rate 0.95 and keep_rate 0.1 are more"]),
        ("modality.mask.ratio=1", ["modality.mask.ratio = 1", "less than 1"]),
        ("modality.store.blocks=whole", ["blocks = whole", "'sentences' or 'contiguous'"]),
        ("modality.store.block_tokens=64", ["block_tokens 64", "max_tokens 48"]),
        ("pretrain.batch_size=4", ["batch_size and batch_length", "both of them are given"]),
        ("data.documents=page", ["data.documents = page", "'file' or 'blank_line'"]),
    ],
)
def test_setting__that_is_wrong_is_named(desk: Path, override: str, words: list[str]) -> None:
    refused(d2v("run", "my.yaml", override), *words)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["pretrain.max_length=1"], ["max_length is 1 tokens", "1 token.", "at least two"]),
        (["pretrain.batch_length=40"], ["longest training sample has 48 tokens", "batch_length"]),
        (["modality.tokenizer.size=301"], ["300 tokens", "Set modality.tokenizer.size=300"]),
        (["modality.tokenizer.bos_id=7"], ["<s> has the id 0", "modality.tokenizer.bos_id=0"]),
        (
            ["modality.frontend.max_tokens=40", "modality.store.block_tokens=40"],
            ["up to 48 tokens", "Set modality.frontend.max_tokens=48"],
        ),
    ],
)
def test_setting__that_does_not_suit_the_data_is_refused(
    prepared: Path, desk: Path, overrides: list[str], words: list[str]
) -> None:
    result = d2v("pretrain", "my.yaml", f"data.shards={prepared / SHARDS}", *overrides)
    refused(result, *words)
    assert left(Path("runs")) == []


def test_crop__to_two_tokens_can_be_masked_and_trained(prepared: Path, desk: Path) -> None:
    changes = ["pretrain.max_length=2", "pretrain.batch_length=20"]
    worked(d2v("pretrain", "my.yaml", f"data.shards={prepared / SHARDS}", *changes), "Pre-trained")


def test_shards__of_another_modality_are_refused(prepared: Path, desk: Path) -> None:
    Path("my.yaml").write_text(SPEECH)
    result = d2v("pretrain", "my.yaml", f"data.shards={prepared / SHARDS}")
    refused(result, "an unknown rate", "Expected: 16000 Hz")
