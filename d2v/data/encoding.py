"""Raw items to stored samples, in this process or in several, always in the order given.

The worker processes import this module and the encoder's, so it stays light.
"""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import torch

from d2v.data.numbers import encode_numbered
from d2v.errors import BadSampleError, D2VError
from d2v.samples import SourceItem, StoredSample

Encode = Callable[[SourceItem], list[StoredSample]]
Numbered = tuple[int, SourceItem]

WINDOW_PER_WORKER = 4
"""Items under way for each worker: enough to keep it busy, few enough to keep memory flat."""

CHUNK = 1 << 20
"""Bytes hashed at a time."""

UNREADABLE = frozenset(
    (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EIO, errno.ELOOP)
)
"""Errors that are one item's fault. Others (memory, open files) would repeat for every item."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What became of an item: its samples and the hash of its raw bytes, or a reason."""

    samples: list[StoredSample] | None = None
    sha256: bytes = b""
    reason: str = ""


Work = Callable[[Iterable[Numbered]], Iterator[tuple[int, SourceItem, Encoded]]]


@contextmanager
def encoders(encode: Encode, workers: int) -> Iterator[Work]:
    """A function that encodes a stream of items, results in the order of the items.

    Args:
        encode: the modality's encoder; picklable where `workers` is above 0.
        workers: processes; 0 encodes in this one.
    """
    if workers == 0:
        yield partial(_in_this_process, encode)
        return
    context = multiprocessing.get_context("forkserver")  # fork() is unsafe beside torch's threads
    context.set_forkserver_preload([_module_of(encode)])
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)
    try:
        yield partial(_in_window, pool, encode, workers * WINDOW_PER_WORKER)
    except BrokenProcessPool as error:
        raise D2VError(
            "An encoder process died, most likely for want of memory",
            remedy=f"Start the same command with fewer workers than {workers}; it continues.",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def encode_item(encode: Encode, item: SourceItem) -> Encoded:
    """Encode one item and hash its raw bytes; a bad item becomes a reason."""
    if item.problem is not None:
        return Encoded(reason=item.problem)
    try:
        samples = encode_numbered(encode, item)
        # Hashed second: the encoder turns away what is no sample before gigabytes are read.
        return Encoded(samples=samples, sha256=_sha256(item))
    except BadSampleError as error:
        return Encoded(reason=str(error))
    except OSError as error:
        if error.errno not in UNREADABLE:
            raise
        return Encoded(reason=f"cannot be read: {os.strerror(error.errno or 0)}")


def _in_this_process(
    encode: Encode, items: Iterable[Numbered]
) -> Iterator[tuple[int, SourceItem, Encoded]]:
    for number, item in items:
        yield number, item, encode_item(encode, item)


def _in_window(
    pool: ProcessPoolExecutor, encode: Encode, window: int, items: Iterable[Numbered]
) -> Iterator[tuple[int, SourceItem, Encoded]]:
    under_way: deque[tuple[int, SourceItem, Future[Encoded]]] = deque()
    for number, item in items:
        under_way.append((number, item, pool.submit(encode_item, encode, item)))
        if len(under_way) == window:
            number, item, future = under_way.popleft()
            yield number, item, future.result()
    while under_way:
        number, item, future = under_way.popleft()
        yield number, item, future.result()


def _sha256(item: SourceItem) -> bytes:
    """Of what `item.read()` gives, and of the part where items share these bytes."""
    if item.content is not None:
        digest = hashlib.sha256(item.content).digest()
    else:
        assert item.path is not None
        state = item.path.stat()
        place = (item.path, item.offset, item.num_bytes, state.st_size, state.st_mtime_ns)
        # A long recording is not hashed again for each of its many parts.
        digest = _shared_sha256(*place) if item.part else _slice_sha256(*place[:3])
    if item.part:
        digest = hashlib.sha256(digest + item.part.encode("utf-8", "surrogatepass")).digest()
    return digest


def _slice_sha256(path: Path, offset: int, num_bytes: int | None) -> bytes:
    sha256, left = hashlib.sha256(), num_bytes
    with path.open("rb") as file:
        file.seek(offset)
        while chunk := file.read(CHUNK if left is None else min(CHUNK, left)):
            sha256.update(chunk)
            left = None if left is None else left - len(chunk)
    return sha256.digest()


@lru_cache(maxsize=16)
def _shared_sha256(
    path: Path, offset: int, num_bytes: int | None, size: int, changed: int
) -> bytes:
    """The same, remembered for a file as it was (size in bytes, time of change in ns)."""
    return _slice_sha256(path, offset, num_bytes)


def _module_of(encode: Encode) -> str:
    function = encode.func if isinstance(encode, partial) else encode
    return str(getattr(function, "__module__", __name__))


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    torch.set_num_threads(1)  # one sample is too small to share, and the other workers are busy
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed cannot tell its workers; without this they would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
