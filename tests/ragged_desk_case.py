"""A user's folder of recordings or of texts, a small recipe, and what may be wrong with them."""

import csv
from pathlib import Path

import numpy as np
import pytest

from tests.modality_cases import hum, sentence
from tests.recording_case import recorded, write

_COMMON = """\
device: cpu
encoder:
  {dim: 16, depth: 1, num_heads: 2, norm_position: post, layer_scale: null, init: normal,
   init_std: 0.2, input_norm: INPUT_NORM}
prepare: {val_fraction: 0.2, test_fraction: 0.2, shard_samples: 10}
pretrain:
  steps: 6
  batch_length: BATCH
  log_every: 2
  checkpoint_every: 3
  score_every: 1 epochs
probe: {labels_per_class: [1, all], draws: 2}
"""
SPEECH = """\
modality:
  name: speech
  frontend: {kind: logmel, num_bands: 20, positions: {num_layers: 2, kernel: 5, groups: 4}}
  mask: {ratio: 0.6, length: 3, same_count: false}
  store: {max_seconds: 1}
objective:
  {top_k: 1, target_feature: ffn, target_norm: instance, mean_norm: none, beta: 0,
   channel_reduction: inv_sqrt_dim, teacher_averages: encoder}
data: {source: voices, workers: 0}
""" + _COMMON.replace("BATCH", "3").replace("INPUT_NORM", "true")
TEXT = """\
modality:
  name: text
  frontend: {max_tokens: 48}
  tokenizer: {size: 300}
  mask: {ratio: 0.15, span: 1, random_rate: 0.1, keep_rate: 0.1}
  store: {block_tokens: 48}
objective:
  {top_k: 1, target_feature: ffn, target_norm: layer, mean_norm: none, beta: 1,
   teacher_averages: encoder, head_layers: 2}
data: {source: notes, workers: 0}
""" + _COMMON.replace("BATCH", "400").replace("INPUT_NORM", "false")


def voices(folder: Path, *words: str, count: int = 12) -> Path:
    """Class folders of recordings of 0.2 to 0.6 seconds; each word has its own height."""
    for place, word in enumerate(words):
        for number in range(count):
            seconds = 0.2 + 0.4 * ((5 * number) % count) / count
            wave = hum(10 * place, seconds) + np.float32(0.02) * hum(number, seconds)
            write(folder / word / f"{number}.wav", recorded(wave))
    return folder


def notes(folder: Path, count: int = 14) -> Path:
    """Documents of five to seven sentences."""
    for number in range(count):
        text = "\n".join(sentence(100 * number + n, 4 + n) for n in range(5 + number % 3))
        write(folder / f"{number:02}.txt", text)
    return folder


def table(path: Path, *rows: list[str]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows(rows)
    return path


def at_desk(folder: Path, patch: pytest.MonkeyPatch, recipe: str) -> Path:
    """The folder with a recipe `my.yaml`, and this process in it."""
    patch.chdir(folder)
    patch.delenv("RANK", raising=False)
    (folder / "my.yaml").write_text(recipe)
    return folder
