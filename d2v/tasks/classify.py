"""Classification with labels: encoder, mean over tokens, one linear layer, cross entropy."""

import torch
from torch import nn
from torch.nn import functional as F

from d2v.core.encoder import Encoder, initialise_linear
from d2v.core.features import mean_over_tokens
from d2v.types import Batch, Frontend, Guard, Loss, Mask, Objective


class Classify(Objective):
    """A classifier that the engine can train. Reads the whole input: masks are not used."""

    def __init__(self, frontend: Frontend, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        self.frontend, self.encoder = frontend, encoder
        self.head = nn.Linear(encoder.settings.dim, num_classes)

    @property
    def trains_all_always(self) -> bool:
        """No: the mask vector is never used."""
        return False

    def forward(self, batch: Batch, mask: Mask, *, monitor: bool = False) -> Loss:
        """Cross entropy summed over labelled samples."""
        assert batch.labels is not None
        tokens = self.frontend(self.frontend.features(batch), None, batch.padding)
        first = tokens.num_prefix
        padding = None if tokens.padding is None else tokens.padding[:, first:]
        pooled = mean_over_tokens(self.encoder(tokens).last[:, first:], padding)  # (B, D)
        logits = self.head(pooled).float()
        total = F.cross_entropy(logits, batch.labels, ignore_index=-1, reduction="sum")
        known = batch.labels >= 0
        monitors = {}
        if monitor:
            right = (logits.detach().argmax(1) == batch.labels) & known
            monitors = {"train_accuracy": right.sum() / known.sum().clamp_min(1)}
        return Loss(total=total, count=known.sum(), monitors=monitors)

    def after_update(self, step: int) -> dict[str, float]:
        """Nothing moves beside the weights."""
        return {}

    def guards(self) -> list[Guard]:
        """None: labels do not collapse."""
        return []

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights anew."""
        self.frontend.initialise(generator)
        self.encoder.initialise(generator)
        initialise_linear([self.head], self.encoder.settings, generator)
