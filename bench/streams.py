"""Many HTTP streams from one cheap client process: raw sockets and one selector.

A Python HTTP client costs more per request than the server under test, and would be what is
measured. This one only counts `[DONE]` marks and notes when the first text came.
"""

from __future__ import annotations

import json
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

TEXT = b'"delta":{"content":'
DONE = b"data: [DONE]"


@dataclass
class Stream:
    """One connection, asking again as soon as an answer is complete."""

    sock: socket.socket
    began: float = 0.0
    first: float | None = None
    tail: bytes = b""


@dataclass
class Load:
    """`parallel` streams against one server until `stop` says so."""

    address: str
    body: dict[str, object]
    parallel: int
    firsts_s: list[float] = field(default_factory=list)
    done: int = 0

    def run(self, stop: Callable[[Load], bool]) -> float:
        """Run the load; return the seconds it took."""
        parts = urlsplit(self.address)
        payload = json.dumps(self.body).encode()
        request = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
        ).encode() + payload
        selector = selectors.DefaultSelector()
        begin = time.perf_counter()
        for _ in range(self.parallel):
            stream = Stream(socket.create_connection((parts.hostname, parts.port)))
            selector.register(stream.sock, selectors.EVENT_READ, stream)
            self._ask(stream, request)
        while not stop(self):
            for key, _ in selector.select(timeout=0.1):
                self._read(key.data, request)
        elapsed = time.perf_counter() - begin
        for key in list(selector.get_map().values()):
            key.data.sock.close()
        return elapsed

    def _ask(self, stream: Stream, request: bytes) -> None:
        stream.began, stream.first, stream.tail = time.perf_counter(), None, b""
        stream.sock.sendall(request)

    def _read(self, stream: Stream, request: bytes) -> None:
        data = stream.sock.recv(65536)
        if not data:
            raise ConnectionError(f"the server closed a stream after {stream.tail!r}")
        window = stream.tail + data
        if stream.first is None and TEXT in window:
            stream.first = time.perf_counter() - stream.began
            self.firsts_s.append(stream.first)
        if DONE in window:
            self.done += 1
            self._ask(stream, request)
        else:
            stream.tail = window[-64:]
