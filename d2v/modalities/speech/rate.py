"""The one sampling rate that everything stored and computed has."""

RATE_HZ = 16_000
"""Samples a second (reference section 2.2)."""
