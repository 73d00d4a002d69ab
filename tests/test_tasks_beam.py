"""Proves: both beam searches find the best of all paths, and say where its words lie."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from d2v.tasks.decoding import build
from d2v.tasks.decoding.base import BeamSettings, Decoder, Word
from d2v.tasks.decoding.ngram import END, UNKNOWN, estimate
from tests.decoding_case import (
    BOTH,
    LEXICON,
    SYMBOLS,
    WIDE,
    a_model,
    arpa,
    best_of_all,
    builder,
    heard,
    needs_flashlight,
    noise,
)


@pytest.fixture
def make(search: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Decoder]:
    return builder(search, monkeypatch)


@BOTH
@pytest.mark.parametrize("seed", range(12))
def test_search__finds_the_best_of_all_paths(
    seed: int, make: Callable[..., Decoder], tmp_path: Path
) -> None:
    rng = random.Random(seed)
    settings = BeamSettings(
        **WIDE,
        lm_weight=rng.choice([0.0, 0.7, 2.0]),
        word_score=rng.uniform(-1, 2),
        silence_score=rng.uniform(-1, 0.5),
    )
    model = a_model(seed, order=2 + seed % 2) if seed % 4 else None
    path = arpa(tmp_path, model) if model else None
    log_probs = noise(seed, num_frames=seed % 7)
    text, score = best_of_all(log_probs, model, settings)
    found = make(SYMBOLS, LEXICON, path, settings).decode(log_probs)
    assert found.text == text
    assert found.score == pytest.approx(score, abs=1e-4)


@needs_flashlight
@pytest.mark.parametrize("seed", range(8))
def test_searches__agree_on_longer_input(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, settings = arpa(tmp_path, a_model(seed)), BeamSettings(beam=3000, lm_weight=1.0)
    theirs = build.build_decoder(SYMBOLS, LEXICON, path, settings)
    monkeypatch.setattr(build, "FLASHLIGHT", False)
    ours = build.build_decoder(SYMBOLS, LEXICON, path, settings)
    assert type(theirs) is not type(ours)
    log_probs = noise(seed, num_frames=20 + seed)
    expected, actual = theirs.decode(log_probs), ours.decode(log_probs)
    assert actual[:3] == expected[:3]  # tokens, their frames, words and theirs
    assert actual.score == pytest.approx(expected.score, abs=1e-3)


@needs_flashlight
def test_kenlm__gives_the_probabilities_of_our_model(tmp_path: Path) -> None:
    """It alone knows the file: log10, unknown words and the sentence's end included."""
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary

    model, words = a_model(3), [*LEXICON, UNKNOWN]
    theirs = KenLM(str(arpa(tmp_path, model)), Dictionary(words))
    rng = random.Random(0)
    for _ in range(20):
        sentence = rng.choices(LEXICON, k=rng.randint(0, 5))
        state, total = theirs.start(False), 0.0
        for word in sentence:
            state, score = theirs.score(state, words.index(word))
            total += score
        total += theirs.finish(state)[1]
        assert total == pytest.approx(model.score_sentence(sentence), abs=1e-4)


# What is answered


@BOTH
def test_words__stand_where_they_were_heard(make: Callable[..., Decoder]) -> None:
    decoder = make(SYMBOLS, LEXICON, None, BeamSettings(word_score=0.0))
    found = decoder.decode(heard("_|_AAB__||_|B_B_|"))
    assert found.words == (Word("AB", 3, 5), Word("BB", 12, 14))
    assert [SYMBOLS[token] for token in found.tokens] == list("AB|BB|")
    assert found.frames == (3, 5, 8, 12, 14, 16)
    assert found.text == "AB BB"


@BOTH
@pytest.mark.parametrize(("said", "text"), [("A_B", "AB"), ("AB|", "AB"), ("A|_", "A"), ("|", "")])
def test_last_word__may_or_may_not_be_followed_by_a_boundary(
    said: str, text: str, make: Callable[..., Decoder]
) -> None:
    found = make(SYMBOLS, LEXICON, None, BeamSettings(word_score=0.0)).decode(heard(said))
    assert found.text == text
    assert all(frame < len(said) for frame in found.frames)


@BOTH
def test_nothing__is_decoded_to_nothing(make: Callable[..., Decoder], tmp_path: Path) -> None:
    model = a_model(0)
    found = make(SYMBOLS, LEXICON, arpa(tmp_path, model), BeamSettings()).decode(noise(0, 0))
    assert found[:3] == ((), (), ())
    assert found.score == pytest.approx(2 * model.score_sentence([]), abs=1e-5)


@BOTH
def test_beam_of_one__leaves_out_a_word_that_was_cut_short(make: Callable[..., Decoder]) -> None:
    """Nothing in the beam is whole at the end: what is whole before is kept."""
    decoder = make(SYMBOLS, ["A", "BBB"], None, BeamSettings(beam=1, word_score=0.0))
    found = decoder.decode(heard("A|_B"))
    assert [word.text for word in found.words] == ["A"]


def sounds(*frames: dict[str, float]) -> Tensor:
    """Log-probabilities (T, V), not normalised; what is not named is all but impossible."""
    rows = [[frame.get(symbol, -5000.0) for symbol in SYMBOLS] for frame in frames]
    return torch.tensor(rows)


@BOTH
def test_whole_words__are_preferred_to_a_better_part_of_one(make: Callable[..., Decoder]) -> None:
    settings = BeamSettings(beam_threshold=1e6, word_score=-2000.0)
    assert make(SYMBOLS, ["A"], None, settings).decode(sounds({"A": 0.0})).text == "A"


@BOTH
def test_repeats__are_one_letter_unless_a_blank_parts_them(make: Callable[..., Decoder]) -> None:
    decoder = make(SYMBOLS, ["B", "BB"], None, BeamSettings(word_score=0.0))
    assert decoder.decode(heard("BBB|")).text == "B"
    assert decoder.decode(heard("B_B|")).text == "BB"


@BOTH
@pytest.mark.parametrize(("threshold", "text"), [(2.0, "BA"), (0.5, "")])
def test_threshold__drops_what_falls_behind(
    threshold: float, text: str, make: Callable[..., Decoder]
) -> None:
    """Within half a nat only A A is left, which is the beginning of a word and no whole one."""
    decoder = make(SYMBOLS, ["AB", "BA"], None, BeamSettings(beam_threshold=threshold))
    log_probs = sounds({"A": -0.3, "B": -1.3}, {"A": 0.0, "B": -20.0})
    assert decoder.decode(log_probs).text == text


@BOTH
def test_language_model__decides_what_the_sounds_leave_open(
    make: Callable[..., Decoder], tmp_path: Path
) -> None:
    model = estimate([["A", "B"], ["A", "B"], ["B", "A"]], 2)
    log_probs = heard("A|B|")
    log_probs[2] = heard("A")[0] * 0.5 + heard("B")[0] * 0.5
    decoder = make(SYMBOLS, LEXICON[:2], arpa(tmp_path, model), BeamSettings())
    assert decoder.decode(log_probs).text == "A B"
    log_probs[2, SYMBOLS.index("A")] += 9
    assert decoder.decode(log_probs).text == "A A"


@BOTH
def test_settings__change_without_reading_anything_again(
    make: Callable[..., Decoder], tmp_path: Path
) -> None:
    path = arpa(tmp_path, a_model(1))
    first = make(SYMBOLS, LEXICON, path, BeamSettings())
    other = BeamSettings(lm_weight=0.1, word_score=2.5, silence_score=-0.5)
    expected = make(SYMBOLS, LEXICON, path, other).decode(noise(5, 15))
    before = first.decode(noise(5, 15))
    path.unlink()
    assert first.with_settings(other).decode(noise(5, 15)) == expected
    assert first.decode(noise(5, 15)) == before != expected


def test_end_of_sentence__counts(tmp_path: Path) -> None:
    """A word that never ends a sentence is less likely to be the last."""
    model = estimate([["A", "B"], ["A", "B"], ["B"]], 2)
    assert model.log10_probability(END, ("B",)) > model.log10_probability(END, ("A",))
    log_probs = heard("A|A|")
    log_probs[2] = heard("A")[0] * 0.5 + heard("B")[0] * 0.5
    decoder = build.build_decoder(SYMBOLS, LEXICON, arpa(tmp_path, model), BeamSettings())
    assert decoder.decode(log_probs).text == "A B"
