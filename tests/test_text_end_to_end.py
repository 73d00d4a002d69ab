"""Proves: one command takes texts of every kind to scores, and a second call does nothing."""

import gzip
import json
import random
from pathlib import Path

import pytest

from tests.hostile_case import d2v, refused, worked
from tests.modality_cases import WORDS, sentence
from tests.prepare_case import digests
from tests.ragged_desk_case import TEXT, at_desk, notes, table
from tests.recording_case import write

SIDES = {"first": WORDS[:10], "second": WORDS[10:]}
"""Label -> the words of its sentences."""
STAGES = ("prepare", "pretrain", "probe")


def said(label: str, number: int) -> str:
    """A sentence of its label's words."""
    return (
        " ".join(random.Random(number).choices(SIDES[label], k=4 + number % 5)).capitalize() + "."
    )


@pytest.fixture(name="desk")
def desk_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Documents without labels for pre-training, and two tables for probes: texts and pairs."""
    desk = at_desk(tmp_path, monkeypatch, TEXT)
    notes(desk / "notes")
    lines = [json.dumps({"text": sentence(n, 9) + " " + sentence(n + 1, 7)}) for n in range(8)]
    write(desk / "notes/more.jsonl", "\n".join(lines))
    write(desk / "notes/packed.txt.gz", gzip.compress(sentence(99, 12).encode()))
    texts = [[said(label, n), label] for n in range(15) for label in SIDES]
    for name, part in {"train": texts[:18], "dev": texts[18:24], "test": texts[24:]}.items():
        (desk / "labelled").mkdir(exist_ok=True)
        table(desk / f"labelled/{name}.tsv", ["text", "label"], *part)
    pairs = [
        [said("first", n), said("first" if n % 2 else "second", n + 50), str(n % 2)]
        for n in range(30)
    ]
    table(desk / "pairs.tsv", ["one", "two", "alike"], *pairs)
    return desk


def test_run__goes_from_texts_to_scores_and_then_has_nothing_to_do(desk: Path) -> None:
    command = ["run", "my.yaml", "data.pretrain.source=notes", "data.probe.source=labelled",
               "data.source=null"]  # fmt: skip
    first = worked(
        d2v(*command), "pretrain: 23 inputs = 23 stored", "probe: 30 inputs = 30 stored",
        "2 classes", "Frozen-feature scores",
    )  # fmt: skip
    for words in ("TF-IDF", "untrained", "pre-trained encoder", "documents", "sentences", "tokens"):
        assert words in first.output
    result = json.loads(Path("runs/my/probe/result.json").read_text())
    assert (result["features"], result["scored_on"]) == ("frozen", "test")
    assert result["samples"] == {"train": 18, "val": 6, "test": 6}
    assert len(result["scores"]) == 3
    for stage in STAGES:
        for name in ("config.yaml", "environment.json", "result.json"):
            assert Path("runs/my", stage, name).stat().st_size > 0
    made = digests(Path("runs"))
    tokenizers = [hashed for name, hashed in made.items() if name.endswith("tokenizer.json")]
    assert (len(tokenizers), len(set(tokenizers))) == (3, 1)  # learned, and beside each set
    assert {"my/pretrain/plots/masks.png", "my/pretrain/plots/curves.png"} <= made.keys()

    worked(d2v(*command), "All stages of my (prepare, pretrain, probe)", "nothing was")
    assert digests(Path("runs")) == made
    for stage in STAGES:
        worked(d2v(stage, *command[1:]), f"runs/my/{stage} is already finished")
    refused(d2v(*command, "seed=1"), "seed 0, now it is 1", "--fresh")
    worked(d2v("prepare", *command[1:], "--check"), "Every hash is right")
    assert digests(Path("runs")) == made


def test_run__probes_pairs_from_the_first_token(desk: Path) -> None:
    columns = ["data.text_column=one", "data.pair_column=two", "data.label_column=alike"]
    command = ["run", "my.yaml", "data.source=pairs.tsv", *columns, "probe.pool=cls"]
    worked(d2v(*command), "30 inputs = 30 stored", "2 classes", "pool cls")
