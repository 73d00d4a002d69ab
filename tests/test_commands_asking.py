"""Proves: every input gets what the model says of it, in order, whatever it is batched with."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from d2v.commands.asking import joined
from d2v.commands.raw_inputs import batches
from d2v.errors import D2VError, UsageError
from d2v.model_folder import load_model
from d2v.samples import SourceItem
from d2v.tasks import Answer, Ctc
from tests.asking_case import Saved, asked, close, described, direct, saved_fixture, written
from tests.modality_cases import hum, sentence
from tests.model_case import BY_NAME, PAIRS, Made
from tests.recording_case import recorded

__all__ = ["saved_fixture"]


# Rows


@pytest.mark.parametrize(
    ("case", "task"), [(case.name, task) for case, task in PAIRS],
    ids=[f"{case.name}-{task}" for case, task in PAIRS],
)  # fmt: skip
def test_rows__are_what_the_model_says_of_each_in_order(
    saved: Saved, case: str, task: str, tmp_path: Path
) -> None:
    made, folder = saved(case, task)
    paths = written(made, case, tmp_path / "inputs")[::-1]
    rows, outcome = asked(folder, *paths, batch_size=3)
    items = [SourceItem(name=path.name, content=path.read_bytes(), label="x") for path in paths]
    expected = [described(made, direct(made, item)[0]) for item in items]
    end = ":1" if case == "text" else ""
    assert [row.pop("input") for row in rows] == [f"{path}{end}" for path in paths]
    assert close(rows, expected)
    assert (outcome.num_inputs, outcome.num_bad, outcome.report) == (len(paths), 0, None)
    outcome.raise_if_bad()


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_rows__do_not_depend_on_the_batch_size_nor_on_bad_neighbours(
    saved: Saved, batch_size: int, tmp_path: Path
) -> None:
    made, folder = saved("speech-convolution", "classify")
    good = written(made, "speech-convolution", tmp_path / "inputs")
    bad = tmp_path / "inputs" / "bad.wav"
    bad.write_bytes(b"RIFF no recording")
    short = tmp_path / "inputs" / "short.wav"
    short.write_bytes(recorded(hum(0, 0.01)))
    expected, _ = asked(folder, *good)
    rows, outcome = asked(folder, good[0], bad, *good[1:3], short, good[3], batch_size=batch_size)
    errors = {Path(row["input"]).name: row["error"] for row in rows if "error" in row}
    assert [Path(row["input"]).name for row in rows][1::3] == ["bad.wav", "short.wav"]
    assert list(errors) == ["bad.wav", "short.wav"]
    assert errors["bad.wav"].startswith("cannot be decoded")
    assert errors["short.wav"].startswith("too short: 0.01 s")
    assert close([row for row in rows if "error" not in row], expected)
    with pytest.raises(D2VError, match="2 of 6 inputs could not be used") as caught:
        outcome.raise_if_bad()
    assert caught.value.exit_code == 1


def test_row__of_a_model_that_answers_no_number_is_an_error(saved: Saved, tmp_path: Path) -> None:
    made, _ = saved("vision", "regress")
    torch.nn.init.constant_(made.model.head.last.bias, float("nan"))  # type: ignore[union-attr,arg-type]  # a linear layer
    folder = made.save(tmp_path / "broken")
    rows, outcome = asked(folder, BY_NAME["vision"].items()[0].read())
    assert rows == [{"input": "-", "error": "the model's answer is no number (NaN)"}]
    assert outcome.num_bad == 1


# Long recordings


LONG = {"store": {"max_seconds": 0.4}}


def long_recording(made: Made) -> tuple[bytes, list[dict[str, Any]]]:
    """One second, and what is said of each of its three segments."""
    content = recorded(hum(3, 1.0))
    outputs = direct(made, SourceItem(name="long.wav", content=content))
    assert len(outputs) == 3
    return content, [described(made, output) for output in outputs]


@pytest.mark.parametrize("batch_size", [2, 16])
def test_recording__in_segments_has_one_transcript_with_times_from_its_beginning(
    saved: Saved, batch_size: int
) -> None:
    made, folder = saved("speech-convolution", "ctc", modality=LONG, seed=2)
    content, parts = long_recording(made)
    assert sum(len(part["words"]) for part in parts) > 3, "words to join"
    starts = [0, 5333 / 16_000, 10_666 / 16_000]  # a second's samples in thirds, rounded down
    words = [
        {**word, "start": round(word["start"] + start, 3), "end": round(word["end"] + start, 3)}
        for part, start in zip(parts, starts, strict=True)
        for word in part["words"]
    ]
    transcript = " ".join(part["transcript"] for part in parts)
    short = recorded(hum(1, 0.2))
    rows, _ = asked(folder, content, short, batch_size=batch_size)
    assert close(rows[0], {"input": "-", "transcript": transcript, "words": words})
    assert len(rows) == 2


def test_transcripts__of_silent_segments_leave_no_gap() -> None:
    word = {"word": "A", "start": 0.25, "end": 0.5}
    silent: dict[str, Any] = {"transcript": "", "words": []}
    spoken = {"transcript": "A", "words": [word]}
    assert joined([spoken, silent, spoken], [0.0, 1.0, 2.0]) == {
        "transcript": "A A",
        "words": [word, {"word": "A", "start": 2.25, "end": 2.5}],
    }


def test_recording__in_segments_has_a_label_for_each(saved: Saved) -> None:
    made, folder = saved("speech-logmel", "classify", modality=LONG)
    content, parts = long_recording(made)
    rows, outcome = asked(folder, content)
    spans = [(0.0, 0.333), (0.333, 0.667), (0.667, 1.0)]
    expected = [
        {"input": "-", "start": start, "end": end, **part}
        for (start, end), part in zip(spans, parts, strict=True)
    ]
    assert close(rows, expected)
    assert outcome.num_inputs == 3


@pytest.mark.parametrize("limit", [None, 10.0, 1.0])
def test_batches__hold_all_samples_in_order_and_keep_their_limits(limit: float | None) -> None:
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(1, 7, (seed % 13,), generator=generator).tolist()
        cut = list(batches(lengths, 4, limit))
        assert [length for part in cut for length in lengths[part]] == lengths
        for part in cut:
            own = lengths[part]
            assert 1 <= len(own) <= 4
            assert limit is None or len(own) == 1 or len(own) * max(own) <= limit
            if part.stop < len(lengths):  # no room for the next one
                more = [*own, lengths[part.stop]]
                assert len(more) > 4 or (limit is not None and len(more) * max(more) > limit)


# Texts


def test_lines__are_encoded_as_labelled_texts_are(saved: Saved) -> None:
    made, folder = saved("text", "classify")
    lines = [f"{sentence(n, 5)} {sentence(n + 9, 4)}" for n in range(3)]  # two sentences each
    rows, _ = asked(folder, "\n".join(lines).encode())
    items = [SourceItem(name="", content=line.encode(), label="x") for line in lines]
    expected = [described(made, direct(made, item)[0]) for item in items]
    assert close([{k: row[k] for k in ("label", "probabilities")} for row in rows], expected)
    assert [row["input"] for row in rows] == ["-:1", "-:2", "-:3"]


def test_pairs__are_read_where_the_model_was_trained_on_pairs(saved: Saved) -> None:
    data = {"finetune": {"source": "pairs", "pair_column": "second"}}
    made, folder = saved("text", "regress", data=data)
    one, two = sentence(1, 4), sentence(2, 6)
    rows, outcome = asked(folder, f"{one}\t{two}\n{one}\n{two}\t{one}".encode())
    pair = SourceItem(name="", content=json.dumps([one, two]).encode(), details={"pair": "yes"})
    assert close(rows[0], {"input": "-:1", **described(made, direct(made, pair)[0])})
    assert rows[1]["error"].startswith("0 tabs")
    assert rows[2]["value"] != rows[0]["value"]
    assert outcome.num_bad == 1


def test_inputs__without_a_text_are_refused(saved: Saved, tmp_path: Path) -> None:
    _, folder = saved("text", "classify")
    with pytest.raises(UsageError, match="nothing in the inputs"):
        asked(folder, b"\n \n")


# Language models


def test_language_model__decodes_unless_it_is_not_wanted(saved: Saved, tmp_path: Path) -> None:
    made, _ = saved("speech-convolution", "ctc", seed=2, language_model={"order": 2, "tune": False})
    item = SourceItem(name="", content=recorded(hum(3, 0.35)))
    (output,) = direct(made, item)
    assert isinstance(made.task, Ctc)
    (tmp_path / "readings").mkdir()
    texts = ["CAB CAB", "ABBA"]
    found = made.task.fit_readings(texts, [Answer(sample=0, output=output)], tmp_path / "readings")
    folder = made.save(tmp_path / "model", readings=tmp_path / "readings")
    content = item.read()
    (best,), _ = asked(folder, content)
    (plain,), _ = asked(folder, content, with_readings=False)
    (expected,) = (reading.describe(Answer(sample=0, output=output), 0.01) for reading in
                   found.values())  # fmt: skip
    assert best["transcript"] == expected["transcript"] != plain["transcript"]
    assert set(best["transcript"].split()) <= {"CAB", "ABBA"}
    assert close(plain, {"input": "-", **described(made, output)})


def test_language_model__that_training_read_is_not_needed_again(
    saved: Saved, tmp_path: Path
) -> None:
    arpa = tmp_path / "gone.arpa"
    _, folder = saved("speech-convolution", "ctc", language_model={"path": str(arpa)})
    assert load_model(folder).recipe.finetune is not None
