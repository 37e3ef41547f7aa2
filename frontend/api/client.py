"""The client's end of an HTTP connection: has it gone, and what is still on its way from it?

gunicorn hands the socket on in the WSGI environment. Under another server (Flask's test client)
there is none; then a client never counts as gone before a write fails.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent

STALL_S = 20.0
"""Longest silence of a client that is to send a body, or to take what is sent to it.

The system says that there is room for more once a third of the buffer is: so a client that is a
buffer behind and takes less than 1 kB a second counts as silent.
"""

LINGER_S = 2.0
LINGER_BYTES = 256 * 2**20

SEND_BUFFER_BYTES = 32 * 2**10
"""What the system keeps for a client that reads slowly (Linux doubles it); by itself it lets the
buffer of each connection grow to megabytes."""

_READABLE = 1
"""libev's flag."""


def bound(connection: socket.socket) -> None:
    """Bound what a connection may hold unsent, and how long it may be silent (Linux).

    Without an answer to what was sent, or with no room for more at the other end, it breaks after
    `STALL_S`: so a client whose machine or network is gone is noticed like one that has left.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT") and connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * STALL_S))


class ClientGone(Exception):
    """The client has closed its connection; nobody reads the answer any more."""


class Client:
    """The socket of the client that sent the current request."""

    def __init__(self, environ: dict[str, Any]) -> None:
        """Take the socket from a WSGI environment, and bound how long it may stall."""
        self._socket: socket.socket | None = environ.get("gunicorn.socket")
        self._is_quiet = False
        if self._socket is not None:
            self._socket.settimeout(STALL_S)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Let the event loop watch the socket meanwhile, so that `is_gone` need not ask it."""
        if self._socket is None:
            yield
            return
        self._is_quiet = True
        watcher = gevent.get_hub().loop.io(self._socket.fileno(), _READABLE)

        def notice() -> None:
            self._is_quiet = False
            watcher.stop()

        watcher.start(notice)
        try:
            yield
        finally:
            self._is_quiet = False
            watcher.stop()
            watcher.close()

    @contextmanager
    def deadline(self, seconds: float) -> Iterator[None]:
        """Have a read that still waits after so long raise TimeoutError.

        The socket's own limit begins anew with each byte, and the server reads until it has all
        that it was asked for: a client that trickles would hold it for hours.
        """
        if self._socket is None:
            yield
            return
        with gevent.Timeout(seconds, TimeoutError()):
            yield

    def is_gone(self) -> bool:
        """Whether the client has closed the connection; does not block."""
        if self._socket is None or self._is_quiet:
            return False
        self._socket.settimeout(0.0)
        try:
            return self._socket.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self._socket.settimeout(STALL_S)

    def drain(self) -> None:
        """Take what a refused client still sends, for a moment, so that it can read the refusal.

        Closing at once would make the system reset the connection and discard the reply.
        """
        if self._socket is None:
            return
        deadline, left = time.monotonic() + LINGER_S, LINGER_BYTES
        try:
            self._socket.shutdown(socket.SHUT_WR)
            while left > 0 and (remaining_s := deadline - time.monotonic()) > 0:
                self._socket.settimeout(remaining_s)
                if not (data := self._socket.recv(65536)):
                    return
                left -= len(data)
        except OSError:
            return
