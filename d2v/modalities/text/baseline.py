"""Features of a text that need no training: which words it has.

Letters: B batch, T tokens, N texts, F tokens that are counted.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

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
        Batch -> (B, F) float32; zero for a text of unknown tokens alone.
    """
    texts_with = torch.zeros(num_tokens, dtype=torch.int64)
    num_texts = 0
    for batch in train:
        num_texts += len(batch)
        texts_with += (_counts(batch.inputs, batch.padding, num_tokens) > 0).sum(0).cpu()
    texts_with[list(special_ids)] = -1  # behind all others, those that no text has included
    num_counted = min(num_counted, num_tokens - len(special_ids))
    # Stable, so that ties always fall the same way: to the lower id.
    counted = texts_with.argsort(descending=True, stable=True)[:num_counted].sort().values
    rarity = 1 + ((1 + num_texts) / (1 + texts_with[counted].double())).log().float()
    column = torch.full((num_tokens,), num_counted)  # the last one, for what is not counted
    column[counted] = torch.arange(num_counted)

    def features(batch: Batch) -> Tensor:
        columns = column.to(batch.inputs.device)[batch.inputs]
        counts = _counts(columns, batch.padding, num_counted + 1)[:, :-1]
        weighted = torch.where(counts > 0, 1 + counts.clamp_min(1).log(), 0)
        return F.normalize(weighted * rarity.to(counts.device), dim=1)

    return features


def _counts(numbers: Tensor, padding: Tensor | None, width: int) -> Tensor:
    """How often each row has each number below `width`: (B, T) int64 -> (B, width) float32."""
    ones = torch.ones(numbers.shape, device=numbers.device)
    if padding is not None:
        ones = ones.masked_fill(padding, 0)
    return ones.new_zeros(len(numbers), width).scatter_add_(1, numbers, ones)
