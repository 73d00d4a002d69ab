"""Pictures for a person's eye."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from d2v.modalities.speech.geometry import Geometry
from d2v.modalities.speech.logmel import LogMel, LogMelSettings
from d2v.modalities.speech.rate import RATE_HZ
from d2v.types import Batch, Mask

_SHOWN = 6


def draw_masks(batch: Batch, mask: Mask, geometry: Geometry, path: Path) -> None:
    """Spectrograms one above the other with the masked stretches tinted, as a PNG.

    Args:
        batch: inputs (B, S) at 16 kHz.
        mask: predict (B, T).
        geometry: of the tokens.
        path: of the PNG.
    """
    settings = LogMelSettings()
    inputs = batch.inputs[:_SHOWN].cpu().float()
    spectra = LogMel(settings)(inputs)  # (B, F, N)
    counts = geometry.real_tokens(inputs, None if batch.padding is None else batch.padding.cpu())
    figure = Figure(figsize=(10, 1.6 * len(inputs) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    for row, (spectrum, count) in enumerate(zip(spectra, counts, strict=False), start=1):
        num_samples = int(geometry.samples_read(count))
        seconds = num_samples / RATE_HZ
        axes = figure.add_subplot(len(inputs), 1, row)
        seen = spectrum[: max(1, settings.frame_geometry.num_tokens(num_samples))]
        axes.imshow(seen.T.numpy(), origin="lower", aspect="auto", cmap="gray",
                    extent=(0, seconds, 0, settings.num_bands))  # fmt: skip
        for first, last in _stretches(mask.predict[row - 1].tolist()):
            places = (first * geometry.stride, last * geometry.stride)
            axes.axvspan(*(place / RATE_HZ for place in places), color="tab:orange", alpha=0.45)
        axes.set_xlim(0, seconds)
        axes.set_yticks([])
        axes.tick_params(labelsize=8)
    axes.set_xlabel("seconds; orange: hidden from the student", fontsize=8)
    figure.savefig(path, dpi=100)


def _stretches(hidden: list[bool]) -> list[tuple[int, int]]:
    """Where stretches of True begin, and where they have ended."""
    edges = [
        place
        for place, (before, after) in enumerate(
            zip([False, *hidden], [*hidden, False], strict=True)
        )
        if before != after
    ]
    return list(zip(edges[::2], edges[1::2], strict=True))
