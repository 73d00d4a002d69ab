"""Proves: which words can be found, what a language model calls them, which search finds them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from d2v.errors import UsageError
from d2v.tasks.decoding import build
from d2v.tasks.decoding.arpa import read_arpa
from d2v.tasks.decoding.base import BeamSettings, Decoder
from d2v.tasks.decoding.ngram import estimate
from d2v.tasks.decoding.prefix_beam import PrefixBeamDecoder
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


# Words and the language model's words


@BOTH
def test_lower_case__is_brought_to_the_transcripts_spelling(
    make: Callable[..., Decoder], tmp_path: Path
) -> None:
    """And of two spellings of one word the likelier one speaks for it."""
    text = arpa(tmp_path, a_model(2)).read_text()
    shouted = make(SYMBOLS, LEXICON, tmp_path / "lm.arpa", BeamSettings())
    lower = "\n".join(
        line if line.startswith("\\") else line.replace("A", "a").replace("B", "b")
        for line in text.replace("ngram 1=7", "ngram 1=8").split("\n")
    ).replace("1-grams:\n", "1-grams:\n-9\tA\n")
    (tmp_path / "lower.arpa").write_text(lower)
    quiet = make(SYMBOLS, LEXICON, tmp_path / "lower.arpa", BeamSettings())
    for seed in range(5):
        assert quiet.decode(noise(seed, 12)) == shouted.decode(noise(seed, 12))


@BOTH
def test_other_alphabets__are_spelled(make: Callable[..., Decoder], tmp_path: Path) -> None:
    symbols = [*SYMBOLS[:5], "À", "É", "Ж", "'"]
    model = estimate([["ÀÉ", "Ж'"], ["ÀÉ"]], 2)
    decoder = make(symbols, [], arpa(tmp_path, model), BeamSettings())
    assert decoder.decode(heard("ÀÉ|Ж'", symbols)).text == "ÀÉ Ж'"


@BOTH
def test_words__that_cannot_be_spelled_are_left_out_with_a_remark(
    make: Callable[..., Decoder], tmp_path: Path
) -> None:
    model = estimate([["A", "B", "A1"], ["AB", "A|B"], ["A"]], 2)
    decoder = make(SYMBOLS, ["BA", "A"], arpa(tmp_path, model), BeamSettings())
    assert decoder.remarks[:2] == (
        "2 words that the symbols cannot spell are left out: 'A1', 'A|B'.",
        "1 of 2 training words are not in the language model: 'BA'.",
    )
    assert decoder.decode(heard("B_A|AB|")).text == "BA AB"  # of both


@pytest.mark.parametrize(
    ("sentences", "share"), [([["C", "D"], ["E", "F"]], "100%"), ([["CC", "A"], ["C", "D"]], "75%")]
)
def test_foreign_language_models__are_refused(
    sentences: list[list[str]], share: str, tmp_path: Path
) -> None:
    path = arpa(tmp_path, estimate(sentences, 2))
    with pytest.raises(UsageError, match=rf"words the vocabulary cannot spell: {share} of the"):
        build.build_decoder(SYMBOLS, LEXICON, path, BeamSettings())


@pytest.mark.parametrize("words", [[], ["C"], [""]])
def test_lexicon__without_a_word_is_refused(words: list[str]) -> None:
    with pytest.raises(UsageError, match="the lexicon is empty"):
        build.build_decoder(SYMBOLS, words, None, BeamSettings())


# Which search


@needs_flashlight
@pytest.mark.parametrize("order", [1, 7])
def test_orders__that_kenlm_does_not_read_are_searched_by_us(order: int, tmp_path: Path) -> None:
    path = arpa(tmp_path, estimate([LEXICON, LEXICON[::-1]], order))
    decoder = build.build_decoder(SYMBOLS, LEXICON[:-1], path, BeamSettings(**WIDE))
    assert isinstance(decoder, PrefixBeamDecoder)
    assert f"flashlight does not read language models of order {order}" in decoder.remarks[-1]
    expected = best_of_all(noise(1, 5), read_arpa(path), decoder.settings)
    assert decoder.decode(noise(1, 5)).text == expected[0]


def test_without_flashlight__the_remark_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(build, "FLASHLIGHT", False)
    decoder = build.build_decoder(SYMBOLS, LEXICON, None, BeamSettings())
    assert "pip install 'd2v[lm]'" in decoder.remarks[-1]


@needs_flashlight
def test_kenlm__is_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    build.build_decoder(SYMBOLS, LEXICON, arpa(tmp_path, a_model(0)), BeamSettings())
    assert capfd.readouterr() == ("", "")


@needs_flashlight
def test_kenlm__what_it_cannot_read_is_said(tmp_path: Path) -> None:
    """We take spaces between columns, KenLM wants tabs."""
    path = arpa(tmp_path, a_model(0))
    path.write_text(path.read_text().replace("\t", " "))
    with pytest.raises(UsageError, match="cannot be read by KenLM: .*Expected tab"):
        build.build_decoder(SYMBOLS, LEXICON, path, BeamSettings())
