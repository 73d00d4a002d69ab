"""Proves: ARPA files keep a model exactly, foreign ones are read, damaged ones name their line."""

import gzip
from pathlib import Path

import pytest

from d2v.errors import UsageError
from d2v.tasks.decoding.arpa import read_arpa, read_words, write_arpa
from d2v.tasks.decoding.ngram import BEGIN, END, UNKNOWN, estimate

FOREIGN = """made by hand

\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-99\t<s>\t-0.3
-1.0\t</s>
-0.5\tthe\t-0.2
-0.7\tcat\t-0.25
-1.5\tsat

\\2-grams:
-0.4\t<s> the
-0.3\tthe cat
-2e-1\tcat </s>

\\end\\
"""
"""As SRILM writes it: no unknown word, and no weight where nothing follows."""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_arpa__keeps_a_model_exactly(tmp_path: Path) -> None:
    sentences = [["ONE", "TWO"], ["ONE", "É"], ["TWO", "TWO", "ONE"], ["IT'S"]]
    for order in (1, 2, 3, 4):
        model = estimate(sentences, order)
        write_arpa(model, tmp_path / "lm.arpa")
        again = read_arpa(tmp_path / "lm.arpa")
        assert again.tables == model.tables
        write_arpa(again, tmp_path / "again.arpa")
        assert (tmp_path / "again.arpa").read_bytes() == (tmp_path / "lm.arpa").read_bytes()


def test_arpa__is_read_as_others_write_it(tmp_path: Path) -> None:
    model = read_arpa(write(tmp_path / "lm.arpa", FOREIGN))
    assert model.order == 2
    assert model.score_sentence(["the", "cat"]) == pytest.approx(-0.4 - 0.3 - 0.2)
    assert model.score_sentence(["cat", "sat"]) == pytest.approx(-0.3 - 0.7 - 0.25 - 1.5 - 1.0)
    assert model.log10_probability("dog", ("the",)) == pytest.approx(-0.2 - 100)  # as in KenLM


def test_arpa__takes_kenlms_zero_for_the_beginning_and_the_other_unknown(tmp_path: Path) -> None:
    text = FOREIGN.replace("-99\t<s>", "0\t<s>").replace("sat", "<UNK>")
    model = read_arpa(write(tmp_path / "lm.arpa", text))
    assert model.log10_probability("dog") == -1.5
    assert model.vocabulary == {"the", "cat", END, UNKNOWN}


def test_arpa__is_read_packed(tmp_path: Path) -> None:
    (tmp_path / "lm.arpa.gz").write_bytes(gzip.compress(FOREIGN.encode()))
    plain = read_arpa(write(tmp_path / "lm.arpa", FOREIGN))
    assert read_arpa(tmp_path / "lm.arpa.gz").tables == plain.tables


def test_words__are_read_without_the_rest(tmp_path: Path) -> None:
    words, order = read_words(write(tmp_path / "lm.arpa", FOREIGN))
    assert words == {"the": -0.5, "cat": -0.7, "sat": -1.5}
    assert order == 2


DAMAGE = {
    "no header": ("\\data\\", "", r"line 7: .*1-grams: before"),
    "a count too high": ("ngram 1=5", "ngram 1=6", r"line 14: .*2-grams: comes before the 6"),
    "a count too low": ("ngram 1=5", "ngram 1=4", r"line 12: .*sat.* after 4 1-grams"),
    "last count too low": ("ngram 2=3", "ngram 2=2", r"line 17: .*</s>.* after 2 2-grams"),
    "a count that is none": ("ngram 2=3", "ngram 2=many", r"line 5: 'ngram 2=many'"),
    "orders that skip": ("ngram 2=3", "ngram 3=3", r"line 5: 'ngram 3=3'"),
    "no counts": ("ngram 1=5\nngram 2=3\n", "", r"after the header"),
    "a field too few": ("-0.3\tthe cat", "-0.3\tthe", r"line 16: 2 fields for a 2-gram"),
    "a field too many": ("-0.3\tthe cat", "-0.3\tthe cat\t-1", r"line 16: 4 fields for a 2-gram"),
    "no number": ("-0.7\tcat", "-0,7\tcat", r"line 11: '-0,7' is not a number"),
    "NaN": ("-0.7\tcat", "nan\tcat", r"line 11: 'nan' is not a number"),
    "no number as weight": ("-0.25", "x", r"line 11: 'x' is not a number"),
    "a probability above 1": ("-0.7\tcat", "0.7\tcat", r"line 11: a probability above 1"),
    "a word twice": ("sat", "cat", r"line 12: the word cat for the second time"),
    "a word from nowhere": ("the cat", "the dog", r"line 16: the word dog is not among"),
    "no end of sentence": ("</s>", "end", r"the 1-grams lack </s>"),
    "no section": ("\\2-grams:\n", "", r"line 14: .*<s> the.* after 5 1-grams"),
    "no end": ("\\end\\", "", r"line 19: the file ends without \\end\\"),
    "cut short": ("-2e-1\tcat </s>\n\n\\end\\\n", "", r"line 16: the file ends without \\end\\"),
    "nothing": (FOREIGN, "", r"line 0: the file ends without \\data\\"),
}


@pytest.mark.parametrize("read", [read_arpa, read_words])
@pytest.mark.parametrize("name", DAMAGE)
def test_damage__is_one_error_that_names_the_line(name: str, read: object, tmp_path: Path) -> None:
    old, new, told = DAMAGE[name]
    assert old in FOREIGN
    assert callable(read)
    path = write(tmp_path / "lm.arpa", FOREIGN.replace(old, new))
    with pytest.raises(UsageError, match=told) as error:
        read(path)
    assert "lm.arpa is no usable language model" in str(error.value)


@pytest.mark.parametrize("name", ["missing.arpa", "folder.arpa", "binary.arpa", "torn.gz", "no.gz"])
def test_files__that_cannot_be_read_are_said(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.arpa").mkdir()
    (tmp_path / "binary.arpa").write_bytes(b"mmap lm \xff\xfe\x00\x80")
    (tmp_path / "torn.gz").write_bytes(gzip.compress(FOREIGN.encode())[:-20])
    (tmp_path / "no.gz").write_text(FOREIGN)
    with pytest.raises(UsageError, match=f"{name} is no usable language model: cannot be read"):
        read_arpa(tmp_path / name)


def test_beginning__is_never_next(tmp_path: Path) -> None:
    assert BEGIN not in read_arpa(write(tmp_path / "lm.arpa", FOREIGN)).vocabulary
