"""Proves: `d2v finetune` goes from an encoder to a model and its score, once, and test comes last.

Scores are worked out again from what `d2v predict` says of the raw files.
"""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from d2v.commands.scoring import Scorer
from d2v.commands.trials import Trainer, Trial
from d2v.data.shards import Shards
from d2v.tasks import Answer
from tests.finetune_case import (
    CLASSES,
    SPLITS,
    STAGE,
    desk_fixture,
    drawn_desk_fixture,
    finetune,
    listed,
    pretrained_desk_fixture,
    result,
    text_desk_fixture,
    texts_fixture,
    weights,
    write_list,
)
from tests.hostile_case import d2v, refused, worked
from tests.prepare_case import digests
from tests.training_case import rows as logged

__all__ = ["desk_fixture", "drawn_desk_fixture", "pretrained_desk_fixture", "text_desk_fixture",
           "texts_fixture"]  # fmt: skip

NUMBERS = ("data.label_kind=number", "data.label_column=number",
           "finetune.task={name: regress, low: -1, high: 2}", "~prepare.subsets")  # fmt: skip


def rows_of(table: str, split: str) -> list[dict[str, str]]:
    with Path(table).open(newline="") as file:
        rows = csv.DictReader(file, delimiter="\t" if table.endswith("tsv") else ",")
        return [row for row in rows if row["split"] == split]


def predicted(*inputs: str) -> list[dict[str, Any]]:
    """What the model of the run says, line by line."""
    shown = worked(d2v("predict", "runs/my", *inputs, "--format", "jsonl", "-q"))
    return [json.loads(line) for line in shown.stdout.splitlines()]


def figures(split: str = "test", place: int = 0) -> dict[str, float]:
    found: dict[str, float] = result()["chosen"][place]["scores"][""][split]["figures"]
    return found


# One run, from the encoder to its score


def test_finetune__leaves_scores_model_plots_and_trials(drawn_desk: Path) -> None:
    """Two ways to begin on two amounts of labels."""
    asked = ("finetune.init=[pretrained,scratch]", "finetune.subset=[few,all]")
    shown = worked(finetune(*asked), "Fine-tuned scores", "from scratch", "6 test samples, looked")
    found, made = result(), digests(STAGE)
    assert [found[key] for key in ("task", "main_score")] == ["classify", "accuracy"]
    assert found["scored_on"] == "test"
    cells = [(cell["init"], cell["subset"], cell["num_train"]) for cell in found["chosen"]]
    assert cells == [("pretrained", "few", 9), ("pretrained", "all", 24), ("scratch", "few", 9),
                     ("scratch", "all", 24)]  # fmt: skip
    for cell in found["chosen"]:
        split = cell["scores"][""]["test"]
        low, high = split["interval"]["accuracy"]
        assert low <= split["figures"]["accuracy"] <= high
        assert split["samples"] == 6
    names = [trial["name"] for trial in found["trials"]]
    assert sorted(names) == sorted(path.name for path in (STAGE / "trials").iterdir())
    for trial in found["trials"]:  # the best score on val of each
        folder = STAGE / "trials" / trial["name"]
        best = max(row["accuracy"] for row in logged(folder) if "accuracy" in row)
        assert trial["val"] == pytest.approx(best, abs=1e-6)
        assert list((folder / "tensorboard").iterdir())
        assert (folder / "plots/curves.png").read_bytes()[:4] == b"\x89PNG"
    table = shown.stdout.partition("Fine-tuned scores")[2].splitlines()
    assert [line.split()[0] for line in table[2:6]] == ["pre-trained"] * 2 + ["from"] * 2
    assert "few (9)" in table[2]
    assert (STAGE / "plots/confusion.png").read_bytes()[:4] == b"\x89PNG"
    for name in ("config.yaml", "environment.json", "model/model.safetensors", "model/model.json"):
        assert (STAGE / name).stat().st_size > 100

    again = worked(finetune(*asked), "already finished; nothing was done")
    assert again.stdout.splitlines()[1:6] == table[1:6]
    refused(finetune(*asked, "seed=1"), "seed 0, now it is 1", "--fresh")
    assert digests(STAGE) == made


def test_score__is_what_the_kept_model_makes_of_the_raw_pictures(desk: Path) -> None:
    worked(finetune("finetune.steps=8"))
    for split in ("val", "test"):
        rows = rows_of("list.csv", split)
        answers = predicted(*(row["path"] for row in rows))
        right = [said["label"] == row["label"] for said, row in zip(answers, rows, strict=True)]
        assert figures(split)["accuracy"] == pytest.approx(np.mean(right), abs=1e-12)
        assert set(answers[0]["probabilities"]) == set(CLASSES)


def test_number__of_a_picture_is_learned_and_scored(desk: Path) -> None:
    worked(d2v("prepare", "my.yaml", "--fresh", *NUMBERS))
    worked(finetune(*NUMBERS, "finetune.steps=8"), "test pearson")
    rows = rows_of("list.csv", "test")
    values = [said["value"] for said in predicted(*(row["path"] for row in rows))]
    truth = [float(row["number"]) for row in rows]
    assert figures()["pearson"] == pytest.approx(np.corrcoef(values, truth)[0, 1], abs=1e-4)
    gaps = [abs(value - true) for value, true in zip(values, truth, strict=True)]
    assert figures()["mean_absolute_error"] == pytest.approx(np.mean(gaps), abs=1e-5)


def test_texts__get_a_class_from_an_encoder_that_another_run_trained(texts: Path) -> None:
    """The run that names it learns no tokenizer: it takes that one's."""
    start = ("--from", "runs/tiny")
    worked(d2v("run", "my.yaml", *start), "Pre-trained weights: runs/tiny/pretrain/checkpoints")
    rows = rows_of("list.tsv", "test")
    write_list([["text"], *([row["text"]] for row in rows)], "test.tsv")
    answers = [said["label"] for said in predicted("test.tsv")]
    right = [said == row["label"] for said, row in zip(answers, rows, strict=True)]
    assert figures()["accuracy"] == pytest.approx(np.mean(right), abs=1e-12)
    assert {"matthews", "f1", "macro_f1"} <= figures().keys()
    assert Path(STAGE / "model/learned/tokenizer.json").read_bytes() == (
        Path("runs/tiny/prepare/learned/tokenizer.json").read_bytes()
    )


def test_number__of_a_text_is_learned_and_scored(texts: Path) -> None:
    numbers = ("data.finetune.label_kind=number", "data.finetune.label_column=number",
               "finetune.task.name=regress", "finetune.task.high=2")  # fmt: skip
    worked(d2v("run", "my.yaml", "--from", "runs/tiny", *numbers), "test pearson")
    rows = rows_of("list.tsv", "test")
    write_list([["text"], *([row["text"]] for row in rows)], "test.tsv")
    values = [said["value"] for said in predicted("test.tsv")]
    truth = [float(row["number"]) for row in rows]
    assert figures()["pearson"] == pytest.approx(np.corrcoef(values, truth)[0, 1], abs=1e-4)


# Several seeds, and what test is asked


def test_seeds__are_runs_of_their_own_and_the_figures_their_mean(desk: Path) -> None:
    each = []
    for seed in (5, 6):
        name = f"name=only{seed}"
        worked(finetune(name, "data.shards=runs/my/prepare/shards/common", f"seed={seed}",
                        "pretrain.checkpoint=runs/my"))  # fmt: skip
        each.append(result(Path(f"runs/only{seed}/finetune")))
    worked(finetune("finetune.seeds=[5,6]"))
    found = result()
    assert [t["val"] for t in found["trials"]] == [one["trials"][0]["val"] for one in each]
    for seed in (5, 6):
        trial = Path(f"trials/pretrained-all-lr0.003-seed{seed}")
        alone = weights(Path(f"runs/only{seed}/finetune") / trial, 4)
        assert all(torch.equal(value, alone[name])
                   for name, value in weights(STAGE / trial, 4).items())  # fmt: skip
    for split in ("val", "test"):
        of_each = [one["chosen"][0]["scores"][""][split]["figures"] for one in each]
        both = found["chosen"][0]["scores"][""][split]
        for name, mean in both["figures"].items():
            values = [one[name] for one in of_each]
            assert mean == pytest.approx(sum(values) / 2, abs=1e-12)
            assert both["std"][name] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)


def test_test_split__is_read_once_by_each_chosen_model_when_all_are_trained(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    read, train, answers = Shards.read, Trainer.train, Scorer.answers

    def noted_read(self: Shards, i: int, *given: Any, **more: Any) -> dict[str, bytes]:
        events.append(self.folder.name)
        return read(self, i, *given, **more)

    def noted_train(self: Trainer, trial: Trial) -> dict[str, float]:
        events.append("begin")
        found = train(self, trial)
        events.append("end")
        return found

    def noted_answers(self: Scorer, model: Any, shards: Shards) -> list[Answer]:
        events.append(f"ask {shards.folder.name}")
        return answers(self, model, shards)

    monkeypatch.setattr(Shards, "read", noted_read)
    monkeypatch.setattr(Trainer, "train", noted_train)
    monkeypatch.setattr(Scorer, "answers", noted_answers)
    worked(finetune("finetune.seeds=[0,1]", "finetune.learning_rates=[0.003,1e-12]"))
    last = max(place for place, event in enumerate(events) if event == "end")
    assert events.count("begin") == events.count("end") == 4
    assert "test" not in events[:last]
    assert "ask test" not in events[:last]
    assert events[last:].count("ask test") == 2
    assert events.count("test") == 2 * 3 * SPLITS.count("test")
    assert events[:last].count("ask val") == 4 * 2  # each trial scores itself twice
    means = {
        rate: np.mean([t["val"] for t in result()["trials"] if t["learning_rate"] == rate])
        for rate in (0.003, 1e-12)
    }
    assert means[result()["chosen"][0]["learning_rate"]] == max(means.values())


def test_tests__further_sets_are_scored_by_name_and_may_be_numbered_otherwise(desk: Path) -> None:
    """Their classes are known by name: a set with fewer has other numbers."""
    more = [row for row in listed()[1:] if row[1] in ("cow", "dog") and row[3] == "val"]
    write_list([["path", "label"], *(row[:2] for row in more)], "more.csv")
    tests = "data.tests.dim.source=more.csv"
    worked(d2v("prepare", "my.yaml", "--fresh", tests))
    worked(finetune(tests, "finetune.steps=8"), "dim, pre-trained all (24): accuracy")
    answers = predicted(*(row[0] for row in more))
    right = [said["label"] == row[1] for said, row in zip(answers, more, strict=True)]
    assert figures("dim")["accuracy"] == pytest.approx(np.mean(right), abs=1e-12)
    assert result()["chosen"][0]["scores"][""]["dim"]["samples"] == len(more) == 4


def test_test_split__without_labels_is_told_and_left_to_predict(desk: Path) -> None:
    write_list(listed(empty=("test",)))
    worked(d2v("prepare", "my.yaml", "--fresh"))
    worked(finetune(), "test has no labels and is not scored; d2v predict labels it", "val macro")
    assert result()["scored_on"] == "val"
    assert result()["chosen"][0]["scores"][""].keys() == {"val"}
    answers = predicted(*(row["path"] for row in rows_of("list.csv", "test")))
    assert [said["label"] in CLASSES for said in answers] == [True] * 6


def test_model__is_that_of_the_best_seed_of_the_kept_cell(desk: Path) -> None:
    worked(finetune("finetune.init=[scratch,pretrained]", "finetune.seeds=[0,1]"))
    trials = [t for t in result()["trials"] if t["init"] == "pretrained"]
    best = max(trials, key=lambda trial: float(trial["val"]))
    folder = STAGE / "trials" / best["name"] / "checkpoints"
    progress = [json.loads(path.read_text())["progress"] for path in folder.glob("*/state.json")]
    newest = max(progress, key=lambda one: int(one["step"]))
    kept = load_file(folder / newest["best_checkpoint"] / "model.safetensors")
    model = load_file(STAGE / "model/model.safetensors")
    assert model.keys() == kept.keys()
    assert all(torch.equal(model[name], kept[name]) for name in model)
