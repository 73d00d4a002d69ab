"""Small tables in the layout of the GLUE download, a corpus, and an encoder trained on it."""

import random
from pathlib import Path

WORDS = [*("the", "a", "cat", "dog", "sees", "hears", "big", "small", "house", "runs"),
         *("sleeps", "and", "or", '"', "'quoted\"", "green", "never")]  # fmt: skip
SIZES = {"train": 40, "dev": 16}

RECIPE = """\
# @package _global_
name: tiny
device: cpu
modality:
  name: text
  frontend: {max_tokens: 32}
  tokenizer: {size: 300}
  store: {block_tokens: 32}
encoder: {dim: 16, depth: 1, num_heads: 2}
objective: {top_k: 1}
data: {source: books, workers: 0}
prepare: {val_fraction: 0.2}
pretrain: {steps: 1, batch_size: 4, log_every: 1, checkpoint_every: 1, score_every: null}
"""
"""Of the run `tiny`, whose encoder is fine-tuned."""
SHORT = (
    "finetune.steps=2",
    "finetune.optimizer.schedule.warmup=1 steps",
    "finetune.batch_size=8",
    "prepare.val_fraction=0.2",
    "data.workers=0",
    "device=cpu",
)
"""Overrides that make the fine-tuning a matter of a second."""


def sentence(generator: random.Random) -> str:
    return " ".join(generator.choices(WORDS, k=generator.randrange(3, 9)))


def books(folder: Path, count: int = 12) -> Path:
    folder.mkdir(parents=True)
    generator = random.Random(0)
    for number in range(count):
        lines = [sentence(generator) + "." for _ in range(20)]
        (folder / f"{number}.txt").write_text("\n".join(lines))
    return folder


def table(path: Path, header: str, count: int, *, bom: bool = False) -> None:
    """Columns named after what they hold: texts, a label, or anything else."""
    generator = random.Random(path.as_posix()[-20:])
    columns = header.split("|")
    rows = []
    for number in range(count):
        row = []
        for column in columns:
            if column in ("sentence", "sentence1", "sentence2", "question", "question1",
                          "question2", "#1 String", "#2 String", "3"):  # fmt: skip
                row.append(sentence(generator))
            elif column in ("label", "Quality", "is_duplicate", "1"):
                row.append(str(number % 2))
            elif column == "gold_label":
                row.append(("entailment", "neutral", "contradiction")[number % 3])
            elif column == "score":
                row.append(f"{generator.random() * 5:.3f}")
            else:
                row.append(f"{column[:3]}{number}")
        rows.append("\t".join(row))
    head = [] if "3" in columns else ["\t".join(columns)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(("\ufeff" if bom else "") + "\n".join([*head, *rows]) + "\n")


HEADERS = {
    "CoLA": "0|1|2|3",
    "SST-2": "sentence|label",
    "MRPC": "Quality|#1 ID|#2 ID|#1 String|#2 String",
    "STS-B": "index|genre|filename|year|old_index|source1|source2|sentence1|sentence2|score",
    "QQP": "id|qid1|qid2|question1|question2|is_duplicate",
    "MNLI": "index|promptID|pairID|genre|sentence1_binary_parse|sentence2_binary_parse|"
    "sentence1_parse|sentence2_parse|sentence1|sentence2|label1|gold_label",
    "QNLI": "index|question|sentence|label",
    "RTE": "index|sentence1|sentence2|label",
}
"""Columns of train.tsv; CoLA's table has no header."""


def glue(folder: Path, *tasks: str) -> Path:
    """The tasks' folders with train.tsv and dev.tsv (MNLI: the two kinds of dev)."""
    for task in tasks or HEADERS:
        for split, count in SIZES.items():
            names = (
                [split] if (task, split) != ("MNLI", "dev") else ["dev_matched", "dev_mismatched"]
            )
            for name in names:
                header = HEADERS[task]
                if name.startswith("dev_"):  # several annotators
                    header = header.replace("|label1|", "|label1|label2|label3|label4|label5|")
                table(folder / task / f"{name}.tsv", header, count, bom=task == "MRPC")
    return folder
