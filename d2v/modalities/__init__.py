"""The modalities: one folder each, listed in one table."""
