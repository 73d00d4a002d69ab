"""Whether a checkpoint belongs to the architecture at hand."""

from collections.abc import Mapping
from typing import Any

from d2v.engine.checkpoint import Checkpoint
from d2v.errors import UsageError


def check_identity(
    checkpoint: Checkpoint, identity: Mapping[str, Any], defaults: Mapping[str, Any]
) -> None:
    """Refuse a checkpoint of another architecture.

    Args:
        checkpoint: its state carries the settings that made it.
        identity: dotted setting -> value of the present recipe.
        defaults: the same of a recipe that sets nothing. A setting that the checkpoint does not
            name is newer than it, and had no other value then.

    Raises:
        UsageError: names every setting that differs.
    """
    saved = checkpoint.state.get("identity", {})
    both = {
        key: (saved.get(key, defaults.get(key)), identity.get(key))
        for key in sorted({*saved, *identity})
    }
    differing = [
        f"{key} is {before!r} in the checkpoint and {now!r} in the recipe"
        for key, (before, now) in both.items()
        if before != now
    ]
    if differing:
        raise UsageError(
            f"The checkpoint {checkpoint.path} is of another architecture: " + "; ".join(differing),
            remedy="Use the checkpoint's settings, another checkpoint, or --fresh.",
        )
