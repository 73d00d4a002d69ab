"""JSON that lies beside the weights of other libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from d2v.errors import UsageError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, {} where there is no such file.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}", expected="a JSON object", remedy="Copy it again."
        ) from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds {type(content).__name__}", expected="a JSON object")
    return content
