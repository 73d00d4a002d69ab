"""What settings have to say against values that came from elsewhere."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError


def complaints(error: ValidationError) -> str:
    """All of them in one line, each with the setting's name, and its value where that is short."""
    said = "; ".join(
        _place(".".join(map(str, one["loc"])), one["input"]) + one["msg"]
        for one in error.errors(include_url=False)
    )
    return said.replace("Value error, ", "")


def _place(name: str, value: Any) -> str:
    if not name:
        return ""
    return f"{name}: " if isinstance(value, dict) else f"{name} is {value!r}: "
