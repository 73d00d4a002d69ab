"""Blocks against slow twins, written from reference section 2.3, on ragged sizes."""

import random

import pytest

from d2v.modalities.text.blocks import contiguous, single, whole_sentences

BOS, EOS = 0, 2


def document(generator: random.Random, longest: int) -> list[list[int]]:
    count = generator.randint(0, 12)
    return [
        [generator.randint(4, 99) for _ in range(generator.randint(1, longest))]
        for _ in range(count)
    ]


def slow_sentences(sentences: list[list[int]], block_tokens: int) -> list[list[int]]:
    """Token by token: a sentence goes where it fits whole, else to a new block, else is cut."""
    blocks: list[list[int]] = []
    room = 0
    for sentence in sentences:
        ended = [*sentence, EOS]
        if len(ended) > room:
            room = 0
        for number, token in enumerate(ended):
            if room == 0:
                if number > 0 and ended[number:] == [EOS]:
                    break
                blocks.append([BOS])
                room = block_tokens - 1
            blocks[-1].append(token)
            room -= 1
    return blocks


def slow_contiguous(stretches: list[list[int]], block_tokens: int) -> list[list[int]]:
    row = [token for stretch in stretches for token in stretch]
    blocks = [
        [BOS, *row[start : start + block_tokens - 1]]
        for start in range(0, len(row), block_tokens - 1)
    ]
    if blocks and len(blocks[-1]) < block_tokens:
        blocks[-1].append(EOS)
    return blocks


@pytest.mark.parametrize("block_tokens", [8, 9, 13, 64])
@pytest.mark.parametrize("longest", [3, 20, 90])
def test_whole_sentences__equal_the_slow_twin(block_tokens: int, longest: int) -> None:
    generator = random.Random(block_tokens * longest)
    for _ in range(200):
        sentences = document(generator, longest)
        made = list(whole_sentences(sentences, block_tokens, bos=BOS, eos=EOS))
        assert made == slow_sentences(sentences, block_tokens)


@pytest.mark.parametrize("block_tokens", [8, 9, 13, 64])
@pytest.mark.parametrize("longest", [3, 20, 90])
def test_contiguous__equals_the_slow_twin(block_tokens: int, longest: int) -> None:
    generator = random.Random(block_tokens + longest)
    for _ in range(200):
        stretches = document(generator, longest)
        made = list(contiguous(stretches, block_tokens, bos=BOS, eos=EOS))
        assert made == slow_contiguous(stretches, block_tokens)


def test_whole_sentences__keep_every_word_in_order_and_never_pass_the_limit() -> None:
    generator = random.Random(1)
    for _ in range(300):
        sentences = document(generator, 40)
        made = list(whole_sentences(sentences, 16, bos=BOS, eos=EOS))
        words = [token for block in made for token in block if token not in (BOS, EOS)]
        assert words == [token for sentence in sentences for token in sentence]
        assert all(3 <= len(block) <= 16 and block[0] == BOS for block in made)


def test_whole_sentences__cut_only_a_sentence_longer_than_a_block() -> None:
    made = list(whole_sentences([[5] * 3, [6] * 3, [7] * 3], 9, bos=BOS, eos=EOS))
    assert made == [[0, 5, 5, 5, 2, 6, 6, 6, 2], [0, 7, 7, 7, 2]]
    made = list(whole_sentences([[5], [6] * 10, [7]], 8, bos=BOS, eos=EOS))
    assert made == [[0, 5, 2], [0, *[6] * 7], [0, 6, 6, 6, 2, 7, 2]]
    made = list(whole_sentences([[6] * 7, [7]], 8, bos=BOS, eos=EOS))
    assert made == [[0, *[6] * 7], [0, 7, 2]]


def test_single__has_the_form_of_fairseq_pairs() -> None:
    assert single([[5, 6]], 8, bos=BOS, eos=EOS) == [0, 5, 6, 2]
    assert single([[5, 6], [7]], 8, bos=BOS, eos=EOS) == [0, 5, 6, 2, 2, 7, 2]


def test_single__cuts_the_longer_text_first() -> None:
    generator = random.Random(2)
    for _ in range(500):
        texts = [[5] * generator.randint(1, 30), [6] * generator.randint(1, 30)]
        lengths = [len(text) for text in texts]
        while sum(lengths) + 4 > 20:  # one token after the other; of equal ones the second
            lengths[int(lengths[1] >= lengths[0])] -= 1
        made = single(texts, 20, bos=BOS, eos=EOS)
        assert made == [0, *[5] * lengths[0], 2, 2, *[6] * lengths[1], 2]


def test_single__cuts_one_text_at_its_end() -> None:
    assert single([list(range(5, 50))], 8, bos=BOS, eos=EOS) == [0, 5, 6, 7, 8, 9, 10, 2]
