"""Whether a checkpoint belongs to the architecture at hand."""

from collections.abc import Mapping
from typing import Any

from d2v.engine.checkpoint import Checkpoint
from d2v.errors import UsageError


def check_identity(checkpoint: Checkpoint, identity: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another architecture.

    Args:
        checkpoint: its state carries the settings that made it.
        identity: dotted setting -> value of the present recipe.

    Raises:
        UsageError: names every setting that differs.
    """
    saved = checkpoint.state.get("identity", {})
    differing = [
        f"{key} is {saved.get(key)!r} in the checkpoint and {identity.get(key)!r} in the recipe"
        for key in sorted({*saved, *identity})
        if saved.get(key) != identity.get(key)
    ]
    if differing:
        raise UsageError(
            f"The checkpoint {checkpoint.path} is of another architecture: " + "; ".join(differing),
            remedy="Use the checkpoint's settings, another checkpoint, or --fresh.",
        )
