"""data2vec 2.0: the student encodes only what it sees; several masks share one teacher pass.

Letters: B batch, S masks a sample, N = S B views (those of one sample side by side), T tokens
(without prefix), V visible tokens of a view, D width, M masked tokens of all views.
Sections refer to reference section 4 (the paper: arXiv 2212.07525).
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from d2v.core.decoder import Decoder, DecoderSettings
from d2v.core.encoder import Encoder
from d2v.core.monitors import regression_monitors
from d2v.core.schedules import Horizon
from d2v.core.targets import TargetSettings, Total
from d2v.core.visible import keep_visible
from d2v.data2vec import Distillation
from d2v.types import Batch, Frontend, Loss, Mask


class Data2Vec2Settings(TargetSettings):
    """The objective's knobs: those of target and teacher, and what 2.0 adds."""

    name: Literal["data2vec2"]
    masks_per_sample: int = Field(8, ge=1)
    """Views of each sample that the student learns from, at the price of one teacher pass."""
    decoder: DecoderSettings = DecoderSettings()
    """Turns visible tokens into predictions for the others."""
    prefix_weight: float = Field(0.0, ge=0)
    """Weight of the loss that lets the prefix token predict the mean target, as the mean over
    views. Published: 0.01 a view of a device, which is 2.56 for the base model with its 256 views
    and 1.28 for larger ones with 128 (reference P5)."""
    prenet_depth: int = Field(0, ge=0)
    """First blocks of the encoder that never give targets."""


class Data2Vec2(Distillation):
    """Visible-only student, convolutional decoder, one teacher pass a sample."""

    def __init__(
        self,
        frontend: Frontend,
        encoder: Encoder,
        settings: Data2Vec2Settings,
        horizon: Horizon,
        total: Total | None = None,
    ) -> None:
        decoder = Decoder(settings.decoder, encoder.settings.dim, frontend.grid)
        super().__init__(frontend, encoder, decoder, settings, horizon, total)
        self.masks_per_sample, self.prefix_weight = (
            settings.masks_per_sample,
            settings.prefix_weight,
        )

    @property
    def trains_all_always(self) -> bool:
        """No: nothing stands at masked places, so that a mask vector is never used."""
        return False

    def forward(self, batch: Batch, mask: Mask | None, *, monitor: bool = False) -> Loss:
        """The loss of one micro-batch.

        Args:
            batch: examples, B of them.
            mask: of N views: where the student must predict, and what it sees.
            monitor: also compute the monitors that guards and logs read.

        Returns:
            Loss summed over masked tokens of all views, their number, and the monitors.
        """
        assert mask is not None
        features = self.frontend.features(batch)
        seen, targets = self.targets(batch, features)  # (B, T, D)            section 4.7, 4.8
        tokens = self.frontend.views(features, mask, batch.padding)  #        section 4.1
        student = self.encoder(keep_visible(tokens, mask)).last  # (N, P + V, D)
        first, padding = tokens.num_prefix, batch.padding
        if padding is not None:
            padding = padding.repeat_interleave(self.masks_per_sample, dim=0)
        decoded = self.head(student[:, first:], mask, padding)  # (N, T, D)   section 4.6
        prediction = decoded.flatten(0, 1).index_select(0, mask.positions)  # (M, D)
        target = targets.flatten(0, 1).index_select(0, self._place_in_sample(mask))
        total = self.regression(prediction, target)
        count = mask.predict.sum()
        if self.prefix_weight > 0 and first > 0:
            total = total + self._prefix_loss(student[:, 0], targets, mask)
        monitors = {}
        if monitor:
            monitors = regression_monitors(seen, target, prediction, mask, batch.padding)
        return Loss(total=total, count=count, monitors=monitors)

    def _place_in_sample(self, mask: Mask) -> Tensor:
        """(M,) where the target of each masked token of the views stands among B T targets."""
        num_tokens = mask.predict.shape[1]
        sample = mask.positions // (num_tokens * self.masks_per_sample)
        return sample * num_tokens + mask.positions % num_tokens

    def _prefix_loss(self, prefix: Tensor, targets: Tensor, mask: Mask) -> Tensor:
        """Weighted sum over views of the prefix token's loss against the mean target.

        A view counts as often as it has masked tokens. The engine divides by the number of these,
        which leaves a mean over views, however a batch is cut over devices (reference P5).
        """
        mean = targets.mean(1).repeat_interleave(self.masks_per_sample, dim=0)  # (N, D)
        counts = mask.predict.sum(1)
        return self.prefix_weight * self.regression(prefix, mean, counts)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw the student's weights; the teacher starts as its copy."""
        self.frontend.initialise(generator)
        self.encoder.initialise(generator)
        assert isinstance(self.head, Decoder)
        self.head.initialise(generator)
        vector = getattr(self.frontend, "mask_token", None)
        if isinstance(vector, Tensor):  # never trained here; fine-tuning may mask with it (4.10)
            vector.zero_()
        self.copy_student_to_teacher()
