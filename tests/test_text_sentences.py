"""Where sentences end, and that nothing of a text is lost on the way."""

import random
import time

import pytest

from d2v.modalities.text.sentences import PIECE, lines, paragraphs, pieces, sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It rained. We left.", ["It rained.", "We left."]),
        ("Why? No! Then", ["Why?", "No!", "Then"]),
        ("Mr. Darcy met Dr. Hill. They spoke.", ["Mr. Darcy met Dr. Hill.", "They spoke."]),
        ("J. S. Bach wrote it. I did.", ["J. S. Bach wrote it.", "I did."]),
        ("So did I. He left.", ["So did I.", "He left."]),
        ("The U.S. Army came. It left.", ["The U.S. Army came.", "It left."]),
        ("Use e.g. Python. Or not.", ["Use e.g. Python.", "Or not."]),
        ("It cost 3.50 in 1812. The war began.", ["It cost 3.50 in 1812.", "The war began."]),
        ("1. First point. 2. Second.", ["1. First point.", "2. Second."]),
        ('"Stop!" he said. "Go!" She went.', ['"Stop!" he said.', '"Go!"', "She went."]),
        ("“Oh.” “Ah.” (Quiet.) End", ["“Oh.”", "“Ah.”", "(Quiet.)", "End"]),
        ("Wait... what? Well... Yes.", ["Wait... what?", "Well...", "Yes."]),
        ("An ellipsis… Then _this_ . That", ["An ellipsis…", "Then _this_ .", "That"]),
        ("Élan vital. Être. 5 men came. ok", ["Élan vital.", "Être.", "5 men came. ok"]),
        ("no capital. here", ["no capital. here"]),
        ("See http://a.b/c.D?e=F now", ["See http://a.b/c.D?e=F now"]),
        ("A title\n\nFirst line\nsecond line.", ["A title", "First line second line."]),
        ("One\r\n \t\r\nTwo\r\nthree", ["One", "Two three"]),
        (" \n\n \n", []),
        ("", []),
    ],
)
def test_sentences__end_where_a_reader_would_end_them(text: str, expected: list[str]) -> None:
    assert list(sentences(text)) == expected


def test_sentences__lose_nothing_but_white_space() -> None:
    generator = random.Random(0)
    for _ in range(300):
        text = "".join(generator.choices('aB1.!?… \n"”)_é', k=generator.randint(0, 80)))
        found = list(sentences(text))
        assert "".join("".join(found).split()) == "".join(text.split())
        assert all(sentence and sentence == " ".join(sentence.split()) for sentence in found)


@pytest.mark.parametrize("text", ["." * 400_000, '. "' * 100_000, "a" + "\n" * 400_000 + "b"])
def test_sentences__of_hostile_text_take_no_longer_than_their_length(text: str) -> None:
    begun = time.process_time()
    list(sentences(text))
    assert time.process_time() - begun < 2  # with backtracking: hours


def test_paragraphs__are_parted_by_blank_lines_alone() -> None:
    assert list(paragraphs("\n\na  b\nc\n \n\t\n d\n\n")) == ["a b c", "d"]


@pytest.mark.parametrize("text", ["", "a", "a\n", "\n\n", "a\nb\r\n\nc", "a\u2028b\x0bc\n"])
def test_lines__make_the_text_again(text: str) -> None:
    found = list(lines(text))
    assert "".join(found) == text
    assert [line.count("\n") for line in found[:-1]] == [1] * (len(found) - 1)


def test_pieces__make_the_text_again_and_are_cut_before_spaces() -> None:
    for text in ("x", "word " * 40_000, "w" * 200_000, " " + "w" * PIECE):
        found = list(pieces(text))
        assert "".join(found) == text
        assert max(map(len, found)) <= PIECE
    assert all(piece.startswith(" ") for piece in list(pieces("word " * 40_000))[1:])
