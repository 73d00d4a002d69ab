"""One seed for each purpose, so that no draw depends on what was drawn before it."""

import hashlib
import struct

import torch


def seed_for(purpose: str, *numbers: int) -> int:
    """A 63-bit seed from a purpose and whole numbers, the same on every machine and version."""
    packed = purpose.encode() + struct.pack(f"<{len(numbers)}q", *numbers)
    digest = hashlib.blake2b(packed, digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator_for(purpose: str, *numbers: int) -> torch.Generator:
    """A fresh CPU generator with that seed."""
    return torch.Generator().manual_seed(seed_for(purpose, *numbers))
