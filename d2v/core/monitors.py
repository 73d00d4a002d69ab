"""Numbers that show a collapse while it happens. None of them carries a gradient.

Letters: B batch, T tokens, D width, N rows.
"""

import torch
from torch import Tensor

from d2v.types import Guard, Mask


@torch.no_grad()
def mean_std(x: Tensor) -> Tensor:
    """Standard deviation over rows, averaged over channels.

    Args:
        x: (N, D) float.

    Returns:
        Scalar: mean over channels of sqrt(unbiased variance + 1e-6); reference section 1.4. NaN
        for a single row.
    """
    if len(x) < 2:
        return x.new_full((), torch.nan, dtype=torch.float32)
    return (x.float().var(0) + 1e-6).sqrt().mean()


@torch.no_grad()
def spread_across_samples(x: Tensor, keep: Tensor | None = None) -> Tensor:
    """Standard deviation across samples at the same position, averaged over positions and channels.

    A model that answers by position alone keeps a healthy plain deviation (instance-normalised
    targets vary over positions by construction) while this one goes to zero.

    Args:
        x: (B, T, D) float.
        keep: (B, T) bool, True where `x` counts; None for everywhere.

    Returns:
        Scalar; positions that fewer than two samples share are left out. NaN where there is none.
    """
    x = x.float()
    keep = torch.ones(x.shape[:2], device=x.device) if keep is None else keep.float()
    weight = keep.unsqueeze(-1)  # (B, T, 1)
    count = weight.sum(0)  # (T, 1)
    mean = (x * weight).sum(0) / count.clamp_min(1)  # (T, D)
    squares = ((x - mean).square() * weight).sum(0)
    variance = squares / (count - 1).clamp_min(1)
    shared = (count > 1).float()  # (T, 1)
    deviation = ((variance + 1e-12).sqrt() * shared).sum()
    return deviation / (shared.sum() * x.shape[-1])


@torch.no_grad()
def effective_rank(x: Tensor, *, max_rows: int = 2048) -> Tensor:
    """exp(entropy of the normalised singular values) of the centred rows: 1..D.

    Args:
        x: (N, D) float; the first `max_rows` rows are used.
        max_rows: bound on the work.

    Returns:
        Scalar; NaN where a row is not finite.
    """
    x = x[:max_rows].double()  # squaring below would leave noise of 3e-4 a channel in float32
    x = x - x.mean(0)
    gram = x.T @ x
    finite = gram.isfinite().all()
    eigenvalues = torch.linalg.eigvalsh(gram.where(finite, 0)).clamp_min(0)  # NaN would raise
    singular = eigenvalues.sqrt()
    share = singular / singular.sum().clamp_min(1e-12)
    return torch.exp(-(share * (share + 1e-12).log()).sum()).where(finite, torch.nan)


@torch.no_grad()
def regression_monitors(
    seen: Tensor, target: Tensor, prediction: Tensor, mask: Mask, padding: Tensor | None = None
) -> dict[str, Tensor]:
    """Every monitor of a masked regression; objectives of this kind share them.

    Args:
        seen: (B, T, D) tokens of the unmasked input as the frontend made them.
        target: (M, D) at the masked places.
        prediction: (M, D) at the masked places.
        mask: the masked places, of the samples or of several views of each.
        padding: (B, T) bool, True where there is no data; None for nowhere.

    Returns:
        name -> scalar. `frontend_spread` is relative to the tokens' root mean square.
    """

    def spread(rows: Tensor) -> Tensor:
        # Views of one sample lie behind each other: they are alike, and no evidence of variety.
        shape = (len(seen), -1, rows.shape[1])
        placed = rows.new_zeros(mask.predict.numel(), rows.shape[1], dtype=torch.float32)
        placed[mask.positions] = rows.float()
        return spread_across_samples(placed.view(shape), mask.predict.reshape(shape[:2]))

    # The rank is that of the first rows: every row of every view would leave a few samples in it.
    views = len(mask.predict) // len(seen)
    keep = None if padding is None else ~padding
    power = seen.float().square().mean(-1)  # (B, T)
    mean = power.mean() if keep is None else (power * keep).sum() / keep.sum().clamp_min(1)
    scale = mean.sqrt().clamp_min(1e-12)
    return {
        "target_std": mean_std(target),
        "prediction_std": mean_std(prediction),
        "target_spread": spread(target),
        "prediction_spread": spread(prediction),
        "frontend_spread": spread_across_samples(seen, keep) / scale,
        "target_rank": effective_rank(target[::views]),
        "prediction_rank": effective_rank(prediction[::views]),
    }


def collapse_guards() -> list[Guard]:
    """What must stay above which floor (reference section 1.4, and the spread by position)."""
    slower = "Lower the learning rate, lengthen the warm-up, or raise tau."
    shared = "All samples look alike to it: predictions depend on position alone."
    return [
        Guard(monitor="target_std", minimum=0.1, cause="Targets are nearly constant.",
              remedy=slower + " Check that target_norm is not none."),
        Guard(monitor="prediction_std", minimum=0.01, cause="Predictions are nearly constant.",
              remedy=slower),
        Guard(monitor="target_spread", minimum=0.03, cause=shared, remedy=slower),
        Guard(monitor="frontend_spread", minimum=0.1,
              cause="The frontend maps all samples to nearly the same tokens.",
              remedy="Set pretrain.optimizer.frontend_scale=0.1, or less. " + slower),
        Guard(monitor="target_rank", minimum=2.0, cause="Targets lie on a line.",
              remedy=slower),
    ]  # fmt: skip
