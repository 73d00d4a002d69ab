"""What a probe reaches without training: mean and deviation of a log-mel spectrum over time.

Letters: B batch, S samples, T tokens, F frames, N bands.
"""

import torch
from torch import Tensor

from d2v.modalities.speech.geometry import Geometry
from d2v.modalities.speech.logmel import LogMel, LogMelSettings
from d2v.types import Batch


class LogMelStatistics:
    """(B, S) -> (B, 160): mean, then deviation, of 80 bands over the frames that hold data."""

    def __init__(self, geometry: Geometry) -> None:
        """`geometry`: of the tokens that the batch's padding counts."""
        self.geometry = geometry
        self.settings = LogMelSettings()

    def __call__(self, batch: Batch) -> Tensor:
        """Features of a batch; frames behind the last token with data are left out."""
        spectra: Tensor = LogMel(self.settings).to(batch.inputs.device)(batch.inputs)  # (B, F, N)
        num_samples = self.geometry.samples_read(
            self.geometry.real_tokens(batch.inputs, batch.padding)
        )
        ends = torch.arange(spectra.shape[1], device=spectra.device) * self.settings.hop
        ends = ends + self.settings.window
        keep = (ends <= num_samples.unsqueeze(1)).unsqueeze(2)  # (B, F, 1)
        count = keep.sum(1).clamp_min(1)
        mean = (spectra * keep).sum(1) / count
        deviations = (spectra - mean.unsqueeze(1)).square() * keep
        return torch.cat([mean, (deviations.sum(1) / count).sqrt()], dim=1)
