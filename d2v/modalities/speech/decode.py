"""Stored bytes of one recording -> (S,) float32 at 16 kHz."""

import io

import soundfile
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from d2v.errors import BadSampleError
from d2v.modalities.speech.rate import RATE_HZ

_FORMATS = ("flac", "wav")
_EPS = 1e-5


def read_recording(parts: dict[str, bytes]) -> Tensor:
    """Decode the recording among a sample's members.

    Args:
        parts: extension -> content.

    Returns:
        (S,) float32, full scale is 1.

    Raises:
        BadSampleError: no recording, damaged, or not one channel at 16 kHz.
    """
    content = next((parts[name] for name in _FORMATS if name in parts), None)
    if content is None:
        raise BadSampleError(f"no recording among its members ({', '.join(parts)})")
    try:
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, ValueError) as error:
        raise BadSampleError(f"damaged recording: {error}") from error
    if rate != RATE_HZ or samples.shape[1] != 1:
        raise BadSampleError(
            f"{samples.shape[1]} channels at {rate} Hz, expected 1 channel at {RATE_HZ} Hz"
        )
    return torch.from_numpy(samples[:, 0])


def standardise(samples: Tensor) -> Tensor:
    """Mean 0 and biased variance 1, with eps 1e-5. (S,) -> (S,); reference section 2.2, "Input"."""
    return F.layer_norm(samples, samples.shape, eps=_EPS)


def crop(samples: Tensor, limit: int | None, generator: Generator | None) -> Tensor:
    """At most `limit` samples, from where the generator says, else from the beginning."""
    if limit is None or len(samples) <= limit:
        return samples
    first = 0
    if generator is not None:
        first = int(torch.randint(len(samples) - limit + 1, (), generator=generator))
    return samples[first : first + limit]
