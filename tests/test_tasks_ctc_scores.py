"""Proves: recognisers are scored as jiwer scores, read with language models, told of in words."""

import json
import random
from pathlib import Path

import jiwer
import numpy as np
import pytest
import torch
from torch import Tensor

from d2v.errors import GuardError, UsageError
from d2v.tasks.base import Answer
from d2v.tasks.ctc import Ctc
from d2v.tasks.decoding import BeamSettings, grid_around, read_arpa
from tests.ctc_case import SYMBOLS, task

WORDS = ("AB", "ABC", "CAB", "BA", "CC", "A")


def said(text: str, doubt: float = 0.0, rival: str = "") -> Tensor:
    """Log-probabilities (T, V) whose likeliest path says a text: two frames a character, blanks.

    Args:
        text: with `|` where a path ends in one.
        doubt: probability of the rival's characters in place of the text's.
        rival: as long as the text.
    """
    rows = []
    for place, character in enumerate(text.replace(" ", "|")):
        row = torch.full((len(SYMBOLS),), 1e-6)
        row[SYMBOLS.index(character)] = 1 - doubt
        if rival:
            row[SYMBOLS.index(rival.replace(" ", "|")[place])] += doubt
        blank = torch.full((len(SYMBOLS),), 1e-6)
        blank[0] = 1
        rows += [row, row, blank]
    return (torch.stack(rows) / torch.stack(rows).sum(1, keepdim=True)).log()


def answer(sample: int, hypothesis: str, target: str | None) -> Answer:
    silent = torch.tensor([[0.9, *[0.1 / 7] * 7]]).log().expand(4, 8)
    output = said(hypothesis) if hypothesis else silent
    return Answer(sample=sample, output=output, target=target)


def sentences(seed: int, count: int, shortest: int = 1) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(shortest, 6))) for _ in range(count)]


# Scores


def test_scores__agree_with_jiwer() -> None:
    for seed in range(20):
        targets, heard = sentences(seed, 9), sentences(seed + 100, 9, shortest=0)
        rows = zip(heard, targets, strict=True)
        answers = [answer(number, *row) for number, row in enumerate(rows)]
        answers.append(answer(9, "A", None))
        figures = task().score(answers)
        assert list(figures) == ["word_accuracy", "wer", "cer", "decoded_share"]
        assert figures["wer"] == pytest.approx(jiwer.wer(targets, heard), abs=1e-12)
        assert figures["cer"] == pytest.approx(jiwer.cer(targets, heard), abs=1e-12)
        assert figures["word_accuracy"] == pytest.approx(1 - figures["wer"])
        assert figures["decoded_share"] == pytest.approx(sum(map(bool, heard)) / 9)


def test_judge__weighs_the_places_it_is_asked_about() -> None:
    answers = [answer(0, "AB", "AB"), answer(1, "A BA", "A CC"), answer(2, "", "BA")]
    judge = task().judge(answers)
    assert judge(np.array([0, 0, 1]))["wer"] == pytest.approx(1 / 4)
    assert judge(np.array([2]))["wer"] == 1
    assert judge(np.array([1, 2, 2]))["decoded_share"] == pytest.approx(1 / 3)


def test_strange_characters__count_as_errors() -> None:
    figures = task().score([answer(0, "AB", "AXB")])
    assert [figures["wer"], figures["cer"]] == pytest.approx([1, 1 / 3])


def test_run__is_stopped_where_nothing_is_decoded_for_long() -> None:
    rows = [{"loss": 1.0}, {"decoded_share": 0.5}, *[{"decoded_share": 0.0}] * 3]
    strict = task(blank_patience=3)
    with pytest.raises(GuardError, match="3 times in a row.*blank_patience"):
        strict.check_scores(rows)
    strict.check_scores(rows[:-1])
    strict.check_scores([*rows, {"loss": 1.0}, {"decoded_share": 0.1}])
    task(blank_patience=None).check_scores([{"decoded_share": 0.0}] * 1000)
    task().check_scores([{"decoded_share": 0.0}] * 19)


# In words


def test_describe__gives_words_with_their_times() -> None:
    found = task().describe(answer(0, "AB C", None), 0.02)
    assert found == {
        "transcript": "AB C",
        "words": [
            {"word": "AB", "start": 0.0, "end": 0.08},  # frames 0 and 3
            {"word": "C", "start": 0.18, "end": 0.2},  # frame 9
        ],
    }
    assert task().describe(answer(0, "AB", None), None)["words"] == [{"word": "AB"}]
    silent = task().describe(answer(0, "", None), 0.02)
    assert silent == {"transcript": "", "words": []}


def test_report__lists_the_worst_first(tmp_path: Path) -> None:
    answers = [
        answer(0, "A BA CC", "A BA CC"),
        answer(1, "A CC", "A BA CC"),
        answer(2, "CAB CAB", "AB ABC A"),
        answer(3, "A", None),
    ]
    (remark,) = task().report(answers, ["one.wav", "two.wav", "three.wav", "four.wav"], tmp_path)
    assert "2 of 3 utterances" in remark
    text = (tmp_path / "worst.txt").read_text()
    assert text.index("three.wav: 3 of 3 words") < text.index("two.wav: 1 of 3 words")
    assert "one.wav" not in text
    assert "four.wav" not in text
    assert "REF  A  BA  CC\nHYP  A  **  CC\n        D" in text


# With a language model


def fitted(folder: Path, **changes: object) -> tuple[Ctc, Ctc]:
    """A task and its reading with a 2-gram model of sentences in which CAB always follows A."""
    settings = {"order": 2, **changes}
    recogniser = task(language_model=settings)
    train = ["A CAB"] * 8 + ["BA", "CC CAA"]
    val = [
        Answer(sample=0, output=said("A CAA", 0.45, "A CAB"), target="A CAB"),
        Answer(sample=1, output=said("BA"), target="BA"),
        Answer(sample=2, output=said("A"), target=None),
    ]
    readings = recogniser.fit_readings([*train, None], val, folder)
    ((name, reading),) = readings.items()
    assert name == "2-gram"
    assert isinstance(reading, Ctc)
    return recogniser, reading


def test_language_model__mends_what_it_knows_better(tmp_path: Path) -> None:
    greedily, reading = fitted(tmp_path)
    unclear = said("A CAA", 0.45, "A CAB")
    assert greedily.decode(unclear).text == "A CAA"
    assert reading.decode(unclear).text == "A CAB"
    answers = [Answer(sample=0, output=unclear, target="A CAB")]
    assert greedily.score(answers)["wer"] == 0.5
    assert reading.score(answers)["wer"] == 0


def test_language_model__is_written_down_and_read_again(tmp_path: Path) -> None:
    greedily, reading = fitted(tmp_path)
    assert (tmp_path / "words.txt").read_text().split() == ["A", "BA", "CAA", "CAB", "CC"]
    facts = json.loads((tmp_path / "language_model.json").read_text())
    assert (facts["order"], facts["training_sentences"]) == (2, 10)
    assert len(facts["tuned_on_val"]) == len(grid_around(BeamSettings()))
    best = min(row["wer"] for row in facts["tuned_on_val"])
    chosen = {key: facts["beam"][key] for key in ("lm_weight", "word_score")}
    assert {**chosen, "wer": best} in facts["tuned_on_val"]
    assert chosen["lm_weight"] > 0 == best, "words alone do not help: CAA is one, too"
    model = read_arpa(tmp_path / "lm.arpa")
    held_out = model.perplexity([["A", "CAB"], ["BA"]])
    assert facts["perplexity_on_val"] == pytest.approx(held_out)
    again = greedily.with_language_model(tmp_path)
    assert again.decoder is not None
    assert reading.decoder is not None
    assert again.decoder.settings == reading.decoder.settings
    for text, rival in (("A CAA", "A CAB"), ("CC AB", "CC AA"), ("BA", "CA")):
        unclear = said(text, 0.4, rival)
        here, there = again.decode(unclear), reading.decode(unclear)
        assert (here.text, here.score) == (there.text, there.score)


def test_language_model__can_come_from_a_file_and_keep_its_weights(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    fitted(tmp_path / "first")
    lower = (tmp_path / "first" / "lm.arpa").read_text()
    for word in ("CAB", "CAA", "BA", "CC", "A"):
        lower = lower.replace(f"\t{word}", f"\t{word.lower()}").replace(
            f" {word}", f" {word.lower()}"
        )
    path = tmp_path / "other.arpa"
    path.write_text(lower)
    (tmp_path / "second").mkdir()
    beam = {"lm_weight": 1.25, "word_score": 0.5}
    _, reading = fitted(tmp_path / "second", path=path, tune=False, beam=beam)
    assert reading.decoder is not None
    assert reading.decoder.settings == BeamSettings(lm_weight=1.25, word_score=0.5)
    assert reading.decode(said("A CAA", 0.45, "A CAB")).text == "A CAB"
    path.unlink()
    assert task().with_language_model(tmp_path / "second").decoder is not None
    facts = json.loads((tmp_path / "second" / "language_model.json").read_text())
    assert facts["tuned_on_val"] == []


@pytest.mark.parametrize(("beam", "tuned_with"), [(7, 7), (1500, 100)])
def test_language_model__is_weighed_with_a_narrow_beam_and_decodes_with_the_one_set(
    tmp_path: Path, beam: int, tuned_with: int
) -> None:
    _, reading = fitted(tmp_path, beam={"beam": beam})
    facts = json.loads((tmp_path / "language_model.json").read_text())
    assert (facts["tuning_beam"], facts["beam"]["beam"]) == (tuned_with, beam)
    assert reading.decoder is not None
    assert reading.decoder.settings.beam == beam


def test_task_without_a_language_model__has_no_other_reading(tmp_path: Path) -> None:
    assert task().fit_readings(["A"], [], tmp_path) == {}
    assert not list(tmp_path.iterdir())
    assert task().with_language_model(tmp_path).decoder is None


def test_language_model_file__is_checked_before_anything_is_trained(tmp_path: Path) -> None:
    vocabulary = {"blank": "<s>", "word_boundary": "|", "symbols": list(SYMBOLS)}
    (tmp_path / "vocabulary.json").write_text(json.dumps(vocabulary))
    path = tmp_path / "lm.arpa"
    settings = task(language_model={"path": path}).settings
    with pytest.raises(UsageError, match=r"lm.arpa"):
        Ctc.of_data(settings, tmp_path)
    path.write_text("\\data\\\nngram 1=2\n")
    with pytest.raises(UsageError, match="no usable language model"):
        Ctc.of_data(settings, tmp_path)
    rows = "-1 <s>\n-1 </s>\n-1 <unk>\n-0.3 XYZ\n-0.9 A\n"
    path.write_text(f"\\data\\\nngram 1=5\n\n\\1-grams:\n{rows}\n\\end\\\n")
    with pytest.raises(UsageError, match="whose words the vocabulary cannot spell"):
        Ctc.of_data(settings, tmp_path)


def test_damaged_folder__is_one_clear_error(tmp_path: Path) -> None:
    fitted(tmp_path)
    (tmp_path / "words.txt").unlink()
    with pytest.raises(UsageError, match="words.txt cannot be used"):
        task().with_language_model(tmp_path)
    (tmp_path / "words.txt").write_text("A\n")
    (tmp_path / "language_model.json").write_text("{}")
    with pytest.raises(UsageError, match="language_model.json cannot be used"):
        task().with_language_model(tmp_path)
