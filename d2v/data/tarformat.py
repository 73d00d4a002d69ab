"""What a shard's tar headers hold. Writer and checker agree on it here."""

import tarfile

BLOCK = 512
"""Bytes of a member's header; content is padded to a multiple of it."""
OWNER = "d2v"
MODE = 0o444
MTIME = 0


def member_bytes(size: int) -> int:
    """Bytes that a member of `size` bytes takes in a tar: header, content, padding."""
    return BLOCK + -(-size // BLOCK) * BLOCK


def header(name: str, size: int) -> bytes:
    """The header block of a member, byte for byte as it is written."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, MODE, MTIME
    info.uname = info.gname = OWNER
    return info.tobuf(tarfile.USTAR_FORMAT)
