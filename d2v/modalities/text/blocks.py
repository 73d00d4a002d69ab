"""Token ids to samples of bounded size. Pure functions on lists of ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def whole_sentences(
    sentences: Iterable[list[int]], block_tokens: int, *, bos: int, eos: int
) -> Iterator[list[int]]:
    """As many whole sentences of one document as fit, block after block.

    `<s>` begins every block and `</s>` ends every sentence, as where fairseq's data has a sentence
    a line (reference section 2.3, "complete_doc"). A sentence longer than a block fills blocks of
    its own; what is left of it begins the next one (nothing where only `</s>` is left).

    Args:
        sentences: token ids, one list a sentence.
        block_tokens: longest block, `<s>` included.
        bos: id of `<s>`.
        eos: id of `</s>`.
    """
    block = [bos]
    for sentence in sentences:
        tokens = [*sentence, eos]
        if len(block) > 1 and len(block) + len(tokens) > block_tokens:
            yield block
            block = [bos]
        start = 0
        while len(tokens) - start > block_tokens - 1:  # the block is still empty
            yield block + tokens[start : start + block_tokens - 1]
            start += block_tokens - 1
        if start == 0 or tokens[start:] != [eos]:
            block += tokens[start:]
    if len(block) > 1:
        yield block


def contiguous(
    stretches: Iterable[list[int]], block_tokens: int, *, bos: int, eos: int
) -> Iterator[list[int]]:
    """One document's tokens in a row, `</s>` behind the last, cut wherever a block is full.

    `<s>` begins every block. A last block of `</s>` alone is left out.

    Args:
        stretches: token ids of the document, in any portions.
        block_tokens: longest block, `<s>` included.
        bos: id of `<s>`.
        eos: id of `</s>`.
    """
    block = [bos]
    for stretch in stretches:
        start = 0
        while len(block) + len(stretch) - start >= block_tokens:
            end = start + block_tokens - len(block)
            yield block + stretch[start:end]
            start, block = end, [bos]
        block += stretch[start:]
    if len(block) > 1:
        yield [*block, eos]


def single(texts: list[list[int]], block_tokens: int, *, bos: int, eos: int) -> list[int]:
    """One text, `<s> A </s>`, or a pair, `<s> A </s></s> B </s>`, as one sample.

    What is too long loses its end; of a pair the longer text first, until both are as long.

    Args:
        texts: token ids of one text or two.
        block_tokens: longest sample, special tokens included.
        bos: id of `<s>`.
        eos: id of `</s>`.
    """
    excess = sum(map(len, texts)) + 2 * len(texts) - block_tokens
    lengths = list(map(len, texts))
    if excess > 0 and len(texts) == 2:
        longer = int(lengths[1] > lengths[0])
        lengths[longer] -= min(excess, abs(lengths[0] - lengths[1]))
        excess -= len(texts[longer]) - lengths[longer]
        lengths[0] -= excess // 2
        lengths[1] -= excess - excess // 2
    elif excess > 0:
        lengths[0] -= excess
    sample = [bos]
    for number, (text, length) in enumerate(zip(texts, lengths, strict=True)):
        sample += [*([eos] if number else []), *text[:length], eos]
    return sample
