"""d2v: self-supervised learning with data2vec for images, speech and text."""

__version__ = "0.1.0"
