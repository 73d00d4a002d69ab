"""Proves: weights are chosen by the errors they make, in the same way every time."""

from pathlib import Path

import torch
from torch import Tensor

from d2v.core.alignment import error_rate, word_errors
from d2v.tasks.decoding.arpa import write_arpa
from d2v.tasks.decoding.base import BeamSettings, Decoded, Decoder, Word
from d2v.tasks.decoding.build import build_decoder
from d2v.tasks.decoding.ngram import estimate
from d2v.tasks.decoding.tuning import LM_WEIGHTS, WORD_SCORES, grid_around, tune

SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>", "|", "A", "B"]


class Echo(Decoder):
    """Says A, unless the weights are among those that say B."""

    def __init__(self, settings: BeamSettings, right: set[tuple[float, float]]) -> None:
        self.settings, self.remarks, self.right = settings, (), right
        self.heard: list[int] = []

    def decode(self, log_probs: Tensor) -> Decoded:
        self.heard.append(len(log_probs))
        text = "B" if (self.settings.lm_weight, self.settings.word_score) in self.right else "A"
        return Decoded((), (), (Word(text, 0, 0),), 0.0)

    def with_settings(self, settings: BeamSettings) -> "Echo":
        other = Echo(settings, self.right)
        other.heard = self.heard
        return other


def test_grid__holds_every_pair_and_keeps_the_rest() -> None:
    grid = grid_around(BeamSettings(beam=7, silence_score=-1.0))
    assert {(one.beam, one.silence_score) for one in grid} == {(7, -1.0)}
    pairs = [(one.lm_weight, one.word_score) for one in grid]
    assert len(pairs) == len(set(pairs)) == len(LM_WEIGHTS) * len(WORD_SCORES)


def test_tune__picks_the_fewest_errors_and_of_equals_the_smallest_weights() -> None:
    answers = [(torch.zeros(1, 2), "B"), (torch.zeros(2, 2), "B")]
    grid = grid_around(BeamSettings())
    for right, expected in (
        ({(3.0, 2.0), (4.0, 0.0)}, (3.0, 2.0)),
        ({(1.0, 2.0), (1.0, -1.0), (1.0, 1.0)}, (1.0, -1.0)),
        (set(), (0.0, 0.0)),
    ):
        best, table = tune(answers, Echo(BeamSettings(), right).with_settings, grid)
        assert (best.lm_weight, best.word_score) == expected
        assert [tried.settings for tried in table] == grid
        for settings, rate in table:
            assert rate == float((settings.lm_weight, settings.word_score) not in right)


def test_tune__of_many_answers_takes_some_evenly() -> None:
    answers = [(torch.zeros(number, 2), "B") for number in range(10)]
    for most, expected in ((4, [0, 2, 5, 7]), (10, list(range(10))), (99, list(range(10)))):
        echo = Echo(BeamSettings(), set())
        tune(answers, echo.with_settings, [BeamSettings()], most=most)
        assert echo.heard == expected


def test_tune__with_a_real_decoder_reports_the_rates_that_it_makes(tmp_path: Path) -> None:
    write_arpa(estimate([["A", "B"], ["AB", "BA"], ["A", "A"]], 2), tmp_path / "lm.arpa")
    decoder = build_decoder(SYMBOLS, ["A", "B"], tmp_path / "lm.arpa", BeamSettings())
    generator = torch.Generator().manual_seed(0)
    answers = [
        (torch.log_softmax(torch.randn(12, 7, generator=generator), -1), text)
        for text in ("A B", "AB BA", "A A")
    ]
    grid = [BeamSettings(lm_weight=weight, word_score=0.0) for weight in (0.0, 1.0, 3.0)]
    best, table = tune(answers, decoder.with_settings, grid)
    assert tune(answers, decoder.with_settings, grid) == (best, table)
    for settings, rate in table:
        told = [decoder.with_settings(settings).decode(heard).text for heard, _ in answers]
        pairs = zip([text for _, text in answers], told, strict=True)
        assert rate == error_rate([word_errors(true, said) for true, said in pairs])
    assert best == min(table, key=lambda tried: tried.word_error_rate).settings
    assert len({tried.word_error_rate for tried in table}) > 1
