"""Features of a text that need no training: which words it has.

Letters: B batch, T tokens, N texts, F tokens that are counted.
"""

import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from d2v.modalities.base import Features
from d2v.types import Batch


def tf_idf(
    train: Iterable[Batch], *, num_tokens: int, special_ids: Sequence[int], num_counted: int
) -> Features:
    """Term frequency times inverse document frequency, counted on the training texts.

    A text's entry for a token that it has n > 0 times is (1 + ln n) * (1 + ln((1 + N) / (1 + d))),
    where d of the N training texts have it; rows have length 1. These are scikit-learn's
    `TfidfVectorizer(sublinear_tf=True)` figures, over the model's own tokens instead of words.

    Args:
        train: the training split.
        num_tokens: of the tokenizer.
        special_ids: tokens that are not counted.
        num_counted: only so many tokens, those that most training texts have.

    Returns:
        Batch -> (B, F) float32, sparse (COO); zero for a text of unknown tokens alone.
    """
    texts_with = torch.zeros(num_tokens, dtype=torch.int64)
    num_texts = 0
    for batch in train:
        num_texts += len(batch)
        _, tokens, _ = _counts(batch, num_tokens)
        texts_with += tokens.cpu().bincount(minlength=num_tokens)
    texts_with[list(special_ids)] = -1  # behind all others, those that no text has included
    num_counted = min(num_counted, num_tokens - len(special_ids))
    # Stable, so that ties always fall the same way: to the lower id.
    counted = texts_with.argsort(descending=True, stable=True)[:num_counted].sort().values
    rarity = 1 + ((1 + num_texts) / (1 + texts_with[counted].double())).log().float()
    column_of = torch.full((num_tokens,), -1)
    column_of[counted] = torch.arange(num_counted)

    def features(batch: Batch) -> Tensor:
        rows, tokens, counts = _counts(batch, num_tokens)
        columns = column_of.to(tokens.device)[tokens]
        rows, columns, counts = (part[columns >= 0] for part in (rows, columns, counts))
        weights = (1 + counts.float().log()) * rarity.to(tokens.device)[columns]
        squared = weights.new_zeros(len(batch)).index_add_(0, rows, weights.square())
        places, shape = torch.stack([rows, columns]), (len(batch), num_counted)
        with warnings.catch_warnings():
            # torch 2.11 warns that nothing is checked, even where it is told to or not to.
            warnings.simplefilter("ignore", UserWarning)
            return torch.sparse_coo_tensor(
                places, weights / squared.sqrt()[rows], shape, is_coalesced=True,
                check_invariants=False,
            )  # fmt: skip

    return features


def _counts(batch: Batch, num_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which row has which token how often: three times (entries,) int64, by row, then token."""
    rows = torch.arange(len(batch), device=batch.inputs.device).unsqueeze(1)
    numbers = rows * num_tokens + batch.inputs  # (B, T), one for each pair of row and token
    if batch.padding is not None:
        numbers = numbers[~batch.padding]
    found, counts = numbers.unique(return_counts=True)
    return found // num_tokens, found % num_tokens, counts
