"""Loaded by the tests' fork server alone, first of all: so it outlives clients that are killed.

A client that dies between connecting and asking for a process ends Python 3.11's server with an
EOFError, and the next test then sees its own command "end" with 255. The server takes an aborted
connection calmly, so it is told that this is what happened.
"""

import errno
import socket
from multiprocessing import reduction

_receive = reduction.recvfds


def _receive_or_aborted(sock: socket.socket, size: int) -> list[int]:
    try:
        return _receive(sock, size)
    except EOFError:
        raise ConnectionAbortedError(errno.ECONNABORTED, "the client is gone") from None


vars(reduction)["recvfds"] = _receive_or_aborted
