"""Proves: one command takes recordings of every kind to scores, and a second call does nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.hostile_case import d2v, refused, worked
from tests.modality_cases import hum
from tests.prepare_case import digests
from tests.ragged_desk_case import SPEECH, at_desk, table
from tests.recording_case import recorded, write

WORDS = {"low": 0, "middle": 12, "high": 40}
"""Word -> height of its tone."""
FORMATS = (("wav", None, 16_000), ("flac", None, 8_000), ("ogg", "VORBIS", 44_100),
           ("mp3", None, 22_050), ("wav", "PCM_24", 48_000), ("wav", "FLOAT", 11_025),
           ("wav", "PCM_U8", 16_000), ("flac", "PCM_24", 96_000))  # fmt: skip
STAGES = ("prepare", "pretrain", "probe")
FRONTENDS = {
    "logmel": SPEECH,
    "convolution": SPEECH.replace(
        "kind: logmel, num_bands: 20",
        "kind: convolution, layers: [[8, 10, 5], [8, 8, 8], [12, 8, 8]], gradient_scale: 0.1",
    ),
}


def stereo(wave: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N,) -> (N, 2), the second channel fainter."""
    return np.stack([wave, wave / 2], axis=1)


@pytest.fixture(params=FRONTENDS, name="desk")
def desk_fixture(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A recipe, and 48 recordings in a table that tells word, speaker and what was said."""
    desk = at_desk(tmp_path, monkeypatch, FRONTENDS[request.param])
    rows = []
    for number in range(48):
        word = list(WORDS)[number % 3]
        kind, subtype, rate = FORMATS[number % len(FORMATS)]
        wave = hum(WORDS[word] + number % 5, 0.3 + 0.01 * (number % 7), rate)
        name = f"sounds/{number}.{kind}"
        content = recorded(stereo(wave) if number % 4 == 0 else wave, rate, kind, subtype)
        write(desk / name, content)
        rows.append([name, word, f"speaker {number // 3 % 8}", f"So {word}!"])
    table(desk / "sounds.tsv", ["path", "label", "speaker", "transcript"], *rows)
    return desk


def test_run__goes_from_recordings_to_scores_and_then_has_nothing_to_do(desk: Path) -> None:
    command = ["run", "my.yaml", "data.source=sounds.tsv"]
    first = worked(d2v(*command), "48 inputs = 48 stored", "3 classes", "Frozen-feature scores")
    for words in ("log-mel statistics", "untrained", "pre-trained encoder", "speakers: train",
                  "hours: train", "22,050 Hz", "transcribed"):  # fmt: skip
        assert words in first.output
    result = json.loads(Path("runs/my/probe/result.json").read_text())
    assert (result["features"], result["scored_on"]) == ("frozen", "test")
    assert sum(result["samples"].values()) == 48
    assert len(result["scores"]) == 3
    for stage in STAGES:
        for name in ("config.yaml", "environment.json", "result.json"):
            assert Path("runs/my", stage, name).stat().st_size > 0
    made = digests(Path("runs"))
    shards = "my/prepare/shards/common"
    assert {"my/pretrain/plots/masks.png", f"{shards}/vocabulary.json"} <= made.keys()
    assert f"{shards}/duplicates.jsonl" in made

    worked(d2v(*command), "All stages of my (prepare, pretrain, probe)", "nothing was")
    assert digests(Path("runs")) == made
    for stage in STAGES:
        worked(d2v(stage, *command[1:]), f"runs/my/{stage} is already finished")
    refused(d2v(*command, "seed=1"), "seed 0, now it is 1", "--fresh")
    worked(d2v("prepare", *command[1:], "--check"), "Every hash is right")
    assert digests(Path("runs")) == made
