"""How much of a split a subset takes, in words."""

from __future__ import annotations

import re
from typing import Annotated, NamedTuple

from pydantic import BeforeValidator

ALL = "all"
"""The name of the whole split."""
NAME = re.compile(r"[A-Za-z0-9_-]+")
"""What a subset may be called."""
PERCENT, A_CLASS = "%", "a class"
_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(%|a\s+class|[a-z]+)")


class Parsed(NamedTuple):
    """An amount in parts: a number above 0, and `%`, `a class` or a unit of length."""

    number: float
    unit: str


def parsed(amount: str) -> Parsed:
    """The parts of a checked amount."""
    number, unit = amount.split(maxsplit=1)
    return Parsed(float(number), unit)


def _normalised(value: object) -> str:
    match = _AMOUNT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is none of: '10 %', '20 a class', '600 seconds'")
    number, unit = float(match[1]), " ".join(match[2].split())
    if number <= 0 or (unit == PERCENT and number > 100):
        raise ValueError(f"{value!r} is not above 0{' and up to 100' * (unit == PERCENT)}")
    if unit == A_CLASS and not number.is_integer():
        raise ValueError(f"{value!r} is not a whole number of samples a class")
    return f"{number:.12g} {unit}"


Amount = Annotated[str, BeforeValidator(_normalised)]
"""`10 %` of the samples, `20 a class`, or `600 seconds` in whatever unit lengths are told in."""
