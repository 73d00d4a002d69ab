"""From what a CTC model says of each frame to words: greedy, or with a language model."""

from d2v.tasks.decoding.arpa import read_arpa, write_arpa
from d2v.tasks.decoding.base import BeamSettings, Decoded, Decoder, Word, greedy
from d2v.tasks.decoding.build import build_decoder
from d2v.tasks.decoding.ngram import NGram, estimate
from d2v.tasks.decoding.tuning import Tried, grid_around, tune

__all__ = [
    "BeamSettings",
    "Decoded",
    "Decoder",
    "NGram",
    "Tried",
    "Word",
    "build_decoder",
    "estimate",
    "greedy",
    "grid_around",
    "read_arpa",
    "tune",
    "write_arpa",
]
